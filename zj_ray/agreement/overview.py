"""An `Agreement` as tables for the terminal. An undefined figure is shown as –; the line below its table says why."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from zj_ray.agreement.drift import FEWEST
from zj_ray.agreement.measure import Agreement

UNDEFINED = "–"


def overview(agreement: Agreement) -> Group:
    """Tables of agreement overall and by aspect, two by two, over time, and of each annotator, where they have rows."""
    tables = (_alpha(agreement), _pairs(agreement), _drift(agreement), _annotators(agreement))
    return Group(*(table for table in tables if table.row_count))


def _alpha(agreement: Agreement) -> Table:
    simulated = " — SIMULATED annotators (rules + noise), not doctors" if agreement.simulated else ""
    overall = ("overall", _figure(agreement.alpha), _interval(agreement.ci95))
    by_aspect = [(aspect, _figure(of.alpha), _interval(of.ci95)) for aspect, of in agreement.by_aspect.items()]
    return _table(
        f"{agreement.annotators} annotators, {agreement.items} items{simulated}",
        ("ranks", "Krippendorff α (ordinal)", "95 % interval"),
        [overall, *by_aspect],
        why="no answer was ranked by two annotators, or all ranks are equal",
    )


def _pairs(agreement: Agreement) -> Table:
    return _table(
        "Two by two",
        ("annotators", "items", "Kendall τ-b"),
        [(f"{pair.first} · {pair.second}", str(pair.items), _figure(pair.tau_b)) for pair in agreement.pairs],
        why="on every item, one of the two gave all answers the same rank",
    )


def _drift(agreement: Agreement) -> Table:
    rows = []
    for name, drift in agreement.drift.items():
        course = " → ".join(_figure(window.tau_b) for window in drift.windows) or UNDEFINED
        rows.append((name, course, _figure(drift.change, "+.3f"), _interval(drift.ci95)))
    return _table(
        "Over time: τ-b with the consensus of the others",
        ("annotator", "first quarter → last", "change", "95 % interval"),
        rows,
        why=f"fewer than {FEWEST} rankings can be compared with the others', or all were saved at one moment",
    )


def _annotators(agreement: Agreement) -> Table:
    rows = []
    for name, quality in agreement.quality.items():
        gold = agreement.gold_accuracy[name]
        inferred = (_figure(quality.accuracy), str(quality.pairs), _figure(quality.weight))
        rows.append((name, *inferred, _figure(gold.accuracy), str(gold.pairs)))
    return _table(
        "Each annotator",
        ("annotator", "accuracy (Dawid–Skene)", "pairs", "weight", "gold accuracy", "gold pairs"),
        rows,
        why="no pair of answers was put in an order by two annotators; no gold item was ranked",
    )


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], why: str) -> Table:
    caption = f"{UNDEFINED} undefined: {why}" if any(UNDEFINED in row for row in rows) else None
    table = Table(*columns, title=title, title_justify="left", caption=caption, caption_justify="left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _figure(value: float | None, form: str = ".3f") -> str:
    return UNDEFINED if value is None else format(value, form)


def _interval(ends: tuple[float, float] | None) -> str:
    return UNDEFINED if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
