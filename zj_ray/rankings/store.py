"""The ranking store: contexts, their answers, and what each annotator thought of them, in any SQL database.

Append-only: an annotator who changes his mind adds a ranking, and the newest of each annotator counts. Several processes
may write at once (SQLite in WAL mode waits for the other writer), so an id is claimed by inserting it, never by looking
first. The default is one SQLite file on a local disk; on a network disk use a database server's URL instead, because
SQLite's locks can't be trusted there.
"""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, create_engine, event, func, insert, select
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError

from zj_ray.algorithms.preference import majority
from zj_ray.data.datasets import RankedItem
from zj_ray.data.messages import Message, parse_messages
from zj_ray.errors import DataError
from zj_ray.files import write_jsonl
from zj_ray.rankings.migrations import migrate
from zj_ray.rankings.rows import ranking_row
from zj_ray.rankings.tables import KINDS, Answer, AnswerRow, GoldRow, Item, ItemRow, Kind, Ranking, RankingRow, Table

BUSY_SECONDS = 60.0  # longest wait for another process that is writing to the same SQLite file


class RankingStore:
    """url_or_path: a SQLAlchemy URL ("postgresql://…") or the path of a SQLite file, made where it is missing."""

    def __init__(self, url_or_path: str | Path) -> None:
        if "://" not in str(url_or_path):
            Path(url_or_path).parent.mkdir(parents=True, exist_ok=True)
        self._engine = _open(str(url_or_path) if "://" in str(url_or_path) else f"sqlite:///{url_or_path}")
        self.place = self._engine.url.render_as_string(hide_password=True)  # what errors may show
        self._turn = threading.Lock() if self._engine.dialect.name == "sqlite" else contextlib.nullcontext()
        with self.writing() as connection:
            migrate(connection)

    def close(self) -> None:
        self._engine.dispose()

    def reading(self) -> Connection:
        """A connection to read with; close it (`with`)."""
        return self._engine.connect()

    @contextlib.contextmanager
    def writing(self, *, sync: str = "FULL") -> Iterator[Connection]:
        """One transaction: what is read in it still holds when it writes, and all of it is on disk at the end, or nothing.

        SQLite has one writer at a time. Threads queue here for their turn, since SQLite's own waiting sleeps for up to 100 ms.
        sync: "NORMAL" survives a killed process but not a power cut, and waits for no disk: for what may be done again.
        """
        with self._turn, self._engine.execution_options(sync=sync).begin() as connection:
            yield connection

    def add_item(
        self,
        item_id: str,
        context: Sequence[Message],
        answers: Sequence[Answer],
        *,
        prompt_id: str | None = None,
        department: str | None = None,
    ) -> str:
        """Add a context with its answers and return `item_id`; `prompt_id` defaults to it. Raises DataError for a known id."""
        self.add_items([Item(item_id, prompt_id or item_id, tuple(context), department, tuple(answers))])
        return item_id

    def add_items(self, items: Sequence[Item]) -> None:
        """Add all items or, when one of them is unfit or known already (DataError), none of them."""
        for item in items:
            _check_item(item)
        self._insert(_item_rows(items), taken=_taken(items))

    def add_ranking(
        self,
        item_id: str,
        annotator: str,
        kind: Kind,
        overall: Sequence[int],
        aspects: dict[str, Sequence[int]] | None = None,
    ) -> None:
        """Add one annotator's ranks of `item_id`'s answers. Raises DataError for an unknown item or ranks that don't fit."""
        given = {name: tuple(ranks) for name, ranks in aspects.items()} if aspects is not None else None
        self.add_rankings([Ranking(item_id, annotator, kind, tuple(overall), given)])

    def add_rankings(self, rankings: Sequence[Ranking]) -> None:
        """Add all rankings or, when one of them is unfit (DataError), none of them."""
        self.check(rankings)
        now = datetime.now(UTC)
        rows = [event_row(replace(r, created=r.created or now)) for r in rankings]
        self._insert({RankingRow: rows}, taken="a ranking with this event number is in the store already")

    def add_gold(self, ranks: Mapping[str, Sequence[int]], author: str) -> None:
        """Say which ranks of these items are right, or, raising DataError, of none: one is unknown, has gold already, or its ranks don't fit."""
        self.check([Ranking(item, author, "human", tuple(overall)) for item, overall in ranks.items()])
        now = datetime.now(UTC)
        rows = [
            {"item": item, "overall": list(overall), "author": author, "created": now}
            for item, overall in ranks.items()
        ]
        self._insert({GoldRow: rows}, taken=f"one of the items {_some(ranks)} has gold ranks already")

    def gold(self) -> dict[str, tuple[int, ...]]:
        """The right ranks of every gold item."""
        with self.reading() as connection:
            return {
                row.item: tuple(row.overall)
                for row in connection.execute(select(GoldRow.item, GoldRow.overall).order_by(GoldRow.item))
            }

    def items(self, item_ids: Iterable[str] | None = None) -> list[Item]:
        """Every item (or those of `item_ids`) with its answers, in order of id."""
        found = select(ItemRow.id, ItemRow.prompt_id, ItemRow.context, ItemRow.department).order_by(ItemRow.id)
        said = select(AnswerRow.item, AnswerRow.text, AnswerRow.origin).order_by(AnswerRow.item, AnswerRow.position)
        if item_ids is not None:
            wanted = list(item_ids)
            found, said = found.where(ItemRow.id.in_(wanted)), said.where(AnswerRow.item.in_(wanted))
        with self.reading() as connection:
            answers: dict[str, list[Answer]] = defaultdict(list)
            for row in connection.execute(said):
                answers[row.item].append(Answer(row.text, row.origin))
            rows = connection.execute(found)
            return [
                Item(r.id, r.prompt_id, tuple(Message(**m) for m in r.context), r.department, tuple(answers[r.id]))
                for r in rows
            ]

    def rankings(self, item_id: str) -> list[Ranking]:
        """The newest ranking of `item_id` by each annotator, in order of the annotators' names."""
        return self.all_rankings([item_id]).get(item_id, [])

    def all_rankings(self, item_ids: Iterable[str] | None = None) -> dict[str, list[Ranking]]:
        """`rankings` of every item (or of `item_ids`) in one query; items that nobody ranked are absent."""
        with self.reading() as connection:
            return newest(connection, item_ids)

    def history(self) -> dict[tuple[str, str], list[Ranking]]:
        """Every ranking that was ever given, by item and annotator, the oldest first."""
        found: dict[tuple[str, str], list[Ranking]] = defaultdict(list)
        with self.reading() as connection:
            for row in connection.execute(
                select(RankingRow.__table__).where(RankingRow.action == "rank").order_by(RankingRow.event)
            ):
                found[row.item, row.annotator].append(read_ranking(row))
        return dict(found)

    def import_ranked(self, items: Sequence[RankedItem], annotator: str = "file") -> None:
        """Take ranked contexts from a `ranking.jsonl` (docs/data.md) as the work of `annotator`."""
        taken = [
            Item(
                i.id, i.id, i.messages, i.department,
                tuple(Answer(r.text, {"source": i.source, "split": i.split, "kind": r.kind or "file"}) for r in i.responses),
            )
            for i in items
        ]  # fmt: skip
        now = datetime.now(UTC)
        rankings = [
            Ranking(i.id, annotator, "file", tuple(places([float(r.rank) for r in i.responses])), created=now)
            for i in items
        ]
        for item, ranking in zip(taken, rankings, strict=True):
            _check_item(item)
            _check_ranking(ranking, len(item.answers))
        # In one transaction: an item that is known without its ranking would never get it.
        self._insert(_item_rows(taken) | {RankingRow: [event_row(r) for r in rankings]}, taken=_taken(taken))

    def export_jsonl(self, path: Path) -> int:
        """Write every ranked item in the schema of `ranking` (docs/data.md) plus `annotators`; returns the number of rows.

        `rank` is the place of the consensus (mean rank), with ties: 1, 2, 2, 4. Aspects hold the consensus of those who gave them.
        """
        by_item = self.all_rankings()
        return write_jsonl(path, (export_row(item, by_item[item.id]) for item in self.items() if item.id in by_item))

    def check(self, rankings: Sequence[Ranking]) -> None:
        """Raises DataError for the first ranking that does not fit its item."""
        wanted = sorted({ranking.item for ranking in rankings})
        with self.reading() as connection:
            query = select(AnswerRow.item, func.count()).where(AnswerRow.item.in_(wanted)).group_by(AnswerRow.item)
            counts = {item: count for item, count in connection.execute(query)}
        for ranking in rankings:
            _check_ranking(ranking, counts.get(ranking.item))

    def _insert(self, rows: dict[type[Table], list[dict[str, Any]]], *, taken: str) -> None:
        try:
            with self.writing() as connection:
                for table, values in rows.items():
                    if values:
                        connection.execute(insert(table), values)
        except IntegrityError as fault:
            raise DataError(
                taken, where=self.place, remedy="ids must be unique; nothing of this batch was stored"
            ) from fault


