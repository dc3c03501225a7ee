"""Tickets: who ranks which item. One is free, then open, then done; or skipped; or late: left open for too long.

An item has numbered slots, one for each annotator that it needs. The table lets one ticket fill a slot, so no two
annotators ever hold the same one. Every function here works inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from zj_ray.errors import DataError
from zj_ray.rankings.lots import draw
from zj_ray.rankings.tables import GoldRow, Ranking, Table, TicketRow

FREE, OPEN, DONE, SKIPPED, LATE = "free", "open", "done", "skipped", "late"
ADJUDICATION = 0  # the adjudicator's slot; annotators have 1 and 2
TICKET = Table.metadata.tables[TicketRow.__tablename__]

Ticket = Row[Any]


class NotAssigned(DataError):
    """An annotator speaks of an item that they were not given, or are done with."""


def annotators_needed(items: Iterable[str], overlap: float) -> dict[str, int]:
    """How many annotators each item needs: two for the share `overlap` of the items, drawn by lot, else one."""
    by_lot = sorted(items, key=draw)
    twice = round(overlap * len(by_lot))
    return {item: 2 if number < twice else 1 for number, item in enumerate(by_lot)}


def new_ticket(item: str, slot: int | None, priority: float) -> dict[str, Any]:
    """The row of a ticket that nobody has yet."""
    return {"item": item, "slot": slot, "adjudicating": slot == ADJUDICATION, "state": FREE, "priority": priority}


def fill_slots(connection: Connection, annotators: Mapping[str, int]) -> None:
    """Make the tickets that are missing, and drop the free ones that no item needs.

    annotators: how many each item needs.
    """
    needed = {(item, slot) for item, number in annotators.items() for slot in range(1, number + 1)}
    tickets = connection.execute(select(TICKET).where(TICKET.c.slot > ADJUDICATION)).all()
    for ticket in tickets:
        if ticket.state == FREE and (ticket.item, ticket.slot) not in needed:
            # Somebody may have taken it since it was read.
            connection.execute(delete(TICKET).where(TICKET.c.id == ticket.id, TICKET.c.state == FREE))
    missing = needed - {(ticket.item, ticket.slot) for ticket in tickets}
    if missing:
        connection.execute(insert(TICKET), [new_ticket(item, slot, 0.0) for item, slot in sorted(missing)])


def lock_tickets(connection: Connection, item: str) -> list[Ticket]:
    """All tickets of an item; nobody else changes them until the transaction ends.

    Everybody locks them in the same order, or two who save at once could wait for each other.
    """
    in_order = select(TICKET).where(TICKET.c.item == item).order_by(TICKET.c.id)
    return list(connection.execute(in_order.with_for_update()))


def find_ticket(tickets: Sequence[Ticket], ranking: Ranking, *states: str) -> Ticket:
    """The ticket of the ranking's annotator, in one of these states. Raises NotAssigned where there is none."""
    for ticket in tickets:
        if ticket.annotator == ranking.annotator and ticket.state in states:
            return ticket
    what = f"{ranking.annotator!r} has no such work on this item"
    raise NotAssigned(what, where=ranking.item, remedy="go on with the next one")


def pass_on(connection: Connection, ticket: Ticket, state: str) -> None:
    """Take the slot from the annotator who holds it and free it for others; the ticket, in `state`, stays theirs."""
    connection.execute(update(TICKET).where(TICKET.c.id == ticket.id).values(state=state, slot=None))
    if ticket.slot is not None:
        connection.execute(insert(TICKET), [new_ticket(ticket.item, ticket.slot, ticket.priority)])


def reclaim(connection: Connection, ticket: Ticket) -> int | None:
    """Take a free slot of the item for an annotator whose ticket has lost its own; None where none is free."""
    same = (TICKET.c.item == ticket.item) & (TICKET.c.adjudicating == ticket.adjudicating) & (TICKET.c.state == FREE)
    free = connection.execute(select(TICKET).where(same).limit(1).with_for_update(skip_locked=True)).first()
    if free is None:
        return None
    connection.execute(delete(TICKET).where(TICKET.c.id == free.id))
    return free.slot


def is_gold(connection: Connection, item: str) -> bool:
    """Whether the right ranks of the item are known."""
    return connection.scalar(select(GoldRow.item).where(GoldRow.item == item)) is not None
