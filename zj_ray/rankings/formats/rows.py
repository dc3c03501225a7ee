"""What the formats share: items and rankings as JSON rows, and reading with the location of every fault."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from zj_ray.data.messages import parse_messages
from zj_ray.errors import DataError
from zj_ray.files import read_jsonl
from zj_ray.rankings.tables import RANKING, Answer, Item, Kind, Ranking, utc

Row = dict[str, Any]
GUIDE = "docs/labelling-formats.md shows each format"
Model = TypeVar("Model", bound=BaseModel)


class Extras(BaseModel):
    """The parts of an item that other tools have no field for, and carry along. None where a file is not ours."""

    prompt_id: str | None = None
    department: str | None = None
    origins: list[Row] | None = None

    @classmethod
    def of(cls, item: Item) -> Extras:
        """The extras of an item."""
        origins = [answer.origin for answer in item.answers]
        return cls(prompt_id=item.prompt_id, department=item.department, origins=origins)


class Attachment(Extras):
    """What a labelling tool carries along untouched: the item's extras, and its rankings in full (`ranking_row`)."""

    rankings: list[Row] = []

    @classmethod
    def row(cls, item: Item, rankings: Sequence[Ranking]) -> Row:
        return Extras.of(item).model_dump() | {"rankings": [ranking_row(ranking) for ranking in rankings]}


def by_item(rankings: Sequence[Ranking]) -> dict[str, list[Ranking]]:
    """The rankings of each item, by its id, in their order."""
    groups: dict[str, list[Ranking]] = defaultdict(list)
    for ranking in rankings:
        groups[ranking.item].append(ranking)
    return groups


def label_source(rankings: Sequence[Ranking]) -> str:
    """Whose judgement an item's rankings are: a single simulated one among them makes it a simulated label."""
    kinds: set[Kind] = {ranking.kind for ranking in rankings}
    if "simulated" in kinds:
        return "simulated annotators (rules + noise)"
    return "human annotators" if "human" in kinds else "file"


def parse_row(model: type[Model], raw: Any, where: str) -> Model:
    """`raw` as a `model`. Raises DataError naming the first field that doesn't fit."""
    try:
        return model.model_validate(raw)
    except ValidationError as fault:
        raise _misfit(fault, where) from None


def unique_rows(path: Path, model: type[Model]) -> Iterator[tuple[str, Model]]:
    """Yield (`file:line`, row) for every row of a JSONL file whose rows have ids.

    Raises DataError for a row that is no `model`, and for an id that an earlier row has.
    """
    must_exist(path, "give a JSONL file")
    lines: dict[str, str] = {}
    for where, raw in read_jsonl(path):
        row = parse_row(model, raw, where)
        identity = raw["id"]
        if identity in lines:
            what = f"the id {identity!r} is already at {lines[identity]}"
            raise DataError(what, where=where, remedy="give every row an id of its own")
        lines[identity] = where
        yield where, row


def must_exist(path: Path, remedy: str) -> None:
    """Raise DataError with this remedy where there is no such file."""
    if not path.is_file():
        raise DataError("there is no such file", where=str(path), remedy=remedy)


def read_json(path: Path, kind: type, shape: str) -> Any:
    """The content of a JSON file. Raises DataError where it is no `kind`. shape: what that is, in words."""
    remedy = f"give a JSON file that holds {shape}"
    must_exist(path, remedy)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as fault:
        raise DataError(f"the file is not JSON in UTF-8: {fault}", where=str(path), remedy=remedy) from None
    if not isinstance(content, kind):
        raise DataError(f"the file does not hold {shape}", where=str(path), remedy=GUIDE)
    return content


def parse_item(identity: str, messages: Any, texts: Sequence[str], extras: Extras, where: str) -> Item:
    """The item with these answers. Raises DataError naming `where`."""
    origins = extras.origins if extras.origins is not None else [{}] * len(texts)
    if not identity or len(texts) < 2 or not all(text.strip() for text in texts) or len(origins) != len(texts):
        what = "an item needs an id, and two or more answers that are not empty"
        raise DataError(what, where=where, remedy="complete the row or drop it")
    context = parse_messages(messages, where=where, last="user")
    answers = tuple(Answer(text, origin) for text, origin in zip(texts, origins, strict=True))
    return Item(identity, extras.prompt_id or identity, context, extras.department, answers)


def ranking_row(ranking: Ranking) -> Row:
    """A ranking as a row, without its item; `parse_ranking` reads it."""
    row = RANKING.dump_python(ranking, mode="json")
    del row["item"]
    return {"name": row.pop("annotator"), **row}


def parse_ranking(row: Row, item: Item, where: str) -> Ranking:
    """The ranking of `item` in a `ranking_row`. Raises DataError where it doesn't fit the item's answers."""
    where = f"{where}, ranking by {row.get('name')!r}"
    try:
        ranking = RANKING.validate_python({**row, "item": item.id, "annotator": row.get("name")})
    except ValidationError as fault:
        raise _misfit(fault, where) from None
    count = len(item.answers)
    for ranks in (ranking.overall, *(ranking.aspects or {}).values()):
        if len(ranks) != count or not all(1 <= rank <= count for rank in ranks):
            remedy = f"give {count} whole numbers from 1 (best) to {count}"
            raise DataError(f"ranks {list(ranks)} don't fit {count} answers", where=where, remedy=remedy)
    return replace(ranking, created=ranking.created and utc(ranking.created))


def _misfit(fault: ValidationError, where: str) -> DataError:
    first = fault.errors()[0]
    field = ".".join(map(str, first["loc"])) or "the row"
    return DataError(f"{field}: {first['msg'].lower()}", where=where, remedy=GUIDE)
