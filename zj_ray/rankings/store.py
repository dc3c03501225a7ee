"""The ranking store: contexts, their answers, and how each annotator ranks them, in any SQL database.

It is append-only: an annotator who changes their mind adds a ranking, and the newest of each annotator counts. Several
processes may write at once (SQLite in WAL mode waits for the other writer), so an id is claimed by inserting it, never
by looking first. The default is one SQLite file on a local disk; on a network disk use a database server's URL
instead, because SQLite's locks can't be trusted there.
"""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select
from sqlalchemy.exc import IntegrityError

from zj_ray.data.messages import Message, parse_messages
from zj_ray.errors import DataError
from zj_ray.rankings.database import open_database
from zj_ray.rankings.migrations import migrate
from zj_ray.rankings.tables import (
    KINDS,
    RANKING,
    Answer,
    AnswerRow,
    GoldRow,
    Item,
    ItemRow,
    Ranking,
    RankingRow,
    Table,
    utc,
)


class RankingStore:
    """The store at a SQLAlchemy URL ("postgresql://…") or in a SQLite file, which is made where it is missing."""

    def __init__(self, url_or_path: str | Path) -> None:
        if "://" not in str(url_or_path):
            Path(url_or_path).parent.mkdir(parents=True, exist_ok=True)
        self._database = open_database(str(url_or_path) if "://" in str(url_or_path) else f"sqlite:///{url_or_path}")
        self.location = self._database.url.render_as_string(hide_password=True)  # what errors may show
        self._turn = threading.Lock() if self._database.dialect.name == "sqlite" else contextlib.nullcontext()
        with self.writing() as connection:
            migrate(connection, self.location)

    def close(self) -> None:
        """Let go of the database; the store can't be used after."""
        self._database.dispose()

    def reading(self) -> Connection:
        """A connection to read with; close it (`with`)."""
        return self._database.connect()

    @contextlib.contextmanager
    def writing(self, *, sync: str = "FULL") -> Iterator[Connection]:
        """A transaction: what it reads still holds when it writes, and at the end all of it is on disk, or nothing.

        SQLite has one writer at a time. Threads queue here for their turn, as SQLite's own waiting sleeps for up to
        100 ms. sync: "NORMAL" survives a killed process but not a power cut, and waits for no disk; it is for what may
        be done again.
        """
        with self._turn, self._database.execution_options(sync=sync).begin() as connection:
            yield connection

    def add_items(self, items: Sequence[Item], rankings: Sequence[Ranking] = ()) -> None:
        """Add items, and rankings of them or of items that the store has: all or, raising DataError, none.

        It raises where an item or a ranking is unfit, and where the store has an item of the same id. All go into one
        transaction: an item that was stored without its ranking would look as if nobody had ranked it.
        """
        for item in items:
            _check_item(item)
        self.check(rankings, items)
        now = datetime.now(UTC)
        events = [asdict(replace(r, created=r.created or now)) for r in rankings]
        names = _some(item.id for item in items)
        fault = f"one of the items {names} is in the store already"
        self._insert(_item_rows(items, now) | {RankingRow: events}, fault)

    def add_rankings(self, rankings: Sequence[Ranking]) -> None:
        """Add all rankings or, when one of them is unfit (DataError), none of them."""
        self.add_items((), rankings)

    def add_gold(self, ranks: Mapping[str, Sequence[int]], author: str) -> None:
        """Add the right ranks of these items, by which annotators are measured.

        Raises DataError, and adds none, where an item is unknown, has gold ranks already, or its ranks don't fit.
        """
        self.check([Ranking(item, author, "human", tuple(overall)) for item, overall in ranks.items()])
        now = datetime.now(UTC)
        common = {"author": author, "created": now}
        rows = [{"item": item, "overall": list(overall), **common} for item, overall in ranks.items()]
        self._insert({GoldRow: rows}, f"one of the items {_some(ranks)} has gold ranks already")

    def gold(self) -> dict[str, tuple[int, ...]]:
        """The right ranks of every gold item, by id."""
        query = select(GoldRow.item, GoldRow.overall).order_by(GoldRow.item)
        with self.reading() as connection:
            return {row.item: tuple(row.overall) for row in connection.execute(query)}

    def items(self, item_ids: Iterable[str] | None = None) -> list[Item]:
        """Every item (or those of `item_ids`) with its answers, in order of id."""
        rows = select(ItemRow.id, ItemRow.prompt_id, ItemRow.context, ItemRow.department).order_by(ItemRow.id)
        texts = select(AnswerRow.item, AnswerRow.text, AnswerRow.origin).order_by(AnswerRow.item, AnswerRow.position)
        if item_ids is not None:
            ids = list(item_ids)
            rows, texts = rows.where(ItemRow.id.in_(ids)), texts.where(AnswerRow.item.in_(ids))
        answers: dict[str, list[Answer]] = defaultdict(list)
        with self.reading() as connection:
            for row in connection.execute(texts):
                answers[row.item].append(Answer(row.text, row.origin))
            return [
                Item(r.id, r.prompt_id, tuple(Message(**m) for m in r.context), r.department, tuple(answers[r.id]))
                for r in connection.execute(rows)
            ]

    def rankings(self, item_id: str) -> list[Ranking]:
        """The newest ranking of `item_id` by each annotator, in order of the annotators' names."""
        return self.all_rankings([item_id]).get(item_id, [])

    def all_rankings(self, item_ids: Iterable[str] | None = None) -> dict[str, list[Ranking]]:
        """The newest ranking of every item (or of `item_ids`) by each annotator; unranked items are absent."""
        with self.reading() as connection:
            return newest(connection, item_ids)

    def contents(self) -> tuple[list[Item], list[Ranking]]:
        """Every item, and the newest ranking of each by every annotator: what a file of rankings is written from."""
        return self.items(), [ranking for of_item in self.all_rankings().values() for ranking in of_item]

    def history(self) -> dict[tuple[str, str], list[Ranking]]:
        """Every ranking that was ever saved, by item and annotator, the oldest first."""
        query = select(RankingRow.__table__).where(RankingRow.action == "rank").order_by(RankingRow.event)
        rankings: dict[tuple[str, str], list[Ranking]] = defaultdict(list)
        with self.reading() as connection:
            for row in connection.execute(query):
                rankings[row.item, row.annotator].append(read_ranking(row))
        return dict(rankings)

    def check(self, rankings: Sequence[Ranking], items: Sequence[Item] = ()) -> None:
        """Raise DataError for the first ranking that does not fit its item, which is in the store or in `items`."""
        ids = sorted({ranking.item for ranking in rankings})
        query = select(AnswerRow.item, func.count()).where(AnswerRow.item.in_(ids)).group_by(AnswerRow.item)
        with self.reading() as connection:
            answers = {item: count for item, count in connection.execute(query)}
        answers |= {item.id: len(item.answers) for item in items}
        for ranking in rankings:
            _check_ranking(ranking, answers.get(ranking.item))

    def _insert(self, rows: dict[type[Table], list[dict[str, Any]]], fault: str) -> None:
        """Insert all rows or none. Raises DataError saying `fault` where one is there already."""
        try:
            with self.writing() as connection:
                for table, values in rows.items():
                    if values:
                        connection.execute(insert(table), values)
        except IntegrityError as error:
            remedy = "ids must be unique; nothing of this batch was stored"
            raise DataError(fault, where=self.location, remedy=remedy) from error


