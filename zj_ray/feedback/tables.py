"""The three tables of the ranking store, and the frozen records that are read from them.

Rows are only ever added. Accounts, assignments and pages add tables of their own that refer to `item.id` and
`ranking.annotator`; nothing here has to change for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import JSON, DateTime, ForeignKey, Integer, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from zj_ray.data.messages import Message

Kind = Literal["simulated", "human", "file"]
KINDS: tuple[Kind, ...] = ("simulated", "human", "file")


class Table(DeclarativeBase):
    """Base of the tables; `Table.metadata` is what a migration compares against."""


class ItemRow(Table):
    __tablename__ = "item"

    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    prompt_id: Mapped[str] = mapped_column(String(128), index=True)
    context: Mapped[list[dict[str, str]]] = mapped_column(JSON)
    department: Mapped[str | None] = mapped_column(String(64))
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class AnswerRow(Table):
    __tablename__ = "answer"

    item: Mapped[str] = mapped_column(ForeignKey("item.id"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    origin: Mapped[dict[str, Any]] = mapped_column(JSON)


class RankingRow(Table):
    __tablename__ = "ranking"

    event: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    item: Mapped[str] = mapped_column(ForeignKey("item.id"), index=True)
    annotator: Mapped[str] = mapped_column(String(128), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    overall: Mapped[list[int]] = mapped_column(JSON)
    aspects: Mapped[dict[str, list[int]] | None] = mapped_column(JSON(none_as_null=True))
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True))


@dataclass(frozen=True)
class Answer:
    """origin: where the text came from, such as {"temperature": 1.0, "weight_version": 0}."""

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
    """One annotator's ranks of one item's answers, in the answers' order: 1 is best, equal ranks are ties."""

    item: str
    annotator: str
    kind: Kind
    overall: tuple[int, ...]
    aspects: dict[str, tuple[int, ...]] | None = None