def _item_rows(items: Sequence[Item]) -> dict[type[Table], list[dict[str, Any]]]:
    now = datetime.now(UTC)
    rows = [
        {
            "id": i.id,
            "prompt_id": i.prompt_id,
            "context": [m.as_dict() for m in i.context],
            "department": i.department,
            "created": now,
        }
        for i in items
    ]
    answers = [
        {"item": i.id, "position": k, "text": a.text, "origin": a.origin}
        for i in items
        for k, a in enumerate(i.answers)
    ]
    return {ItemRow: rows, AnswerRow: answers}


def _taken(items: Sequence[Item]) -> str:
    return f"one of the items {_some(i.id for i in items)} is in the store already"


def newest(connection: Connection, item_ids: Iterable[str] | None = None) -> dict[str, list[Ranking]]:
    """The newest ranking of each item (or of `item_ids`) by each annotator, unless he skipped it or took it back since."""
    query = select(RankingRow.__table__).order_by(RankingRow.event)
    if item_ids is not None:
        query = query.where(RankingRow.item.in_(list(item_ids)))
    latest: dict[tuple[str, str], Row[Any]] = {}
    for row in connection.execute(query):
        latest[row.item, row.annotator] = row
    found: dict[str, list[Ranking]] = defaultdict(list)
    for (item, _), row in sorted(latest.items()):
        if row.action == "rank":
            found[item].append(read_ranking(row))
    return dict(found)


