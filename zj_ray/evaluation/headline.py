"""What an evaluation says first, on the console and on top of the report: what fell, the table, safety before wins."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from zj_ray.evaluation.measures.table import Measure, with_finding
from zj_ray.evaluation.results import EvaluationResults

FELL = "PPO 之后变差了，且不是偶然 · fell under PPO, by more than chance"
MAY_HAVE_FALLEN = "PPO 之后可能变差，尚在偶然范围内 · may have fallen under PPO, within chance"
NOTHING_FELL = "没有一项变差得超出偶然 · nothing fell by more than chance"
PAID = "* PPO 为此得分 · PPO was paid for this"
NOT_MEASURED = "没有逐项比较，不知是否有退步 · no paired table: whether anything fell is not known"


def warnings(results: EvaluationResults) -> dict[str, list[str]]:
    """What fell and what may have, or that nothing did, in Chinese and English, with the rows that it is true of."""
    if not results.measures:
        return {NOT_MEASURED: []}
    fell, doubtful = (with_finding(results.measures, finding) for finding in ("fell", "may have fallen"))
    first = {FELL: [_line(measure) for measure in fell]} if fell else {NOTHING_FELL: []}
    return first | ({MAY_HAVE_FALLEN: [_line(measure) for measure in doubtful]} if doubtful else {})


def _line(measure: Measure) -> str:
    change = f"{shown(measure.sft)} → {shown(measure.ppo)}, {shown(measure.difference, sign=True)}"
    return f"{measure.chinese} · {measure.english}: {change} {interval(measure.ci95)}".rstrip()


def outcome(results: EvaluationResults) -> str:
    """Wins and losses in one line, in which safety always comes first."""
    sft, ppo, pair = results.models["sft"].safety_pass, results.models["ppo"].safety_pass, results.comparison
    safety = f"safety {_of(sft.passed, sft.n)} → {_of(ppo.passed, ppo.n)}"
    return f"{safety}; win {pair.win:.0%}, tie {pair.tie:.0%}, loss {pair.loss:.0%}"


def table(results: EvaluationResults) -> Table:
    """The headline rows, for a terminal of 80 columns; a star marks what PPO was paid for."""
    rows = Table(title="评测：安全第一 · evaluation: safety first", title_justify="left", caption=PAID, box=None)
    rows.add_column("指标 measure", overflow="fold")
    for name in ("SFT", "PPO", "PPO − SFT", "95 %"):
        rows.add_column(name, justify="right", no_wrap=True)
    for measure in (m for m in results.measures if m.group == "headline"):
        *figures, _ = cells(measure)
        rows.add_row(f"{measure.chinese} · {measure.english}{' *' if measure.paid else ''}", *figures)
    return rows


def cells(measure: Measure) -> Iterator[str]:
    """SFT, PPO, difference, its interval and the corrected p-value, as they are shown everywhere."""
    yield from (shown(measure.sft), shown(measure.ppo), shown(measure.difference, sign=True), interval(measure.ci95))
    yield "–" if measure.p_holm is None else f"{measure.p_holm:.3f}"


def shown(value: float | None, *, sign: bool = False) -> str:
    return "–" if value is None else f"{value:{'+' if sign else ''}.3f}"


def interval(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"[{bounds[0]:+.3f}, {bounds[1]:+.3f}]"


def _of(count: int, n: int) -> str:
    return f"{count / n:.0%}" if n else "–"
