"""Opens the SQL database behind a ranking store, and tells SQLite how to be safe with several writers."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import Engine

BUSY_SECONDS = 60.0  # the longest wait for another process that writes to the same SQLite file


def open_database(url: str) -> Engine:
    """The database at a SQLAlchemy URL, whose errors show no values: none may carry a patient's words into a log."""
    waits = {"timeout": BUSY_SECONDS} if url.startswith("sqlite") else {}
    engine = create_engine(url, connect_args=waits, hide_parameters=True)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # Python begins no transaction behind our back
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin(connection: Connection) -> None:
    sync = connection.get_execution_options().get("sync")  # of a transaction that writes
    if sync is not None:
        connection.exec_driver_sql(f"PRAGMA synchronous={sync}")
    connection.exec_driver_sql("BEGIN" if sync is None else "BEGIN IMMEDIATE")