def open_rankings(folder: Path, url: str | None) -> RankingStore:
    """The store of a run's feedback stage: the database at `url`, or else the SQLite file in the stage's folder."""
    return RankingStore(url or folder / "rankings.sqlite")


def settled(rankings: Sequence[Ranking]) -> list[Ranking]:
    """The rankings that count: the adjudicator's where there is one, everybody's where there is none."""
    return [r for r in rankings if r.adjudicated] or list(rankings)


def consensus(rankings: Sequence[Ranking]) -> list[float]:
    """Mean overall rank of each answer over the annotators [answers]; lower is better. Raises DataError without a ranking."""
    if not rankings:
        raise DataError("nobody has ranked this item", remedy="leave unranked items out, or collect a ranking first")
    return [float(mean) for mean in np.mean([r.overall for r in rankings], axis=0)]


def pairs(rankings: Sequence[Ranking]) -> list[tuple[int, int]]:
    """(better, worse) indices of every pair of answers that most annotators order this way."""
    return [(int(i), int(j)) for i, j in np.argwhere(majority(np.array([r.overall for r in rankings], dtype=float).T))]


def places(mean_ranks: Sequence[float]) -> list[int]:
    """Competition ranks of a consensus, 1 = best: [1.0, 2.5, 2.5, 4.0] gives [1, 2, 2, 4]."""
    return [1 + sum(other < mine for other in mean_ranks) for mine in mean_ranks]


