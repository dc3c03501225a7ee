"""`ranking` JSONL (docs/data.md): contexts with ranked answers; `annotators` holds every ranking in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, PositiveInt

from zj_ray.errors import DataError
from zj_ray.files import write_jsonl
from zj_ray.rankings.consensus import competition_ranks, consensus, settled
from zj_ray.rankings.formats.rows import (
    Extras,
    Row,
    by_item,
    label_source,
    parse_item,
    parse_ranking,
    ranking_row,
    unique_rows,
)
from zj_ray.rankings.tables import Item, Ranking


class Response(BaseModel):
    text: str
    rank: PositiveInt | None = None
    kind: str = "file"
    hurts: str | None = None
    origin: Row | None = None


class RankedRow(BaseModel):
    """An item. annotators: missing in files that are not ours, where each answer has a `rank` instead."""

    id: str
    messages: Any
    responses: list[Response]
    source: str | None = None
    department: str | None = None
    prompt_id: str | None = None
    annotators: list[Row] | None = None


def read(path: Path, annotator: str) -> tuple[list[Item], list[Ranking]]:
    """Read every item with its rankings; without `annotators` its only one is by `annotator`, of kind "file"."""
    items, rankings = [], []
    for where, row in unique_rows(path, RankedRow):
        item = parse_item(row.id, row.messages, [r.text for r in row.responses], _extras(row), where)
        items.append(item)
        if row.annotators is not None:
            rankings += [parse_ranking(ranking, item, where) for ranking in row.annotators]
        else:
            rankings.append(Ranking(item.id, annotator, "file", _ranks(row.responses, where)))
    return items, rankings


def write(path: Path, items: Sequence[Item], rankings: Sequence[Ranking]) -> int:
    """Write every ranked item; `label_tasks` has the others."""
    ranked = by_item(rankings)
    return write_jsonl(path, (_row(item, ranked[item.id]) for item in items if item.id in ranked))


def _row(item: Item, rankings: Sequence[Ranking]) -> Row:
    """An item as a row: `rank` and `aspects` of its answers are what the rankings that count come to: 1, 2, 2, 4."""
    counted = settled(rankings)
    ranks = competition_ranks(consensus(counted))
    aspects = _aspect_ranks(counted)
    responses = [
        {
            "text": answer.text,
            "rank": ranks[k],
            "aspects": {aspect: of_answers[k] for aspect, of_answers in aspects.items()},
            "kind": answer.origin.get("kind", "generated"),
            "hurts": answer.origin.get("hurts"),
            "origin": answer.origin,
        }
        for k, answer in enumerate(item.answers)
    ]
    return {
        "id": item.id,
        "prompt_id": item.prompt_id,
        "source": "zj_ray feedback",
        "messages": [m.as_dict() for m in item.context],
        "department": item.department,
        "responses": responses,
        "annotators": [ranking_row(r) for r in rankings],
        "label_source": label_source(counted),
    }


def _aspect_ranks(rankings: Sequence[Ranking]) -> dict[str, list[int]]:
    """The answers' ranks on each aspect, by the consensus of those who ranked it; in order of the aspects' names."""
    ranks: dict[str, list[int]] = {}
    for aspect in sorted({name for r in rankings for name in r.aspects or {}}):
        means = np.mean([r.aspects[aspect] for r in rankings if r.aspects and aspect in r.aspects], axis=0)
        ranks[aspect] = competition_ranks([float(mean) for mean in means])
    return ranks


def _extras(row: RankedRow) -> Extras:
    """The row's extras: an answer without an `origin` has the row's `source`, and what it says the answer hurts."""
    origins = [
        r.origin if r.origin is not None else {"source": row.source, "kind": r.kind, "hurts": r.hurts}
        for r in row.responses
    ]
    return Extras(prompt_id=row.prompt_id, department=row.department, origins=origins)


def _ranks(responses: Sequence[Response], where: str) -> tuple[int, ...]:
    ranks = [float(response.rank) for response in responses if response.rank is not None]
    if len(ranks) < len(responses):
        remedy = "rank every answer, or read the file as label_tasks"
        raise DataError("an answer has no rank", where=where, remedy=remedy)
    return tuple(competition_ranks(ranks))
