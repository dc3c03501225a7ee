"""The desk hands out the items of a store and takes what annotators say of them, event by event, into `ranking`.

An annotator takes a ticket in one transaction (`labelling/tickets`). `plan` decides how many there are: two for the
overlapping share of the items, one for the others. Two annotators who disagree make one more, for an adjudicator who
is neither of them, and a gold item gets one for every annotator when its turn comes. What a reader must not get wrong:
a saved ranking and its ticket's new state are written together or not at all, and a ranking that comes late is kept.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

from sqlalchemy import Connection, Row, bindparam, column, delete, func, insert, select, table, update

from zj_ray.agreement.concordance import disagree, similarity
from zj_ray.config.schema import LabelConfig
from zj_ray.errors import DataError
from zj_ray.labelling.tickets import (
    ADJUDICATION,
    DONE,
    FREE,
    LATE,
    OPEN,
    SKIPPED,
    TICKET,
    NotAssigned,
    Ticket,
    annotators_needed,
    fill_slots,
    find_ticket,
    is_gold,
    lock_tickets,
    new_ticket,
    pass_on,
    reclaim,
)
from zj_ray.rankings.consensus import consensus, settled
from zj_ray.rankings.lots import draw
from zj_ray.rankings.store import RankingStore, newest, read_ranking
from zj_ray.rankings.tables import GoldRow, Item, ItemRow, Ranking, RankingRow

PROGRESS_SECONDS = 5.0
VERSION = table("alembic_version", column("version_num"))  # always one row: a lock that every planner finds


@dataclass(frozen=True)
class Task:
    """What an annotator is to rank.

    shown: positions of the answers in the order of display. earlier: the annotator's ranking that was taken back.
    """

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
        """Make the tickets that are missing, drop free ones that no item needs, and put all in order.

        disagreement: of the reward models about each item; with `active` the largest comes first, the rest by lot.
        """
        with self._store.writing() as connection:
            connection.execute(select(VERSION).with_for_update())  # one planner at a time, also of another server
            gold = set(connection.scalars(select(GoldRow.item)))
            items = [item for item in connection.scalars(select(ItemRow.id)) if item not in gold]
            fill_slots(connection, annotators_needed(items, self._config.overlap))
            first = disagreement if self._config.active else {}
            order = [{"of": item, "comes": 1.0 + first[item] if item in first else draw(item)} for item in items]
            if order:
                waiting = update(TICKET).where(TICKET.c.item == bindparam("of"), TICKET.c.state == FREE)
                connection.execute(waiting.values(priority=bindparam("comes")), order)

    def unplanned(self) -> bool:
        """Whether items came into the store after the plan."""
        ticket = select(TICKET.c.id).where(TICKET.c.item == ItemRow.id)
        gold = select(GoldRow.item).where(GoldRow.item == ItemRow.id)
        with self._store.reading() as connection:
            return connection.scalar(select(ItemRow.id).where(~ticket.exists(), ~gold.exists()).limit(1)) is not None

    def next(self, annotator: str, *, adjudicating: bool = False) -> Task | None:
        """The item that the annotator has open, or else a new one; None where nothing is left for them.

        The time that they have for it starts anew.
        """
        now = time.time()
        claim = {"annotator": annotator, "state": OPEN, "since": now, "until": now + 60 * self._config.lease_minutes}
        own = (TICKET.c.annotator == annotator) & (TICKET.c.adjudicating == adjudicating)
        unfinished = own & TICKET.c.state.in_((OPEN, LATE))
        # A gold item has no slot, and keeps nobody waiting.
        expired = (TICKET.c.state == OPEN) & (TICKET.c.until < now) & TICKET.c.slot.is_not(None)
        with self._store.writing(sync="NORMAL") as connection:
            query = select(TICKET).where(unfinished | expired).with_for_update(skip_locked=True)
            tickets = connection.execute(query).all()
            theirs = [t for t in tickets if t.annotator == annotator and t.adjudicating == adjudicating]
            ticket = max((t for t in theirs if t.state == OPEN), key=lambda each: each.since, default=None)
            if ticket is not None:
                connection.execute(update(TICKET).where(TICKET.c.id == ticket.id).values(until=claim["until"]))
            else:
                ticket = self._claim(connection, tickets, claim, adjudicating)
            if ticket is None:
                return None
            earlier = _newest_ranking(connection, ticket.item, annotator) if ticket.since else None
        [item] = self._store.items([ticket.item])
        return Task(item, display_order(item.id, annotator, len(item.answers)), adjudicating, earlier)

    def save(self, ranking: Ranking, key: str) -> None:
        """Store a ranking once, however often it is sent under the same key.

        `shown`, `seconds`, `adjudicated` and `created` are filled in here. Raises NotAssigned where the annotator was
        not given the item or has ranked it already, and DataError where the ranking does not fit it.
        """
        self._store.check([ranking])
        _check_right_answer(ranking)
        key, now = hashlib.sha256(f"{ranking.annotator}/{ranking.item}/{key}".encode()).hexdigest(), time.time()
        with self._store.writing() as connection:
            tickets = lock_tickets(connection, ranking.item)
            if connection.scalar(select(RankingRow.event).where(RankingRow.key == key)) is not None:
                return
            ticket = find_ticket(tickets, ranking, OPEN, LATE)
            slot = ticket.slot if ticket.state == OPEN else reclaim(connection, ticket)
            row = asdict(ranking) | {"adjudicated": ticket.adjudicating, "seconds": round(now - ticket.since, 1)}
            shown = display_order(ranking.item, ranking.annotator, len(ranking.overall))
            row |= {"shown": shown, "created": datetime.now(UTC), "key": key}
            connection.execute(insert(RankingRow), [row])
            connection.execute(update(TICKET).where(TICKET.c.id == ticket.id).values(state=DONE, slot=slot))
            if any(other.state == DONE for other in tickets):
                self._review(connection, ranking.item)

    def skip(self, item: str, annotator: str, reason: str) -> None:
        """Leave an open item to somebody else, and say why. Raises NotAssigned where it is not the annotator's."""
        event = Ranking(item, annotator, "human", (), comment=reason, created=datetime.now(UTC))
        with self._store.writing() as connection:
            ticket = find_ticket(lock_tickets(connection, item), event, OPEN, LATE)
            connection.execute(insert(RankingRow), [asdict(event) | {"action": "skip"}])
            pass_on(connection, ticket, SKIPPED)

    def undo(self, item: str, annotator: str) -> bool:
        """Take back an annotator's ranking or skip of an item, which they have open again.

        Returns whether they adjudicated it. Raises NotAssigned where there is nothing to take back, or somebody else
        has their slot by now.
        """
        event = Ranking(item, annotator, "human", (), created=datetime.now(UTC))
        now = time.time()
        with self._store.writing() as connection:
            ticket = find_ticket(lock_tickets(connection, item), event, DONE, SKIPPED)
            slot = reclaim(connection, ticket) if ticket.state == SKIPPED else ticket.slot
            if ticket.state == SKIPPED and slot is None and not is_gold(connection, item):
                raise NotAssigned("somebody else ranks this item by now", where=item, remedy="go on with the next one")
            connection.execute(insert(RankingRow), [asdict(event) | {"action": "undo"}])
            again = {"state": OPEN, "slot": slot, "since": now, "until": now + 60 * self._config.lease_minutes}
            connection.execute(update(TICKET).where(TICKET.c.id == ticket.id).values(again))
            self._review(connection, item)
        return ticket.adjudicating

    def add_gold(self, ranks: Mapping[str, Sequence[int]], author: str) -> None:
        """Make these items gold: every annotator is given them in time. Raises as `RankingStore.add_gold` does."""
        self._store.add_gold(ranks, author)
        with self._store.writing() as connection:
            connection.execute(delete(TICKET).where(TICKET.c.item.in_(list(ranks)), TICKET.c.state == FREE))

    def gold_candidates(self, rankings: Mapping[str, Sequence[Ranking]], number: int) -> list[str]:
        """Items with sure ranks: those that an adjudicator decided, then those about which most annotators agree most.

        None is in dispute, and none has all its answers tied: by such a one nobody's accuracy could be told.
        rankings: of the annotators, by item.
        """

        def sureness(item: str) -> tuple[bool, int, float, str]:
            of_item = rankings[item]
            alike = [similarity(a.overall, b.overall) for a, b in combinations(of_item, 2)]
            return any(r.adjudicated for r in of_item), len(of_item), sum(alike) / max(len(alike), 1), item

        def fit(counted: Sequence[Ranking]) -> bool:
            return len(set(consensus(counted))) > 1 and not disagree(counted, self._config.threshold)

        fit_items = (item for item, of_item in rankings.items() if fit(settled(of_item)))
        return sorted(fit_items, key=sureness, reverse=True)[:number]

    def tickets_of(self, annotator: str) -> dict[str, int]:
        """How many tickets the annotator has in each state."""
        number = select(TICKET.c.state, func.count()).where(TICKET.c.annotator == annotator).group_by(TICKET.c.state)
        with self._store.reading() as connection:
            return {state: count for state, count in connection.execute(number)}

    def progress(self) -> dict[str, dict[str, int]]:
        """How many slots of annotators ("rank") and adjudicators ("adjudicate") are in each state; a few seconds old.

        To count them for every page would cost more than the page.
        """
        if time.monotonic() - self._counted[0] > PROGRESS_SECONDS:
            self._counted = (time.monotonic(), self._count())
        return self._counted[1]

    def _count(self) -> dict[str, dict[str, int]]:
        kinds = (TICKET.c.adjudicating, TICKET.c.state)
        with self._store.reading() as connection:
            slots = select(*kinds, func.count()).where(TICKET.c.slot.is_not(None))
            rows = connection.execute(slots.group_by(*kinds)).all()
        return {
            name: {state: count for adjudicating, state, count in rows if adjudicating == (name == "adjudicate")}
            for name in ("rank", "adjudicate")
        }

    def history(self, annotator: str, limit: int = 100) -> list[Row[Any]]:
        """The annotator's newest events, the newest first; `counts` of each: it still does, and can be taken back."""
        after = RankingRow.__table__.alias()
        later = select(after.c.event).where(
            after.c.item == RankingRow.item, after.c.annotator == annotator, after.c.event > RankingRow.event
        )
        counts = RankingRow.action.in_(("rank", "skip")) & ~later.exists()
        query = select(RankingRow.__table__, counts.label("counts")).where(RankingRow.annotator == annotator)
        with self._store.reading() as connection:
            return list(connection.execute(query.order_by(RankingRow.event.desc()).limit(limit)))

    def has_adjudicated(self, item: str, annotator: str) -> bool:
        """Whether the annotator has decided the item, and so may see what the others said."""
        decision = select(TICKET.c.id).where(
            TICKET.c.item == item, TICKET.c.annotator == annotator, TICKET.c.adjudicating, TICKET.c.state == DONE
        )
        with self._store.reading() as connection:
            return connection.scalar(decision) is not None

    def _claim(
        self, connection: Connection, tickets: Sequence[Ticket], claim: dict[str, Any], adjudicating: bool
    ) -> Ticket | None:
        """The next ticket for an annotator, as it was before `claim` made it theirs.

        It is a late one that finds a free slot, or else a gold item's, or else the first free one. tickets: the
        annotator's late ones, and everybody's that expired.
        """
        annotator = claim["annotator"]
        for ticket in tickets:
            if ticket.state == OPEN:
                pass_on(connection, ticket, LATE)
        for ticket in tickets:
            if ticket.state == LATE and (slot := reclaim(connection, ticket)) is not None:
                connection.execute(update(TICKET).where(TICKET.c.id == ticket.id).values(claim | {"slot": slot}))
                return ticket
        gold = None if adjudicating else self._gold(connection, annotator)
        if gold is not None:
            ticket_of_gold = insert(TICKET).values(new_ticket(gold, None, 0.0) | claim)
            return connection.execute(ticket_of_gold.returning(TICKET)).one()
        own = TICKET.alias()
        seen = select(own.c.id).where(own.c.item == TICKET.c.item, own.c.annotator == annotator).exists()
        free = select(TICKET).where(TICKET.c.state == FREE, TICKET.c.adjudicating == adjudicating, ~seen)
        in_order = free.order_by(TICKET.c.priority.desc(), TICKET.c.id)
        first = connection.execute(in_order.limit(1).with_for_update(skip_locked=True)).first()
        if first is not None:
            connection.execute(update(TICKET).where(TICKET.c.id == first.id).values(claim))
        return first

    def _gold(self, connection: Connection, annotator: str) -> str | None:
        """The gold item that is the annotator's next, if one is: by lot, but the same however often they ask."""
        own = TICKET.c.annotator == annotator
        if draw(f"gold/{annotator}/{connection.scalar(select(func.count()).where(own))}") >= self._config.gold:
            return None
        unseen = select(GoldRow.item).where(GoldRow.item.not_in(select(TICKET.c.item).where(own)))
        left = connection.scalars(unseen).all()
        return min(left, key=lambda item: draw(f"{annotator}/{item}"), default=None)

    def _review(self, connection: Connection, item: str) -> None:
        """Call for an adjudicator where the annotators of an item disagree, and no longer where they don't."""
        rankings = newest(connection, [item]).get(item, [])
        by_annotators = [r for r in rankings if r.kind == "human" and not r.adjudicated]
        dispute = disagree(by_annotators, self._config.threshold) and not is_gold(connection, item)
        query = select(TICKET).where(TICKET.c.item == item, TICKET.c.slot == ADJUDICATION)
        ticket = connection.execute(query).first()
        if dispute and ticket is None:
            connection.execute(insert(TICKET), [new_ticket(item, ADJUDICATION, draw(item))])
        elif not dispute and ticket is not None and ticket.state == FREE:
            connection.execute(delete(TICKET).where(TICKET.c.id == ticket.id))


def display_order(item: str, annotator: str, answers: int) -> tuple[int, ...]:
    """Positions of the answers as the annotator sees them: by lot, but the same ones whenever they come back."""
    return tuple(random.Random(f"{item}/{annotator}").sample(range(answers), answers))


def _check_right_answer(ranking: Ranking) -> None:
    if ranking.all_wrong == bool(ranking.right_answer):
        return
    lacking = "all answers are wrong, but the right one is missing"
    what = lacking if ranking.all_wrong else "there is a right answer, but not all are wrong"
    raise DataError(what, where=ranking.item, remedy="write the right answer where all are wrong, and only there")


def _newest_ranking(connection: Connection, item: str, annotator: str) -> Ranking | None:
    """The annotator's last ranking of an item that is open for them: they took it back, and start from it."""
    own = (RankingRow.item == item) & (RankingRow.annotator == annotator) & (RankingRow.action == "rank")
    row = connection.execute(select(RankingRow.__table__).where(own).order_by(RankingRow.event.desc()).limit(1)).first()
    return None if row is None else read_ranking(row)