def open_rankings(folder: Path, url: str | None) -> RankingStore:
    """The store of a run's feedback stage: the database at `url`, or else the SQLite file in the stage's folder."""
    return RankingStore(url or folder / "rankings.sqlite")


def newest(connection: Connection, item_ids: Iterable[str] | None = None) -> dict[str, list[Ranking]]:
    """The newest ranking of every item (or of `item_ids`) by each annotator, unless they took it back or skipped it."""
    query = select(RankingRow.__table__).order_by(RankingRow.event)
    if item_ids is not None:
        query = query.where(RankingRow.item.in_(list(item_ids)))
    latest = {(row.item, row.annotator): row for row in connection.execute(query)}
    rankings: dict[str, list[Ranking]] = defaultdict(list)
    for (item, _), row in sorted(latest.items()):
        if row.action == "rank":
            rankings[item].append(read_ranking(row))
    return dict(rankings)


def read_ranking(row: Row[Any]) -> Ranking:
    """The ranking that a row of table `ranking` holds."""
    return replace(RANKING.validate_python(dict(row._mapping)), created=utc(row.created))


def _item_rows(items: Sequence[Item], now: datetime) -> dict[type[Table], list[dict[str, Any]]]:
    rows = []
    for item in items:
        row = {"id": item.id, "prompt_id": item.prompt_id, "department": item.department, "created": now}
        rows.append(row | {"context": [m.as_dict() for m in item.context]})
    answers = [
        {"item": item.id, "position": position, "text": answer.text, "origin": answer.origin}
        for item in items
        for position, answer in enumerate(item.answers)
    ]
    return {ItemRow: rows, AnswerRow: answers}


def _check_item(item: Item) -> None:
    where = f"item {item.id!r}"
    parse_messages([m.as_dict() for m in item.context], where=where, last="user")
    if len(item.answers) < 2:
        raise DataError(f"{len(item.answers)} answers can't be ranked", where=where, remedy="give at least two")


def _check_ranking(ranking: Ranking, answers: int | None) -> None:
    where = f"ranking of {ranking.item!r} by {ranking.annotator!r}"
    if answers is None:
        raise DataError("the store has no such item", where=where, remedy="add the item first")
    if ranking.kind not in KINDS:
        raise DataError(f"unknown kind {ranking.kind!r}", where=where, remedy=f"use one of {', '.join(KINDS)}")
    for name, ranks in {"overall": ranking.overall, **(ranking.aspects or {})}.items():
        if len(ranks) != answers or not all(isinstance(r, int) and 1 <= r <= answers for r in ranks):
            what = f"{name} ranks {list(ranks)} don't fit {answers} answers"
            raise DataError(what, where=where, remedy=f"ranks go from 1 (best) to {answers}")


def _some(names: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    quoted = [repr(name) for name in names]
    return ", ".join(quoted[:3]) + (f" and {len(quoted) - 3} more" if len(quoted) > 3 else "")
