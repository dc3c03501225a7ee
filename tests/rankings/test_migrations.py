"""The store's tables: one shape however they came about, in SQLite and PostgreSQL, and old rows survive."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from tests.helpers.postgres import fresh_database, postgres
from zj_ray.data.messages import Message
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import Answer, Item, Ranking, Table

# As SQLAlchemy wrote them when stores had no versions.
OLD_TABLES = """
CREATE TABLE item (id VARCHAR(128) NOT NULL, prompt_id VARCHAR(128) NOT NULL, context JSON NOT NULL, department VARCHAR(64),
  created TIMESTAMP NOT NULL, PRIMARY KEY (id));
CREATE INDEX ix_item_prompt_id ON item (prompt_id);
CREATE TABLE answer (item VARCHAR(128) NOT NULL, position INTEGER NOT NULL, text TEXT NOT NULL, origin JSON NOT NULL,
  PRIMARY KEY (item, position), FOREIGN KEY(item) REFERENCES item (id));
CREATE TABLE ranking (event {number}, item VARCHAR(128) NOT NULL, annotator VARCHAR(128) NOT NULL, kind VARCHAR(16) NOT NULL,
  overall JSON NOT NULL, aspects JSON, created TIMESTAMP NOT NULL, FOREIGN KEY(item) REFERENCES item (id));
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


def test_a_store_from_before_versions_keeps_its_rows(new_url: Callable[[], str]) -> None:
    url = new_url()
    make_old(url)
    store = RankingStore(url)
    answers = (Answer("多久了？", {"temperature": 0.7}), Answer("吃药。"))
    assert store.items() == [Item("a", "case-1", (Message("user", "头痛三天"),), "内科", answers)]
    assert store.rankings("a") == [Ranking("a", "zhang", "human", (1, 2), {"safety": (1, 1)})]
    store.add_rankings([Ranking("a", "li", "human", (1, 1), all_wrong=True, right_answer="请先告诉我发热多久了")])
    store.close()
    engine = create_engine(url)
    with engine.connect() as connection:
        assert (
            connection.scalar(text("SELECT count(*) FROM ranking")) == 3
        )  # the first, superseded event is still there
    engine.dispose()


@pytest.mark.parametrize("old", [False, True])
def test_migrations_end_in_the_tables_that_the_code_describes(new_url: Callable[[], str], old: bool) -> None:
    url = new_url()
    if old:
        make_old(url)
    RankingStore(url).close()
    engine = create_engine(url)
    with engine.connect() as connection:
        differences = compare_metadata(
            MigrationContext.configure(connection, opts={"compare_type": not old}), Table.metadata
        )
    engine.dispose()
    assert differences == []


def test_a_migration_that_fails_leaves_the_old_store_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/a.sqlite"
    make_old(url)
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE ticket (id INTEGER)"))  # stands in the way of the last step
    with pytest.raises(Exception, match="ticket already exists"):
        RankingStore(url)
    with engine.begin() as connection:
        assert "action" not in {row.name for row in connection.execute(text("PRAGMA table_info(ranking)"))}
        connection.execute(text("DROP TABLE ticket"))
    engine.dispose()
    assert len(RankingStore(url).rankings("a")) == 1


def _open(url: str) -> None:
    RankingStore(url).close()


def test_processes_that_open_a_new_store_at_once_make_it_once(new_url: Callable[[], str]) -> None:
    url = new_url()
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map_async(_open, [url] * 8).get(timeout=120)
    store = RankingStore(url)
    store.add_item("a", [Message("user", "头痛")], [Answer("甲"), Answer("乙")])
    assert [item.id for item in store.items()] == ["a"]
