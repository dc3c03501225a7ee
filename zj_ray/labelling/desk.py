"""Who ranks what: tickets are planned, claimed, given back and done; what was said goes into `ranking`, event by event.

A place at an item is a ticket, and an annotator takes it in one transaction, so that no two of them ever hold the same
one. `plan` decides how many there are (two for the overlapping share, one for the others), two annotators who disagree
make one more for an adjudicator who is neither of them, and gold items get one for every annotator when his turn comes.
What a reader must not get wrong: a saved ranking and its ticket's new state are written together or not at all, and a
ranking that comes late is kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, bindparam, column, delete, func, insert, select, table, update

from zj_ray.agreement.concordance import disagree, similarity
from zj_ray.config.schema import LabelConfig
from zj_ray.errors import DataError
from zj_ray.rankings.consensus import consensus, settled
from zj_ray.rankings.store import RankingStore, event_row, newest, read_ranking
from zj_ray.rankings.tables import GoldRow, Item, ItemRow, Ranking, RankingRow, Table, TicketRow

FREE, OPEN, DONE, SKIPPED, LATE = "free", "open", "done", "skipped", "late"
ADJUDICATION = 0  # the slot of the third expert; annotators hold 1 and 2
PROGRESS_SECONDS = 5.0
TICKET = Table.metadata.tables[TicketRow.__tablename__]
SCHEMA = table(
    "alembic_version", column("version_num")
)  # has one row, always the same: a lock that every planner finds


class NotAssigned(DataError):
    """Somebody speaks of an item that he was not given, or is done with."""


@dataclass(frozen=True)
class Task:
    """What an annotator is to rank. shown: positions of the answers in the order of display. earlier: what he said before and took back."""

    item: Item
    shown: tuple[int, ...]
    adjudicating: bool
    earlier: Ranking | None


class Desk:
    """Hands out the items of a store and takes the rankings."""

    def __init__(self, store: RankingStore, config: LabelConfig) -> None:
        self._store, self._config = store, config
        self._counted: tuple[float, dict[str, dict[str, int]]] = (-math.inf, {})

    def plan(self, disagreement: Mapping[str, float]) -> None:
        """Make the tickets that are wanted and missing, drop free ones that are not wanted, and put all in order.

        disagreement: of the reward models about each item; with `active` the largest come first, the others after them by chance.
        """
        with self._store.writing() as connection:
            connection.execute(select(SCHEMA).with_for_update())  # one planner at a time, also of another server
            gold = set(connection.scalars(select(GoldRow.item)))
            items = [item for item in connection.scalars(select(ItemRow.id)) if item not in gold]
            wanted = {
                (item, slot)
                for item, places in places_of(items, self._config.overlap).items()
                for slot in range(1, places + 1)
            }
            first = disagreement if self._config.active else {}
            there = {
                (row.item, row.slot): row
                for row in connection.execute(select(TICKET).where(TICKET.c.slot > ADJUDICATION))
            }
            stale = [row.id for place, row in there.items() if row.state == FREE and place not in wanted]
            fresh = [_free(item, slot, 0.0) for item, slot in sorted(wanted - there.keys())]
            for ticket in stale:
                connection.execute(
                    delete(TICKET).where(TICKET.c.id == ticket, TICKET.c.state == FREE)
                )  # unless somebody has taken it by now
            if fresh:
                connection.execute(insert(TICKET), fresh)
            order = [{"of": item, "comes": 1.0 + first[item] if item in first else draw(item)} for item in items]
            if order:
                waiting = update(TICKET).where(TICKET.c.item == bindparam("of"), TICKET.c.state == FREE)
                connection.execute(waiting.values(priority=bindparam("comes")), order)

    def unplanned(self) -> bool:
        """Whether items came into the store after the plan."""
        ticket, gold = (
            select(TICKET.c.id).where(TICKET.c.item == ItemRow.id),
            select(GoldRow.item).where(GoldRow.item == ItemRow.id),
        )
        with self._store.reading() as connection:
            return connection.scalar(select(ItemRow.id).where(~ticket.exists(), ~gold.exists()).limit(1)) is not None

    def next(self, annotator: str, *, adjudicating: bool = False) -> Task | None:
        """The item that he has open, or else a new one; None when there is nothing left for him. Renews the time that he has for it."""
        now = time.time()
        taken = {"annotator": annotator, "state": OPEN, "since": now, "until": now + 60 * self._config.lease_minutes}
        his = (
            (TICKET.c.annotator == annotator)
            & TICKET.c.state.in_((OPEN, LATE))
            & (TICKET.c.adjudicating == adjudicating)
        )
        expired = (
            (TICKET.c.state == OPEN) & (TICKET.c.until < now) & TICKET.c.slot.is_not(None)
        )  # a gold item keeps nobody waiting
        with self._store.writing(sync="NORMAL") as connection:
            held = connection.execute(select(TICKET).where(his | expired).with_for_update(skip_locked=True)).all()
            opened = [
                ticket
                for ticket in held
                if ticket.annotator == annotator and ticket.state == OPEN and ticket.adjudicating == adjudicating
            ]
            ticket = max(opened, key=lambda each: each.since, default=None)
            if ticket is not None:
                connection.execute(update(TICKET).where(TICKET.c.id == ticket.id).values(until=taken["until"]))
            else:
                ticket = self._claim(connection, held, taken, adjudicating)
            if ticket is None:
                return None
            earlier = _taken_back(connection, ticket.item, annotator) if ticket.since else None
        [item] = self._store.items([ticket.item])
        return Task(item, display_order(item.id, annotator, len(item.answers)), adjudicating, earlier)

    def save(self, said: Ranking, key: str) -> None:
        """Store a ranking (`shown`, `seconds` and `adjudicated` are filled in here) once, however often it is sent under the same key.

        Raises NotAssigned if he was not given the item or has ranked it already, and DataError if the ranking does not fit.
        """
        self._store.check([said])
        if said.all_wrong != bool(said.right_answer):
            what = (
                "all answers are wrong, but the right one is missing"
                if said.all_wrong
                else "there is a right answer, but not all are wrong"
            )
            raise DataError(what, where=said.item, remedy="write the right answer where all are wrong, and only there")
        key, now = hashlib.sha256(f"{said.annotator}/{said.item}/{key}".encode()).hexdigest(), time.time()
        with self._store.writing() as connection:
            tickets = _lock(connection, said.item)
            if connection.scalar(select(RankingRow.event).where(RankingRow.key == key)) is not None:
                return
            mine = _of(tickets, said, OPEN, LATE)
            slot = mine.slot if mine.state == OPEN else _reclaim(connection, mine)
            ranking = replace(
                said, adjudicated=mine.adjudicating, seconds=round(now - mine.since, 1), created=datetime.now(UTC),
                shown=display_order(said.item, said.annotator, len(said.overall)),
            )  # fmt: skip
            connection.execute(insert(RankingRow), [event_row(ranking) | {"key": key}])
            connection.execute(update(TICKET).where(TICKET.c.id == mine.id).values(state=DONE, slot=slot))
            if any(ticket.state == DONE for ticket in tickets):
                self._review(connection, said.item)

    def skip(self, item: str, annotator: str, reason: str) -> None:
        """Leave an open item to somebody else, and say why. Raises NotAssigned if it is not his."""
        said = Ranking(item, annotator, "human", (), comment=reason, created=datetime.now(UTC))
        with self._store.writing() as connection:
            mine = _of(_lock(connection, item), said, OPEN, LATE)
            connection.execute(insert(RankingRow), [event_row(said) | {"action": "skip"}])
            _pass_on(connection, mine, SKIPPED)

    def undo(self, item: str, annotator: str) -> bool:
        """Take back his ranking or skip of an item, which is open for him again; whether it was an adjudication.

        Raises NotAssigned if there is nothing to take back, or somebody else has his place by now.
        """
        said = Ranking(item, annotator, "human", (), created=datetime.now(UTC))
        now = time.time()
        with self._store.writing() as connection:
            mine = _of(_lock(connection, item), said, DONE, SKIPPED)
            slot = _reclaim(connection, mine) if mine.state == SKIPPED else mine.slot
            if mine.state == SKIPPED and slot is None and not _is_gold(connection, item):
                raise NotAssigned("somebody else ranks this item by now", where=item, remedy="go on with the next one")
            connection.execute(insert(RankingRow), [event_row(said) | {"action": "undo"}])
            again = {"state": OPEN, "slot": slot, "since": now, "until": now + 60 * self._config.lease_minutes}
            connection.execute(update(TICKET).where(TICKET.c.id == mine.id).values(again))
            self._review(connection, item)
        return mine.adjudicating

    def add_gold(self, ranks: Mapping[str, Sequence[int]], author: str) -> None:
        """Make these items gold ones, which every annotator is given in time. Raises DataError as `RankingStore.add_gold` does."""
        self._store.add_gold(ranks, author)
        with self._store.writing() as connection:
            connection.execute(delete(TICKET).where(TICKET.c.item.in_(list(ranks)), TICKET.c.state == FREE))

    def gold_candidates(self, rankings: Mapping[str, Sequence[Ranking]], number: int) -> list[str]:
        """Items with sure ranks: those that an adjudicator decided, then those about which most annotators agree most.

        None is in dispute, and none has all its answers tied: by such a one nobody's accuracy could be told. rankings: of the annotators, by item.
        """

        def sureness(item: str) -> tuple[bool, int, float, str]:
            said = rankings[item]
            alike = [similarity(a.overall, b.overall) for a, b in combinations(said, 2)]
            return any(r.adjudicated for r in said), len(said), sum(alike) / max(len(alike), 1), item

        def fit(said: Sequence[Ranking]) -> bool:
            return len(set(consensus(settled(said)))) > 1 and not disagree(settled(said), self._config.threshold)

        return sorted((item for item, said in rankings.items() if fit(said)), key=sureness, reverse=True)[:number]

    def mine(self, annotator: str) -> dict[str, int]:
        """How many tickets he has in each state."""
        with self._store.reading() as connection:
            counts = (
                select(TICKET.c.state, func.count()).where(TICKET.c.annotator == annotator).group_by(TICKET.c.state)
            )
            return {state: count for state, count in connection.execute(counts)}

    def progress(self) -> dict[str, dict[str, int]]:
        """How many places of all, for annotators ("rank") and adjudicators ("adjudicate"), are in each state; a few seconds old."""
        if (
            time.monotonic() - self._counted[0] > PROGRESS_SECONDS
        ):  # counting all for every page would cost more than the page
            self._counted = (time.monotonic(), self._count())
        return self._counted[1]

    def _count(self) -> dict[str, dict[str, int]]:
        with self._store.reading() as connection:
            rows = connection.execute(
                select(TICKET.c.adjudicating, TICKET.c.state, func.count())
                .where(TICKET.c.slot.is_not(None))
                .group_by(TICKET.c.adjudicating, TICKET.c.state)
            ).all()
        return {
            name: {state: count for adjudicating, state, count in rows if adjudicating == (name == "adjudicate")}
            for name in ("rank", "adjudicate")
        }

    def history(self, annotator: str, limit: int = 100) -> list[Row[Any]]:
        """His newest events, the newest first, each with `counts`: whether it still does and can be taken back."""
        after = RankingRow.__table__.alias()
        later = select(after.c.event).where(
            after.c.item == RankingRow.item, after.c.annotator == annotator, after.c.event > RankingRow.event
        )
        counts = RankingRow.action.in_(("rank", "skip")) & ~later.exists()
        query = select(RankingRow.__table__, counts.label("counts")).where(RankingRow.annotator == annotator)
        with self._store.reading() as connection:
            return list(connection.execute(query.order_by(RankingRow.event.desc()).limit(limit)))

    def has_adjudicated(self, item: str, annotator: str) -> bool:
        """Whether he has said his own word on it, and so may see the others'."""
        done = select(TICKET.c.id).where(
            TICKET.c.item == item, TICKET.c.annotator == annotator, TICKET.c.adjudicating, TICKET.c.state == DONE
        )
        with self._store.reading() as connection:
            return connection.scalar(done) is not None

    def _claim(
        self, connection: Connection, held: Sequence[Row[Any]], taken: dict[str, Any], adjudicating: bool
    ) -> Row[Any] | None:
        """The ticket as it was before `taken` made it his: a place that he lost and nobody took, gold, or the first free one."""
        annotator = taken["annotator"]
        for ticket in held:
            if ticket.state == OPEN:
                _pass_on(connection, ticket, LATE)
        for ticket in held:
            if ticket.state == LATE and (slot := _reclaim(connection, ticket)) is not None:
                connection.execute(update(TICKET).where(TICKET.c.id == ticket.id).values(taken | {"slot": slot}))
                return ticket
        gold = None if adjudicating else self._gold(connection, annotator)
        if gold is not None:
            return connection.execute(
                insert(TICKET).values({**_free(gold, None, 0.0), **taken}).returning(TICKET)
            ).one()
        his = TICKET.alias()
        seen = select(his.c.id).where(his.c.item == TICKET.c.item, his.c.annotator == annotator).exists()
        free = select(TICKET).where(TICKET.c.state == FREE, TICKET.c.adjudicating == adjudicating, ~seen)
        first = connection.execute(
            free.order_by(TICKET.c.priority.desc(), TICKET.c.id).limit(1).with_for_update(skip_locked=True)
        ).first()
        if first is not None:
            connection.execute(update(TICKET).where(TICKET.c.id == first.id).values(taken))
        return first

    def _gold(self, connection: Connection, annotator: str) -> str | None:
        """The gold item whose turn it is for him, if it is one's: by lot, but the same one however often he asks."""
        his = TICKET.c.annotator == annotator
        if draw(f"gold/{annotator}/{connection.scalar(select(func.count()).where(his))}") >= self._config.gold:
            return None
        left = connection.scalars(
            select(GoldRow.item).where(GoldRow.item.not_in(select(TICKET.c.item).where(his)))
        ).all()
        return min(left, key=lambda item: draw(f"{annotator}/{item}"), default=None)

    def _review(self, connection: Connection, item: str) -> None:
        """Call for an adjudicator where the annotators of an item disagree, and no longer where they don't."""
        said = [r for r in newest(connection, [item]).get(item, []) if r.kind == "human" and not r.adjudicated]
        wanted = disagree(said, self._config.threshold) and not _is_gold(connection, item)
        place = connection.execute(select(TICKET).where(TICKET.c.item == item, TICKET.c.slot == ADJUDICATION)).first()
        if wanted and place is None:
            connection.execute(insert(TICKET), [_free(item, ADJUDICATION, draw(item))])
        elif not wanted and place is not None and place.state == FREE:
            connection.execute(delete(TICKET).where(TICKET.c.id == place.id))


