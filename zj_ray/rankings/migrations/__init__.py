"""The version of a store's tables: `migrate` makes or checks them whenever a store is opened."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from zj_ray.errors import DataError

NEWEST = "0002"
LOCK = 0x7A6A5F72  # any number that nobody else locks in this database


def migrate(connection: Connection, location: str) -> None:
    """Make the tables where there are none yet, inside the transaction of `connection`.

    Raises DataError for tables of another version, and leaves them as they are. location: of the store, for the error.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))  # SQLite's writers wait for each other anyway
    tables = inspect(connection).get_table_names()
    versioned = "alembic_version" in tables
    version = connection.scalar(text("SELECT version_num FROM alembic_version")) if versioned else None
    if version == NEWEST:
        return
    if "item" in tables:
        what = f"the tables are of version {version or '0001'}, which is not {NEWEST}; nothing was changed"
        how = "export the rankings with the zj_ray that made them (--format ranking), and import them into a new run"
        raise DataError(what, where=location, remedy=how)
    from alembic import command  # not needed to open a store that is there
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    command.upgrade(config, NEWEST)
