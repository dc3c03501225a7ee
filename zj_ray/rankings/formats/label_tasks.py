"""`label_tasks` JSONL: contexts with answers that nobody has ranked yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zj_ray.files import write_jsonl
from zj_ray.rankings.formats.rows import Extras, Row, parse_item, unique_rows
from zj_ray.rankings.tables import Item, Ranking


class TaskRow(Extras):
    id: str
    messages: Any
    responses: list[str]


def read(path: Path, annotator: str) -> tuple[list[Item], list[Ranking]]:
    """Read the items, and no rankings, so that `annotator` has no effect."""
    rows = unique_rows(path, TaskRow)
    return [parse_item(row.id, row.messages, row.responses, row, where) for where, row in rows], []


def write(path: Path, items: Sequence[Item], rankings: Sequence[Ranking]) -> int:
    """Write the items that nobody has ranked."""
    ranked = {ranking.item for ranking in rankings}
    return write_jsonl(path, (_row(item) for item in items if item.id not in ranked))


def _row(item: Item) -> Row:
    row = {"id": item.id, "messages": [m.as_dict() for m in item.context], "responses": [a.text for a in item.answers]}
    return row | Extras.of(item).model_dump() | {"source": "zj_ray feedback"}
