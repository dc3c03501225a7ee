"""Argilla 2: the JSON list of records that `Dataset.records.to_json` writes and `.from_json` reads, without its client.

docs/labelling-formats.md has the settings of the dataset. The client keeps the order of a ranking and drops the ranks, and with
them ties; `metadata.zj_ray` keeps them. Records of the server's own API, whose rankings hold ranks, are read as well.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import BaseModel

from zj_ray.errors import DataError
from zj_ray.files import write_atomic
from zj_ray.rankings.formats.questions import ALL_WRONG, answered, asked, label, reconcile
from zj_ray.rankings.rows import Kept, Row, by_item, checked, parse_item, parse_ranking, read_json
from zj_ray.rankings.tables import Item, Ranking


class Value(BaseModel):
    value: Any = None


class Response(Value):
    """values: of all questions, in the server's API; else value, of one. status: `to_json` leaves it out."""

    user_id: str | None = None
    status: str | None = None
    question_name: str | None = None
    values: dict[str, Value] | None = None


class Record(BaseModel):
    """responses: by question (`Dataset.records.to_json`), or a list (`Record.serialize`, the server's API).

    external_id: the item's in the server's API, whose `id` is the server's own.
    """

    id: str
    external_id: str | None = None
    fields: Row
    metadata: Row | None = None
    responses: dict[str, list[Response]] | list[Response] | None = None


def read(path: Path, annotator: str) -> tuple[list[Item], list[Ranking]]:
    """Drafts and discarded responses are left out. annotator: whose responses without a user are."""
    items, rankings = [], []
    for number, raw in enumerate(read_json(path, list, "a list of records"), start=1):
        where = f"{path}: record {number}"
        record = checked(Record, raw, where)
        kept = _kept(record, where)
        texts = [str(text) for k in range(len(record.fields)) if (text := record.fields.get(label(k))) is not None]
        item = parse_item(record.external_id or record.id, record.fields.get("dialogue"), texts, kept, where)
        full = [parse_ranking(row, item, where) for row in kept.rankings]
        names = {user_id(ranking.annotator): ranking.annotator for ranking in full}
        told: dict[str, Row] = defaultdict(dict)
        for user, question, value in _submitted(record.responses or []):
            told[user or annotator][question] = value
        items.append(item)
        came_back = (
            answered(said, item, names.get(user, user), where, seconds=None, created=None)
            for user, said in told.items()
        )
        rankings += reconcile(full, came_back)
    return items, rankings


def write(path: Path, items: Sequence[Item], rankings: Sequence[Ranking]) -> int:
    """Every item, ranked or not."""
    known = by_item(rankings)
    write_atomic(
        path, json.dumps([_record(item, known.get(item.id, [])) for item in items], ensure_ascii=False, indent=1) + "\n"
    )
    return len(items)


def user_id(annotator: str) -> str:
    """Argilla knows users by UUID: the annotator's own, where his name is one, else one made from the name."""
    try:
        return str(UUID(annotator))
    except ValueError:
        return str(uuid5(NAMESPACE_URL, f"zj_ray:annotator:{annotator}"))


def _record(item: Item, known: Sequence[Ranking]) -> Row:
    responses: dict[str, list[Row]] = defaultdict(list)
    for ranking in known:
        for question, said in asked(ranking).items():
            value = ALL_WRONG if question == ALL_WRONG else said
            responses[question].append({"value": value, "user_id": user_id(ranking.annotator), "status": "submitted"})
    return {
        "id": item.id,
        "fields": {
            "dialogue": [m.as_dict() for m in item.context],
            **{label(k): answer.text for k, answer in enumerate(item.answers)},
        },
        "metadata": {"zj_ray": json.dumps(Kept.row(item, known), ensure_ascii=False)},
        "suggestions": {},
        "responses": responses,
        "vectors": {},
    }


def _kept(record: Record, where: str) -> Kept:
    """What `write` put into the record's metadata, as text, for Argilla's metadata are flat."""
    try:
        return Kept.model_validate_json((record.metadata or {}).get("zj_ray", "{}"))
    except ValueError:
        raise DataError(
            "metadata 'zj_ray' is not what was exported", where=where, remedy="restore it, or drop it from the record"
        ) from None


def _submitted(responses: dict[str, list[Response]] | list[Response]) -> Iterator[tuple[str | None, str, Any]]:
    """(user, question, answer)."""
    if isinstance(responses, dict):
        asked_one_by_one = [(question, response) for question, given in responses.items() for response in given]
    else:
        asked_one_by_one = [(response.question_name or "", response) for response in responses]
    for question, response in asked_one_by_one:
        if response.status in (None, "submitted"):
            for name, given in (response.values or {question: response}).items():
                yield response.user_id, name, given.value
