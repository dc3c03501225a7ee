"""`preference` JSONL: a context, the better answer and the worse. An item of K answers becomes a row for each pair, and stays apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from zj_ray.files import write_jsonl
from zj_ray.rankings.aspects import ASPECTS
from zj_ray.rankings.rows import Extras, Row, by_item, parse_item, unique_rows
from zj_ray.rankings.store import label_source, pairs, settled
from zj_ray.rankings.tables import Item, Ranking


class PreferenceRow(BaseModel):
    """dimension: what the preference is about, overall where it is None."""

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
    """Items of two answers, `chosen` first, each ranked by `annotator` (kind "file"), on `dimension` too where it names an aspect."""
    items, rankings = [], []
    for where, row in unique_rows(path, PreferenceRow):
        origins: list[Row] = [
            {"source": row.source, "kind": kind, "domain": row.domain} for kind in ("chosen", "rejected")
        ]
        extras = Extras(prompt_id=row.prompt_id, department=row.department, origins=origins)
        items.append(parse_item(row.id, row.messages, [row.chosen, row.rejected], extras, where))
        rankings.append(
            Ranking(row.id, annotator, "file", (1, 2), {row.dimension: (1, 2)} if row.dimension in ASPECTS else None)
        )
    return items, rankings


def write(path: Path, items: Sequence[Item], rankings: Sequence[Ranking]) -> int:
    """Every pair of answers that most annotators order, or the adjudicator where there is one: the pairs that the reward model learns from."""
    known = by_item(rankings)
    return write_jsonl(
        path, (row for item in items if item.id in known for row in _rows(item, settled(known[item.id])))
    )


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
            "label_source": label_source({r.kind for r in counted}),
            "source": "zj_ray feedback",
        }
