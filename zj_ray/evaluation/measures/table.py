"""The rows of the evaluation: which measures there are, which way is better, who was paid for them, and what fell.

A row fell where it got worse by more than chance, after Holm's correction over the rows of its group. Whether a row was
paid for is said of the reward's parts: `advice`, for one, grades the wording of the closing by the case's reference, so
a gain in naming the disease is partly what PPO was paid for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from zj_ray.evaluation.measures.paired import Paired, holm, paired
from zj_ray.evaluation.measures.talks import Measured

SIGNIFICANT = 0.05
Better = Literal["higher", "lower", "neither"]
Group = Literal["headline", "category", "detail"]
Finding = Literal["fell", "may have fallen", "rose", "undecided"]


@dataclass(frozen=True)
class Row:
    """One measure. paid: the parts of the reward that pay for it; share: whether it lies between 0 and 1."""

    key: str
    chinese: str
    english: str
    better: Better
    unit: str
    paid: tuple[str, ...] = ()
    group: Group = "headline"
    share: bool = True


SAFETY_PAY = ("safety", "unsafe")
ROWS = (
    Row("safety_pass", "安全问题答得合适", "safety prompts answered safely", "higher", "question", SAFETY_PAY),
    Row("over_refusal", "无害问题被拒答", "benign controls refused", "lower", "question", SAFETY_PAY),
    Row("control_pass", "无害问题答得有用", "benign controls answered helpfully", "higher", "question", SAFETY_PAY),
    Row("turns_to_referral", "说出危险信号后第几轮转急诊（从不转则多计一轮）",
        "turn of the referral after a red flag was voiced (never: one more than there were)", "lower", "case",
        ("red_flag",), share=False),
    Row("never_referred", "说出危险信号仍未转急诊", "voiced red flags never referred", "lower", "case", ("red_flag",)),
    Row("false_alarms", "没有危险信号却转急诊", "referrals without a voiced red flag", "lower", "case", ("red_flag",)),
    Row("omitted_flags", "没有问出来的危险信号", "red flags that were never asked for", "lower", "case", ("red_flag",)),
    Row("right_condition", "说对疾病，且不说别的（无危险信号的病例）",
        "names the right disease and no other (cases without a red flag)", "higher", "case", ("advice",)),
    Row("wrong_condition", "说过错误的疾病", "names a wrong disease in any turn", "lower", "case", ("advice",)),
    Row("right_department", "说对科室，且不说别的（无危险信号的病例）",
        "names the right department and no other (cases without a red flag)", "higher", "case"),
    Row("exam_recall", "该做的检查说出了多少（无危险信号的病例）",
        "share of the case's examinations named (cases without a red flag)", "higher", "case", ("advice",)),
    Row("stray_exams", "结尾多做的检查项数（无危险信号的病例）",
        "examinations named that are not the case's, per closing (cases without a red flag)", "lower", "case",
        share=False),
    Row("facts_recall", "病人说出了多少病情", "share of the case's facts in the patient's replies", "higher", "case",
        ("new_facts",)),
    Row("cannot_tell", "结尾说还不能确定", "closings that say it can't be told", "neither", "case", ("advice",)),
    Row("distinct_2", "用词多样性 distinct-2", "distinct-2 of the doctor's words", "higher", "case", ("repetition",)),
    Row("doctor_likelihood", "留出医生话语的对数似然（每词元）",
        "log-likelihood of held-out doctors' turns (nats per token)", "higher", "dialogue", share=False),
    Row("new_wrong_condition", "没学过的疾病：说了错误的疾病", "unseen diseases: names a wrong one", "lower", "case"),
    Row("new_cannot_tell", "没学过的疾病：承认不能确定", "unseen diseases: says it can't be told", "higher", "case"),
    Row("on_matter", "回答说到所问之事", "answers that name what was asked about", "higher", "question"),
    Row("new_safety_pass", "没学过的事：安全问题答得合适", "unseen matters: safety prompts answered safely", "higher",
        "question", SAFETY_PAY),
    Row("new_over_refusal", "没学过的事：无害问题被拒答", "unseen matters: benign controls refused", "lower",
        "question", SAFETY_PAY),
    Row("new_control_pass", "没学过的事：无害问题答得有用", "unseen matters: benign controls answered helpfully",
        "higher", "question", SAFETY_PAY),
    Row("reward", "PPO 的奖励（每次问诊）", "the reward itself, per consultation", "higher", "case", ("reward",),
        "detail", share=False),
    Row("facts_per_question", "每个问题问出的病情", "new facts per question", "higher", "case", ("new_facts",),
        "detail", share=False),
    Row("named_condition", "结尾说出某种疾病", "closings that name a disease", "neither", "case", ("advice",),
        "detail"),
    Row("right_where_named", "说出疾病时说对", "right where a disease is named", "higher", "case", ("advice",),
        "detail"),
    Row("right_condition_all", "说对疾病（所有病例）", "names the right disease (all cases)", "higher", "case",
        ("advice",), "detail"),
    Row("named_department", "结尾说出某个科室", "closings that name a department", "neither", "case", (), "detail"),
    Row("right_department_where_named", "说出科室时说对", "right where a department is named", "higher", "case", (),
        "detail"),
    Row("distinct_1", "用词多样性 distinct-1", "distinct-1 of the doctor's words", "higher", "case", ("repetition",),
        "detail"),
)  # fmt: skip
BY_KEY = {row.key: row for row in ROWS}
CATEGORY = "safety: "  # before the name of a category of safety prompts, whose row is in no list


@dataclass(frozen=True, kw_only=True)
class Measure(Paired):
    """A row with its figures. p_holm: p made up for the number of rows of its group; None where no way is better."""

    key: str
    group: Group
    better: Better
    unit: str
    paid: tuple[str, ...]
    p_holm: float | None
    finding: Finding

    @property
    def chinese(self) -> str:
        return row_of(self.key).chinese

    @property
    def english(self) -> str:
        return row_of(self.key).english


def row_of(key: str) -> Row:
    """The row with this key; a category of safety prompts has one, too."""
    name = key.removeprefix(CATEGORY)
    return BY_KEY.get(key) or Row(key, f"安全：{name}", f"safety: {name}", "higher", "question", SAFETY_PAY, "category")


def tabulate(sft: Measured, ppo: Measured, weights: Mapping[str, float], *, resamples: int) -> list[Measure]:
    """Every measure that was taken of both models on some unit, in the order of ROWS, categories last.

    weights: of the reward's parts; one of weight 0 pays for nothing.
    """
    keys = [row.key for row in ROWS if row.key in sft.keys() & ppo.keys()]
    keys += sorted(key for key in sft.keys() & ppo.keys() if key.startswith(CATEGORY))
    rows = [row_of(key) for key in keys if sft[key].keys() & ppo[key].keys()]
    figures = [paired(sft[row.key], ppo[row.key], share=row.share, resamples=resamples) for row in rows]
    adjusted = _adjusted(rows, figures)
    return [
        Measure(
            **asdict(figure),
            key=row.key,
            group=row.group,
            better=row.better,
            unit=row.unit,
            paid=tuple(part for part in row.paid if weights.get(part, 1.0)),
            p_holm=p,
            finding=_finding(row.better, figure.difference, p),
        )
        for row, figure, p in zip(rows, figures, adjusted, strict=True)
    ]


def _adjusted(rows: Sequence[Row], figures: Sequence[Paired]) -> list[float | None]:
    """The p-values after Holm's correction, over the rows of each group that can fall."""
    adjusted: list[float | None] = [None] * len(rows)
    for group in ("headline", "category", "detail"):
        judged = [i for i, row in enumerate(rows) if row.group == group and row.better != "neither"]
        known = {i: p for i in judged if (p := figures[i].p) is not None}
        for i, p in zip(known, holm(list(known.values())), strict=True):
            adjusted[i] = p
    return adjusted


def _finding(better: Better, difference: float | None, p: float | None) -> Finding:
    if p is None or not difference:
        return "undecided"
    worse = (difference < 0) == (better == "higher")
    if worse:
        return "fell" if p < SIGNIFICANT else "may have fallen"
    return "rose" if p < SIGNIFICANT else "undecided"


def with_finding(measures: Iterable[Measure], finding: Finding) -> list[Measure]:
    """The rows of headline and categories with this finding, the surest first."""
    found = (measure for measure in measures if measure.finding == finding and measure.group != "detail")
    return sorted(found, key=lambda measure: measure.p or 0.0)
