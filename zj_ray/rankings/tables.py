"""The tables of the ranking store, and the frozen records that are read from them. Rows are only ever added."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import TypeAdapter
from sqlalchemy import JSON, Boolean, DateTime, Float, ForeignKey, Index, Integer, String, Text, UniqueConstraint, false
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from zj_ray.data.messages import Message

Kind = Literal["simulated", "human", "file"]
KINDS: tuple[Kind, ...] = ("simulated", "human", "file")


class Table(DeclarativeBase):
    """The base of the tables; `Table.metadata` has them all."""


class ItemRow(Table):
    """A dialogue context whose answers are ranked."""

    __tablename__ = "item"

    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    prompt_id: Mapped[str] = mapped_column(String(128), index=True)
    context: Mapped[list[dict[str, str]]] = mapped_column(JSON)
    department: Mapped[str | None] = mapped_column(String(64))
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class AnswerRow(Table):
    """One of the answers to an item's context."""

    __tablename__ = "answer"

    item: Mapped[str] = mapped_column(ForeignKey("item.id"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    origin: Mapped[dict[str, Any]] = mapped_column(JSON)


class RankingRow(Table):
    """One event: an annotator ranked an item, skipped it, or took either back. The newest of each annotator counts.

    key: names the event for a page that may have to send it twice; it is stored once.
    """

    __tablename__ = "ranking"

    event: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    item: Mapped[str] = mapped_column(ForeignKey("item.id"), index=True)
    annotator: Mapped[str] = mapped_column(String(128), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    overall: Mapped[list[int]] = mapped_column(JSON)
    aspects: Mapped[dict[str, list[int]] | None] = mapped_column(JSON(none_as_null=True))
    action: Mapped[str] = mapped_column(String(8), server_default="rank")
    all_wrong: Mapped[bool] = mapped_column(Boolean, server_default=false())
    right_answer: Mapped[str | None] = mapped_column(Text)
    comment: Mapped[str | None] = mapped_column(Text)
    adjudicated: Mapped[bool] = mapped_column(Boolean, server_default=false())
    seconds: Mapped[float | None] = mapped_column(Float)
    shown: Mapped[list[int] | None] = mapped_column(JSON(none_as_null=True))
    key: Mapped[str | None] = mapped_column(String(64), unique=True, index=True)
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class GoldRow(Table):
    """The ranks that are known to be right for an item, by which annotators are measured."""

    __tablename__ = "gold"

    item: Mapped[str] = mapped_column(ForeignKey("item.id"), primary_key=True)
    overall: Mapped[list[int]] = mapped_column(JSON)
    author: Mapped[str] = mapped_column(String(128))
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class AccountRow(Table):
    """One event: an account was made, got another role or token, or was closed. The newest of each name counts.

    token_hash: SHA-256 of 32 random bytes; a slow hash would add nothing to a secret that nobody can guess.
    """

    __tablename__ = "account"

    event: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(String(64), index=True)
    role: Mapped[str] = mapped_column(String(16))
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class TicketRow(Table):
    """One annotator's work on one item. Tickets say who does what, so they change; `ranking`, which has it, never does.

    slot: which of the item's slots it fills; only one ticket does. None: it fills none (gold, skipped, or late).
    state: free, open, done, skipped, or late: given to somebody else because it was open too long.
    since, until: when it was first shown, and when an open one may be given away [s since 1970].
    """

    __tablename__ = "ticket"
    __table_args__ = (
        UniqueConstraint("item", "slot"),
        UniqueConstraint("item", "annotator"),
        Index("ix_ticket_order", "state", "priority"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    item: Mapped[str] = mapped_column(ForeignKey("item.id"))
    slot: Mapped[int | None] = mapped_column(Integer)
    adjudicating: Mapped[bool] = mapped_column(Boolean, server_default=false())
    annotator: Mapped[str | None] = mapped_column(String(128), index=True)
    state: Mapped[str] = mapped_column(String(8))
    priority: Mapped[float] = mapped_column(Float)
    since: Mapped[float | None] = mapped_column(Float)
    until: Mapped[float | None] = mapped_column(Float)


@dataclass(frozen=True)
class Answer:
    """An answer to be ranked. origin: where it came from, such as {"temperature": 1.0, "weight_version": 0}."""

    text: str
    origin: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """One dialogue context, whose last message is the patient's, and the K answers to be ranked."""

    id: str
    prompt_id: str
    context: tuple[Message, ...]
    department: str | None
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Ranking:
    """One annotator's ranks of one item's answers, in the answers' order: 1 is best, equal ranks are ties.

    all_wrong: none of the answers may be given to a patient. right_answer: what the annotator would have said instead.
    adjudicated: by an adjudicator over annotators who disagreed, so that it alone counts (`settled`).
    seconds: from the item's first display to the save. shown: positions of the answers in the order of display.
    """

    item: str
    annotator: str
    kind: Kind
    overall: tuple[int, ...]
    aspects: dict[str, tuple[int, ...]] | None = None
    all_wrong: bool = False
    right_answer: str | None = None
    comment: str | None = None
    adjudicated: bool = False
    seconds: float | None = None
    shown: tuple[int, ...] | None = None
    created: datetime | None = field(default=None, compare=False)


RANKING = TypeAdapter(Ranking)


def utc(time: datetime) -> datetime:
    """The time, taken to be UTC where it names no zone: SQLite gives it back without one."""
    return time.replace(tzinfo=time.tzinfo or UTC)
