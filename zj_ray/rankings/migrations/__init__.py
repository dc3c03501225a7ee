"""The store's tables, version by version. Run when a store is opened, also over one that was made before there were versions."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

FIRST, NEWEST = "0001", "0002"
LOCK = 0x7A6A5F72  # any number that nobody else locks in this database


def migrate(connection: Connection) -> None:
    """Bring the tables to the newest version, inside the transaction of `connection`: all steps or none."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))  # SQLite's writers wait for each other anyway
    tables = inspect(connection).get_table_names()
    if "alembic_version" in tables and connection.scalar(text("SELECT version_num FROM alembic_version")) == NEWEST:
        return
    from alembic import command  # not needed to open a store that is up to date
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    if "item" in tables and "alembic_version" not in tables:
        command.stamp(config, FIRST)
    command.upgrade(config, NEWEST)
