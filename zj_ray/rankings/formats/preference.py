"""`preference` JSONL: a context, the better answer and the worse. An item of K answers becomes one row for each pair.

A row that is read is an item of two answers: the rows of one item are not put together again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from zj_ray.files import write_jsonl
from zj_ray.rankings.aspects import ASPECTS
from zj_ray.rankings.consensus import pairs, settled
from zj_ray.rankings.formats.rows import Extras, Row, by_item, label_source, parse_item, unique_rows
from zj_ray.rankings.tables import Item, Ranking


class PreferenceRow(BaseModel):
    """A preference. dimension: what it is about; overall where it is None."""

    id: str
    messages: Any
    chosen: str
    rejected: str
    domain: str | None = None
    dimension: str | None = None
    source: str | None = None
    prompt_id: str | None = None
    department: str | None = None


def read(path: Path, annotator: str) -> tuple[list[Item], list[Ranking]]:
    """Read items of two answers, `chosen` first, each ranked by `annotator` (kind "file").

    The ranks hold for the `dimension`, too, where that names an aspect.
    """
    items, rankings = [], []
    for where, row in unique_rows(path, PreferenceRow):
        kinds = ("chosen", "rejected")
        origins: list[Row] = [{"source": row.source, "kind": kind, "domain": row.domain} for kind in kinds]
        extras = Extras(prompt_id=row.prompt_id, department=row.department, origins=origins)
        items.append(parse_item(row.id, row.messages, [row.chosen, row.rejected], extras, where))
        aspects: dict[str, tuple[int, ...]] | None = {row.dimension: (1, 2)} if row.dimension in ASPECTS else None
        rankings.append(Ranking(row.id, annotator, "file", (1, 2), aspects))
    return items, rankings


def write(path: Path, items: Sequence[Item], rankings: Sequence[Ranking]) -> int:
    """Write the pairs that the reward model learns from: those that most annotators, or the adjudicator, order."""
    ranked = by_item(rankings)
    rows = (row for item in items if item.id in ranked for row in _rows(item, settled(ranked[item.id])))
    return write_jsonl(path, rows)


def _rows(item: Item, counted: Sequence[Ranking]) -> Iterator[Row]:
    for better, worse in pairs(counted):
        yield {
            "id": f"{item.id}/{better + 1}>{worse + 1}",
            "messages": [m.as_dict() for m in item.context],
            "chosen": item.answers[better].text,
            "rejected": item.answers[worse].text,
            "domain": "medical",
            "dimension": None,
            "prompt_id": item.prompt_id,
            "department": item.department,
            "label_source": label_source(counted),
            "source": "zj_ray feedback",
        }