def event_row(ranking: Ranking) -> dict[str, Any]:
    """The row of `ranking` that says this."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(ranking).items()} | {
        "aspects": {name: list(ranks) for name, ranks in ranking.aspects.items()}
        if ranking.aspects is not None
        else None,
    }


def read_ranking(row: Row[Any]) -> Ranking:
    """The ranking that a row of `ranking` holds."""
    told = dict(row._mapping)
    given = {field.name: told[field.name] for field in fields(Ranking)}
    return Ranking(
        **given
        | {
            "overall": tuple(row.overall),
            "aspects": {name: tuple(ranks) for name, ranks in row.aspects.items()} if row.aspects is not None else None,
            "shown": tuple(row.shown) if row.shown is not None else None,
            "created": row.created
            if row.created.tzinfo
            else row.created.replace(tzinfo=UTC),  # SQLite forgets the zone
        }
    )


def _open(url: str) -> Engine:
    waits = {"timeout": BUSY_SECONDS} if url.startswith("sqlite") else {}
    engine = create_engine(
        url, connect_args=waits, hide_parameters=True
    )  # a fault must not carry patients' words into a log
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _prepare(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # Python begins no transaction behind our back
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA foreign_keys=ON")

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            sync = connection.get_execution_options().get("sync")  # of a transaction that writes
            if sync is not None:
                connection.exec_driver_sql(f"PRAGMA synchronous={sync}")
            connection.exec_driver_sql("BEGIN" if sync is None else "BEGIN IMMEDIATE")

    return engine


def _check_item(item: Item) -> None:
    parse_messages([m.as_dict() for m in item.context], where=f"item {item.id!r}", last="user")
    if len(item.answers) < 2:
        raise DataError(
            f"{len(item.answers)} answers can't be ranked", where=f"item {item.id!r}", remedy="give at least two"
        )


def _check_ranking(ranking: Ranking, answers: int | None) -> None:
    where = f"ranking of {ranking.item!r} by {ranking.annotator!r}"
    if answers is None:
        raise DataError("the store has no such item", where=where, remedy="add the item first")
    if ranking.kind not in KINDS:
        raise DataError(f"unknown kind {ranking.kind!r}", where=where, remedy=f"use one of {', '.join(KINDS)}")
    for name, ranks in {"overall": ranking.overall, **(ranking.aspects or {})}.items():
        if len(ranks) != answers or not all(isinstance(r, int) and 1 <= r <= answers for r in ranks):
            raise DataError(
                f"{name} ranks {list(ranks)} don't fit {answers} answers",
                where=where,
                remedy=f"ranks go from 1 (best) to {answers}",
            )


def export_row(item: Item, rankings: Sequence[Ranking]) -> dict[str, Any]:
    """`rank` and `aspects` of the answers come from the rankings that count (`settled`); `annotators` holds all of them."""
    counted = settled(rankings)
    aspects = sorted({name for r in counted for name in r.aspects or {}})
    given = {
        a: places([float(m) for m in np.mean([r.aspects[a] for r in counted if r.aspects and a in r.aspects], axis=0)])
        for a in aspects
    }
    ranks = places(consensus(counted))
    responses = [
        {"text": answer.text, "rank": ranks[k], "aspects": {a: given[a][k] for a in aspects}}
        | {"kind": answer.origin.get("kind", "generated"), "hurts": answer.origin.get("hurts"), "origin": answer.origin}
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
        "label_source": label_source({r.kind for r in counted}),
    }


def label_source(kinds: set[Kind]) -> str:
    """One simulated ranking among an item's rankings makes its label a simulated one."""
    if "simulated" in kinds:
        return "simulated annotators (rules + noise)"
    return "human annotators" if "human" in kinds else "file"


def _some(names: Iterable[str]) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
