"""Who may use the ranking page, as what. A token is shown once, when it is made; the store keeps only its hash."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, cast

from sqlalchemy import Select, func, insert, select

from zj_ray.errors import DataError
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import AccountRow

Role = Literal["annotator", "adjudicator", "admin", "closed"]
ROLES: tuple[Role, ...] = ("annotator", "adjudicator", "admin", "closed")


@dataclass(frozen=True)
class Account:
    """An account as its newest event left it. A session that was opened under an older `event` has ended."""

    name: str
    role: Role
    event: int


class Accounts:
    """The accounts of a store."""

    def __init__(self, store: RankingStore) -> None:
        self._store = store

    def give(self, name: str, role: str) -> str:
        """Make an account, or give it another role, and return its new token; older tokens end.

        Raises DataError for an unfit name and for an unknown role.
        """
        if not re.fullmatch(r"[\w.-]{1,64}", name):
            remedy = "use 1 to 64 letters, digits, '-', '_' or '.'"
            raise DataError(f"{name!r} can't be the name of an account", remedy=remedy)
        if role not in ROLES:
            raise DataError(f"there is no role {role!r}", remedy=f"use one of {', '.join(ROLES)}")
        token = secrets.token_urlsafe(32)
        row = {"name": name, "role": role, "token_hash": _hash(token), "created": datetime.now(UTC)}
        with self._store.writing() as connection:
            connection.execute(insert(AccountRow), [row])
        return token

    def all(self) -> list[Account]:
        """Every account, closed ones too, in order of name."""
        return self._read(_newest().order_by(AccountRow.name))

    def by_token(self, token: str) -> Account | None:
        """The account whose newest token this is, unless it is closed."""
        return self._open(_newest().where(AccountRow.token_hash == _hash(token)))

    def by_session(self, name: str, event: int) -> Account | None:
        """The account of this name, unless it is closed or got another role or token since `event`."""
        return self._open(_newest().where(AccountRow.name == name, AccountRow.event == event))

    def _open(self, query: Select) -> Account | None:
        return next((account for account in self._read(query) if account.role != "closed"), None)

    def _read(self, query: Select) -> list[Account]:
        with self._store.reading() as connection:
            return [Account(row.name, cast(Role, row.role), row.event) for row in connection.execute(query)]


def _newest() -> Select:
    """A query for the newest event of every account."""
    later = AccountRow.__table__.alias()
    newest = select(func.max(later.c.event)).where(later.c.name == AccountRow.name).scalar_subquery()
    return select(AccountRow.name, AccountRow.role, AccountRow.event).where(AccountRow.event == newest)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