def draw(text: str) -> float:
    """A number in [0, 1) that is chance to everybody and always the same for the same text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56


def places_of(items: Iterable[str], overlap: float) -> dict[str, int]:
    """How many annotators each item needs: two for the share `overlap` of them, whichever the lot falls on, else one."""
    by_lot = sorted(items, key=draw)
    twice = round(overlap * len(by_lot))
    return {item: 2 if number < twice else 1 for number, item in enumerate(by_lot)}


def display_order(item: str, annotator: str, answers: int) -> tuple[int, ...]:
    """Positions of the answers as he sees them: by lot, but the same ones whenever he comes back."""
    return tuple(random.Random(f"{item}/{annotator}").sample(range(answers), answers))


def read_priorities(path: Path) -> dict[str, float]:
    """{item: how far the reward models disagree about it}, largest first in active selection; empty where nobody wrote the file."""
    if not path.exists():
        return {}
    try:
        return {str(item): float(value) for item, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError) as fault:
        raise DataError(
            "this does not say how far the reward models disagree", where=str(path), remedy='write {"item id": 0.7, …}'
        ) from fault


def _free(item: str, slot: int | None, priority: float) -> dict[str, Any]:
    return {"item": item, "slot": slot, "adjudicating": slot == ADJUDICATION, "state": FREE, "priority": priority}


def _pass_on(connection: Connection, ticket: Row[Any], state: str) -> None:
    """Its holder leaves the place, which is free again for others; that he was there stays known."""
    connection.execute(update(TICKET).where(TICKET.c.id == ticket.id).values(state=state, slot=None))
    if ticket.slot is not None:
        connection.execute(insert(TICKET), [_free(ticket.item, ticket.slot, ticket.priority)])


def _reclaim(connection: Connection, ticket: Row[Any]) -> int | None:
    """A free place at the ticket's item for one who left his; None if there is none."""
    same = (TICKET.c.item == ticket.item) & (TICKET.c.adjudicating == ticket.adjudicating) & (TICKET.c.state == FREE)
    place = connection.execute(select(TICKET).where(same).limit(1).with_for_update(skip_locked=True)).first()
    if place is None:
        return None
    connection.execute(delete(TICKET).where(TICKET.c.id == place.id))
    return place.slot


def _lock(connection: Connection, item: str) -> list[Row[Any]]:
    """All tickets of an item; nobody else changes them until the transaction ends."""
    return list(connection.execute(select(TICKET).where(TICKET.c.item == item).with_for_update()))


def _of(tickets: Sequence[Row[Any]], said: Ranking, *states: str) -> Row[Any]:
    for ticket in tickets:
        if ticket.annotator == said.annotator and ticket.state in states:
            return ticket
    raise NotAssigned(
        f"{said.annotator!r} has no such work on this item", where=said.item, remedy="go on with the next one"
    )


def _is_gold(connection: Connection, item: str) -> bool:
    return connection.scalar(select(GoldRow.item).where(GoldRow.item == item)) is not None


def _taken_back(connection: Connection, item: str, annotator: str) -> Ranking | None:
    """What he said last of an item that is open for him: he took it back, and starts from it."""
    his = (RankingRow.item == item) & (RankingRow.annotator == annotator) & (RankingRow.action == "rank")
    row = connection.execute(select(RankingRow.__table__).where(his).order_by(RankingRow.event.desc()).limit(1)).first()
    return None if row is None else read_ranking(row)
