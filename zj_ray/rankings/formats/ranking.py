"""`ranking` JSONL (docs/data.md): contexts with ranked answers; `annotators` holds every ranking in full, so that nothing is lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, PositiveInt

from zj_ray.errors import DataError
from zj_ray.files import write_jsonl
from zj_ray.rankings.rows import Extras, Row, by_item, parse_item, parse_ranking, unique_rows
from zj_ray.rankings.store import export_row, places
from zj_ray.rankings.tables import Item, Ranking


class Response(BaseModel):
    text: str
    rank: PositiveInt | None = None
    kind: str = "file"
    hurts: str | None = None
    origin: Row | None = None


class RankedRow(BaseModel):
    """annotators: missing in files that are not ours. Then each answer has a `rank`."""

    id: str
    messages: Any
    responses: list[Response]
    source: str | None = None
    department: str | None = None
    prompt_id: str | None = None
    annotators: list[Row] | None = None


def read(path: Path, annotator: str) -> tuple[list[Item], list[Ranking]]:
    """Without `annotators`, the ranks of `responses` are one ranking: that of `annotator`, of kind "file"."""
    items, rankings = [], []
    for where, row in unique_rows(path, RankedRow):
        item = parse_item(row.id, row.messages, [r.text for r in row.responses], _extras(row), where)
        items.append(item)
        if row.annotators is not None:
            rankings += [parse_ranking(told, item, where) for told in row.annotators]
        else:
            rankings.append(Ranking(item.id, annotator, "file", _ranks(row.responses, where)))
    return items, rankings


def write(path: Path, items: Sequence[Item], rankings: Sequence[Ranking]) -> int:
    """Every ranked item; `label_tasks` has the others."""
    known = by_item(rankings)
    return write_jsonl(path, (export_row(item, known[item.id]) for item in items if item.id in known))


def _extras(row: RankedRow) -> Extras:
    """Of an answer whose origin a file doesn't tell: the `source` of its row, and what the file says that it is and hurts."""
    told = [
        r.origin if r.origin is not None else {"source": row.source, "kind": r.kind, "hurts": r.hurts}
        for r in row.responses
    ]
    return Extras(prompt_id=row.prompt_id, department=row.department, origins=told)


def _ranks(responses: Sequence[Response], where: str) -> tuple[int, ...]:
    ranks = [float(response.rank) for response in responses if response.rank is not None]
    if len(ranks) < len(responses):
        raise DataError(
            "an answer has no rank", where=where, remedy="rank every answer, or read the file as label_tasks"
        )
    return tuple(places(ranks))
