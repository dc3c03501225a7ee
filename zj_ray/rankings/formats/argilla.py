"""Argilla 2, which is only read: the JSON list of records that `Dataset.records.to_json` or the server's API gives.

The client keeps the order of a ranking and drops the ranks, and with them ties; records that were once exported from
here keep them in `metadata.zj_ray`. The server's API gives rankings with their ranks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import BaseModel

from zj_ray.errors import DataError
from zj_ray.rankings.formats.questions import answer_name, parse_form, reconcile
from zj_ray.rankings.formats.rows import Attachment, Row, parse_item, parse_ranking, parse_row, read_json
from zj_ray.rankings.tables import Item, Ranking


class Value(BaseModel):
    value: Any = None


class Response(Value):
    """What a user answered.

    values: to all questions, in the server's API; else value, to one. status: `to_json` leaves it out.
    """

    user_id: str | None = None
    status: str | None = None
    question_name: str | None = None
    values: dict[str, Value] | None = None


class Record(BaseModel):
    """An item with its responses: by question (`Dataset.records.to_json`), or a list (`Record.serialize`, the API).

    external_id: the item's in the server's API, whose `id` is the server's own.
    """

    id: str
    external_id: str | None = None
    fields: Row
    metadata: Row | None = None
    responses: dict[str, list[Response]] | list[Response] | None = None


def read(path: Path, annotator: str) -> tuple[list[Item], list[Ranking]]:
    """Read every record without its drafts and discarded responses. annotator: whose responses without a user are."""
    items, rankings = [], []
    for number, raw in enumerate(read_json(path, list, "a list of records"), start=1):
        where = f"{path}: record {number}"
        record = parse_row(Record, raw, where)
        item, full = _item(record, where)
        items.append(item)
        names = {user_id(ranking.annotator): ranking.annotator for ranking in full}
        forms: dict[str, Row] = defaultdict(dict)
        for user, question, value in _submitted(record.responses or []):
            forms[user or annotator][question] = value
        submitted = (parse_form(form, item, names.get(user, user), where) for user, form in forms.items())
        rankings += reconcile(full, submitted)
    return items, rankings


def user_id(annotator: str) -> str:
    """The UUID by which Argilla knows an annotator: the name, where it is one, else one made from the name."""
    try:
        return str(UUID(annotator))
    except ValueError:
        return str(uuid5(NAMESPACE_URL, f"zj_ray:annotator:{annotator}"))


def _item(record: Record, where: str) -> tuple[Item, list[Ranking]]:
    """The record's item, and the rankings in full that an export from here left in its metadata, as one text."""
    try:
        attachment = Attachment.model_validate_json((record.metadata or {}).get("zj_ray", "{}"))
    except ValueError:
        what = "metadata 'zj_ray' is not what was exported"
        raise DataError(what, where=where, remedy="restore it, or drop it from the record") from None
    fields = record.fields
    texts = [str(text) for k in range(len(fields)) if (text := fields.get(answer_name(k))) is not None]
    item = parse_item(record.external_id or record.id, fields.get("dialogue"), texts, attachment, where)
    return item, [parse_ranking(row, item, where) for row in attachment.rankings]


def _submitted(responses: dict[str, list[Response]] | list[Response]) -> Iterator[tuple[str | None, str, Any]]:
    """Yield (user, question, answer) of every response that was submitted."""
    if isinstance(responses, dict):
        one_by_one = [(question, response) for question, group in responses.items() for response in group]
    else:
        one_by_one = [(response.question_name or "", response) for response in responses]
    for question, response in one_by_one:
        if response.status in (None, "submitted"):
            for name, answer in (response.values or {question: response}).items():
                yield response.user_id, name, answer.value
