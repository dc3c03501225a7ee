"""The ranking store: append-only, safe with several writers, and true to the schema of data."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from tests.conftest import real_data_folder
from zj_ray.data.datasets import RankedItem, Response, load_rankings
from zj_ray.data.messages import Message
from zj_ray.errors import DataError
from zj_ray.rankings.store import RankingStore, consensus, pairs, places
from zj_ray.rankings.tables import Answer, Item, Ranking

CONTEXT = (Message("user", "医生，我头痛三天了。"),)
ANSWERS = tuple(
    Answer(text, {"temperature": t})
    for text, t in (("多久了？", 0.7), ("吃药。", 1.0), ("有没有发烧？", 1.0), ("不知道", 1.3))
)

WRITER = """
import sys
from zj_ray.data.messages import Message
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import Answer
store, name = RankingStore(sys.argv[1]), sys.argv[2]
for n in range(40):
    store.add_item(f"{name}-{n}", [Message("user", "头痛")], [Answer("甲"), Answer("乙")])
    store.add_ranking(f"{name}-{n}", name, "human", [1, 2])
"""


@pytest.fixture
def store(tmp_path: Path) -> RankingStore:
    store = RankingStore(tmp_path / "rankings.sqlite")
    store.add_item("a", CONTEXT, ANSWERS, prompt_id="case-1", department="内科")
    return store


def test_what_was_stored_comes_back(store: RankingStore) -> None:
    store.add_ranking("a", "zhang", "human", [1, 4, 1, 3], {"safety": [1, 1, 1, 1]})
    assert store.items() == [Item("a", "case-1", CONTEXT, "内科", ANSWERS)]
    assert store.rankings("a") == [Ranking("a", "zhang", "human", (1, 4, 1, 3), {"safety": (1, 1, 1, 1)})]


def test_a_store_that_is_opened_again_still_holds_its_rankings(store: RankingStore, tmp_path: Path) -> None:
    store.add_ranking("a", "zhang", "human", [1, 2, 3, 4])
    store.close()
    assert len(RankingStore(tmp_path / "rankings.sqlite").rankings("a")) == 1


def test_a_known_id_is_refused_and_nothing_of_its_batch_is_stored(store: RankingStore) -> None:
    with pytest.raises(DataError, match="in the store already"):
        store.add_items([Item("b", "b", CONTEXT, None, ANSWERS), Item("a", "a", CONTEXT, None, ANSWERS)])
    assert [item.id for item in store.items()] == ["a"]


def test_a_changed_mind_adds_an_event_and_the_newest_counts(store: RankingStore, tmp_path: Path) -> None:
    store.add_ranking("a", "zhang", "human", [1, 2, 3, 4])
    store.add_ranking("a", "zhang", "human", [4, 3, 2, 1])
    assert [r.overall for r in store.rankings("a")] == [(4, 3, 2, 1)]
    with sqlite3.connect(tmp_path / "rankings.sqlite") as connection:
        assert connection.execute("select count(*) from ranking").fetchone() == (2,)


@pytest.mark.parametrize("ranks", [[1, 2, 3], [0, 1, 2, 3], [1, 2, 3, 5]])
def test_ranks_that_do_not_fit_the_answers_are_refused(store: RankingStore, ranks: list[int]) -> None:
    with pytest.raises(DataError, match="don't fit 4 answers"):
        store.add_ranking("a", "zhang", "human", ranks)


def test_a_ranking_of_an_unknown_item_is_refused(store: RankingStore) -> None:
    with pytest.raises(DataError, match="no such item"):
        store.add_ranking("nowhere", "zhang", "human", [1, 2])


def test_an_item_with_one_answer_is_refused(store: RankingStore) -> None:
    with pytest.raises(DataError, match="can't be ranked"):
        store.add_item("b", CONTEXT, ANSWERS[:1])


def test_two_processes_that_create_and_fill_one_file_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "shared.sqlite"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], stderr=subprocess.PIPE)
        for name in ("one", "two", "three")
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors.decode()
    store = RankingStore(path)
    assert len(store.items()) == 120
    assert sum(len(known) for known in store.all_rankings().values()) == 120


def test_consensus_is_the_mean_rank_and_pairs_leave_ties_out() -> None:
    ranks = [Ranking("a", name, "human", overall) for name, overall in (("x", (1, 2, 3, 4)), ("y", (1, 3, 2, 4)))]
    assert consensus(ranks) == [1.0, 2.5, 2.5, 4.0]
    assert pairs(ranks) == [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]
    assert places([1.0, 2.5, 2.5, 4.0]) == [1, 2, 2, 4]
    with pytest.raises(DataError, match="nobody has ranked"):
        consensus([])


def test_export_holds_the_consensus_the_annotators_and_says_that_they_were_simulated(
    store: RankingStore, tmp_path: Path
) -> None:
    store.add_item("unranked", CONTEXT, ANSWERS)
    store.add_ranking("a", "simulated-1", "simulated", [1, 2, 3, 4], {"safety": [1, 1, 1, 4]})
    store.add_ranking("a", "simulated-2", "simulated", [1, 3, 2, 4], {"safety": [1, 1, 3, 4]})
    assert store.export_jsonl(tmp_path / "rankings.jsonl") == 1
    row = json.loads((tmp_path / "rankings.jsonl").read_text(encoding="utf-8"))
    assert row["label_source"] == "simulated annotators (rules + noise)"
    assert [r["rank"] for r in row["responses"]] == [1, 2, 2, 4]
    assert [r["aspects"]["safety"] for r in row["responses"]] == [1, 1, 3, 4]
    assert [a["overall"] for a in row["annotators"]] == [[1, 2, 3, 4], [1, 3, 2, 4]]
    assert row["messages"] == [{"role": "user", "content": "医生，我头痛三天了。"}]
    assert {"id", "source", "department"} <= row.keys()


def test_an_export_can_be_read_by_the_loader_of_rankings(store: RankingStore, tmp_path: Path) -> None:
    store.add_ranking("a", "simulated-1", "simulated", [1, 2, 2, 4])
    (tmp_path / "train").mkdir()
    store.export_jsonl(tmp_path / "train" / "ranking.jsonl")
    assert [r.rank for r in load_rankings(tmp_path, "train")[0].responses] == [1, 2, 2, 4]


def test_imported_rankings_are_labelled_as_from_a_file(tmp_path: Path) -> None:
    item = RankedItem("rk-1", CONTEXT, "内科", (Response("好", 1), Response("坏", 9)), "clinic")
    store = RankingStore(tmp_path / "rankings.sqlite")
    store.import_ranked([item])
    assert store.rankings("rk-1") == [Ranking("rk-1", "file", "file", (1, 2))]
    store.export_jsonl(tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))["label_source"] == "file"


def test_an_import_that_fails_at_its_rankings_leaves_no_item_either(tmp_path: Path) -> None:
    """An item that is known without its ranking would never get it: the next import refuses known ids."""
    item = RankedItem("rk-1", CONTEXT, "内科", (Response("好", 1), Response("坏", 9)), "clinic")
    store = RankingStore(tmp_path / "rankings.sqlite")
    with sqlite3.connect(tmp_path / "rankings.sqlite") as connection:
        connection.execute("CREATE TRIGGER fault BEFORE INSERT ON ranking BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(DataError):
        store.import_ranked([item])
    assert store.items() == []
    with sqlite3.connect(tmp_path / "rankings.sqlite") as connection:
        connection.execute("DROP TRIGGER fault")
    store.import_ranked([item])
    assert len(store.rankings("rk-1")) == 1


@pytest.mark.realdata
def test_real_rankings_survive_import_and_export(tmp_path: Path) -> None:
    root = real_data_folder()
    assert root is not None
    items = load_rankings(root, "train")
    store = RankingStore(tmp_path / "rankings.sqlite")
    store.import_ranked(items)
    (tmp_path / "train").mkdir()
    assert store.export_jsonl(tmp_path / "train" / "ranking.jsonl") == len(items)
    again = {item.id: item for item in load_rankings(tmp_path, "train")}
    assert all(again[i.id].responses == i.responses and again[i.id].messages == i.messages for i in items)


def test_a_fault_of_the_database_repeats_no_word_of_a_doctor(store: RankingStore, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "rankings.sqlite") as connection:
        connection.execute("DROP TABLE ranking")
    with pytest.raises(OperationalError) as fault:
        store.add_rankings([Ranking("a", "zhang", "human", (1, 2, 3, 4), comment="王秀英")])
    assert "no such table" in str(fault.value) and "王秀英" not in str(fault.value)
