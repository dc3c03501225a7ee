"""The store's tables, in SQLite and PostgreSQL: made once, in one shape; those of another version are left alone."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

from tests.helpers.postgres import fresh_database, postgres
from zj_ray.data.messages import Message
from zj_ray.errors import DataError
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import Answer, Item, Ranking, Table

# As SQLAlchemy wrote them when stores had no versions.
OLD_TABLES = """
CREATE TABLE item (id VARCHAR(128) NOT NULL, prompt_id VARCHAR(128) NOT NULL, context JSON NOT NULL,
  department VARCHAR(64), created TIMESTAMP NOT NULL, PRIMARY KEY (id));
CREATE INDEX ix_item_prompt_id ON item (prompt_id);
CREATE TABLE answer (item VARCHAR(128) NOT NULL, position INTEGER NOT NULL, text TEXT NOT NULL, origin JSON NOT NULL,
  PRIMARY KEY (item, position), FOREIGN KEY(item) REFERENCES item (id));
CREATE TABLE ranking (event {number}, item VARCHAR(128) NOT NULL, annotator VARCHAR(128) NOT NULL,
  kind VARCHAR(16) NOT NULL, overall JSON NOT NULL, aspects JSON, created TIMESTAMP NOT NULL,
  FOREIGN KEY(item) REFERENCES item (id));
CREATE INDEX ix_ranking_item ON ranking (item);
CREATE INDEX ix_ranking_annotator ON ranking (annotator);
INSERT INTO item VALUES ('a', 'case-1', '[{{"role": "user", "content": "头痛三天"}}]', '内科', '2026-01-02 03:04:05');
INSERT INTO answer VALUES ('a', 0, '多久了？', '{{"temperature": 0.7}}'), ('a', 1, '吃药。', '{{}}');
INSERT INTO ranking (item, annotator, kind, overall, aspects, created) VALUES
  ('a', 'zhang', 'human', '[2, 1]', NULL, '2026-01-02 03:04:05'),
  ('a', 'zhang', 'human', '[1, 2]', '{{"safety": [1, 1]}}', '2026-01-02 03:05:05');
"""
NUMBER = {"sqlite": "INTEGER NOT NULL PRIMARY KEY", "postgresql": "SERIAL PRIMARY KEY"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes the URL of a database that holds nothing."""
    numbers = itertools.count()
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path}/{next(numbers)}.sqlite"
    server = request.getfixturevalue("server")
    return lambda: fresh_database(server)


def make_old(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in OLD_TABLES.format(number=NUMBER[engine.dialect.name]).split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement.replace("%", "%%"))
    engine.dispose()


def rows_of(url: str) -> dict[str, list[tuple]]:
    """Every table with its rows, as they are in the database."""
    engine = create_engine(url)
    with engine.connect() as connection:
        names = inspect(connection).get_table_names()
        tables = {name: [tuple(row) for row in connection.execute(text(f"SELECT * FROM {name}"))] for name in names}
    engine.dispose()
    return tables


@pytest.mark.parametrize("version", [None, "0001", "9999"])
def test_a_store_of_another_version_is_refused_by_name_and_left_as_it_was(
    new_url: Callable[[], str], version: str | None
) -> None:
    url = new_url()
    make_old(url)
    if version is not None:
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
            connection.execute(text(f"INSERT INTO alembic_version VALUES ('{version}')"))
        engine.dispose()
    before = rows_of(url)
    with pytest.raises(DataError, match=f"the tables are of version {version or '0001'}"):
        RankingStore(url)
    assert rows_of(url) == before and len(before["ranking"]) == 2


def test_a_store_of_this_version_is_opened_without_a_change(new_url: Callable[[], str]) -> None:
    url = new_url()
    store = RankingStore(url)
    answers = (Answer("多久了？", {"temperature": 0.7}), Answer("吃药。"))
    item = Item("a", "case-1", (Message("user", "头痛三天"),), "内科", answers)
    rankings = [
        Ranking("a", "li", "human", (1, 1), all_wrong=True, right_answer="请先告诉我发热多久了"),
        Ranking("a", "zhang", "human", (1, 2), {"safety": (1, 1)}),
    ]
    store.add_items([item], rankings)
    store.close()
    before = rows_of(url)
    again = RankingStore(url)
    assert again.contents() == ([item], rankings)
    again.close()
    assert rows_of(url) == before and before["alembic_version"] == [("0002",)]


def test_the_migration_makes_the_tables_that_the_code_describes(new_url: Callable[[], str]) -> None:
    url = new_url()
    RankingStore(url).close()
    engine = create_engine(url)
    with engine.connect() as connection:
        migration = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(migration, Table.metadata)
    engine.dispose()
    assert differences == []


def test_a_migration_that_fails_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.sqlite"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE ticket (id INTEGER)"))  # stands in the way of the last table
    with pytest.raises(Exception, match="ticket already exists"):
        RankingStore(url)
    assert rows_of(url) == {"ticket": []}
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE ticket"))
    engine.dispose()
    assert RankingStore(url).items() == []


def _open(url: str) -> None:
    RankingStore(url).close()


def test_processes_that_open_a_new_store_at_once_make_it_once(new_url: Callable[[], str]) -> None:
    url = new_url()
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map_async(_open, [url] * 8).get(timeout=120)
    store = RankingStore(url)
    store.add_items([Item("a", "a", (Message("user", "头痛"),), None, (Answer("甲"), Answer("乙")))])
    assert [item.id for item in store.items()] == ["a"]
