"""The ranking store: append-only, safe with several writers, and true to the schema of data."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from tests.conftest import real_data_folder
from zj_ray.data.messages import Message
from zj_ray.errors import DataError
from zj_ray.rankings.consensus import competition_ranks, consensus, pairs
from zj_ray.rankings.formats import preference, ranking
from zj_ray.rankings.formats.exchange import take_data_folder
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import Answer, Item, Ranking

CONTEXT = (Message("user", "医生，我头痛三天了。"),)
ANSWERS = tuple(
    Answer(text, {"temperature": t})
    for text, t in (("多久了？", 0.7), ("吃药。", 1.0), ("有没有发烧？", 1.0), ("不知道", 1.3))
)
ITEM = Item("a", "case-1", CONTEXT, "内科", ANSWERS)
KINDS = {"ranking": ranking.read, "preference": preference.read}

WRITER = """
import sys
from zj_ray.data.messages import Message
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import Answer, Item, Ranking
store, name = RankingStore(sys.argv[1]), sys.argv[2]
for n in range(40):
    item = Item(f"{name}-{n}", "p", (Message("user", "头痛"),), None, (Answer("甲"), Answer("乙")))
    store.add_items([item])
    store.add_rankings([Ranking(item.id, name, "human", (1, 2))])
"""


@pytest.fixture
def store(tmp_path: Path) -> RankingStore:
    store = RankingStore(tmp_path / "rankings.sqlite")
    store.add_items([ITEM])
    return store


def test_what_was_stored_comes_back(store: RankingStore) -> None:
    ranking = Ranking("a", "zhang", "human", (1, 4, 1, 3), {"safety": (1, 1, 1, 1)})
    store.add_rankings([ranking])
    assert store.items() == [ITEM] and store.rankings("a") == [ranking]


def test_a_store_that_is_opened_again_still_holds_its_rankings(store: RankingStore, tmp_path: Path) -> None:
    store.add_rankings([Ranking("a", "zhang", "human", (1, 2, 3, 4))])
    store.close()
    assert len(RankingStore(tmp_path / "rankings.sqlite").rankings("a")) == 1


def test_a_known_id_is_refused_and_nothing_of_its_batch_is_stored(store: RankingStore) -> None:
    with pytest.raises(DataError, match="in the store already"):
        store.add_items([Item("b", "b", CONTEXT, None, ANSWERS), Item("a", "a", CONTEXT, None, ANSWERS)])
    assert [item.id for item in store.items()] == ["a"]


def test_a_changed_mind_adds_an_event_and_the_newest_counts(store: RankingStore, tmp_path: Path) -> None:
    store.add_rankings([Ranking("a", "zhang", "human", (1, 2, 3, 4))])
    store.add_rankings([Ranking("a", "zhang", "human", (4, 3, 2, 1))])
    assert [r.overall for r in store.rankings("a")] == [(4, 3, 2, 1)]
    with sqlite3.connect(tmp_path / "rankings.sqlite") as connection:
        assert connection.execute("select count(*) from ranking").fetchone() == (2,)


@pytest.mark.parametrize("ranks", [(1, 2, 3), (0, 1, 2, 3), (1, 2, 3, 5)])
def test_ranks_that_do_not_fit_the_answers_are_refused(store: RankingStore, ranks: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="don't fit 4 answers"):
        store.add_rankings([Ranking("a", "zhang", "human", ranks)])


def test_a_ranking_of_an_unknown_item_is_refused(store: RankingStore) -> None:
    with pytest.raises(DataError, match="no such item"):
        store.add_rankings([Ranking("nowhere", "zhang", "human", (1, 2))])


def test_an_item_with_one_answer_is_refused(store: RankingStore) -> None:
    with pytest.raises(DataError, match="can't be ranked"):
        store.add_items([Item("b", "b", CONTEXT, None, ANSWERS[:1])])


def test_two_processes_that_create_and_fill_one_file_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "shared.sqlite"
    commands = [[sys.executable, "-c", WRITER, str(path), name] for name in ("one", "two", "three")]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE) for command in commands]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors.decode()
    store = RankingStore(path)
    assert len(store.items()) == 120
    assert sum(len(rankings) for rankings in store.all_rankings().values()) == 120


def test_consensus_is_the_mean_rank_and_pairs_leave_ties_out() -> None:
    ranks = [Ranking("a", name, "human", overall) for name, overall in (("x", (1, 2, 3, 4)), ("y", (1, 3, 2, 4)))]
    assert consensus(ranks) == [1.0, 2.5, 2.5, 4.0]
    assert pairs(ranks) == [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]
    assert competition_ranks([1.0, 2.5, 2.5, 4.0]) == [1, 2, 2, 4]
    with pytest.raises(DataError, match="nobody has ranked"):
        consensus([])


def test_export_holds_the_consensus_the_annotators_and_says_that_they_were_simulated(
    store: RankingStore, tmp_path: Path
) -> None:
    simulated = [
        Ranking("a", "simulated-1", "simulated", (1, 2, 3, 4), {"safety": (1, 1, 1, 4)}),
        Ranking("a", "simulated-2", "simulated", (1, 3, 2, 4), {"safety": (1, 1, 3, 4)}),
    ]
    store.add_items([Item("unranked", "p", CONTEXT, None, ANSWERS)], simulated)
    assert ranking.write(tmp_path / "rankings.jsonl", *store.contents()) == 1
    row = json.loads((tmp_path / "rankings.jsonl").read_text(encoding="utf-8"))
    assert row["label_source"] == "simulated annotators (rules + noise)"
    assert [r["rank"] for r in row["responses"]] == [1, 2, 2, 4]
    assert [r["aspects"]["safety"] for r in row["responses"]] == [1, 1, 3, 4]
    assert [a["overall"] for a in row["annotators"]] == [[1, 2, 3, 4], [1, 3, 2, 4]]
    assert row["messages"] == [{"role": "user", "content": "医生，我头痛三天了。"}]
    assert {"id", "source", "department"} <= row.keys()


# --- data folders -----------------------------------------------------------------------------------------------------


def ranked_file(path: Path, identity: str, **row: object) -> None:
    answers = [{"text": "好", "rank": 1}, {"text": "坏", "rank": 9}]
    messages = [{"role": "user", "content": "头痛"}]
    whole = {"id": identity, "messages": messages, "responses": answers, "source": "s", **row}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, ensure_ascii=False) + "\n", encoding="utf-8")


def test_a_data_folder_is_taken_once_and_each_item_knows_its_split(tmp_path: Path) -> None:
    ranked_file(tmp_path / "data/train/ranking.jsonl", "r", department="内科")
    ranked_file(tmp_path / "data/valid/preference.jsonl", "p", chosen="好", rejected="坏")
    store = RankingStore(tmp_path / "rankings.sqlite")
    for _ in range(2):
        take_data_folder(store, tmp_path / "data")
    assert store.all_rankings() == {i: [Ranking(i, "file", "file", (1, 2))] for i in "pr"}
    origins = {item.id: [(a.origin["split"], a.origin["kind"]) for a in item.answers] for item in store.items()}
    assert origins == {"p": [("valid", "chosen"), ("valid", "rejected")], "r": [("train", "file")] * 2}
    ranking.write(tmp_path / "out.jsonl", *store.contents())
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["label_source"] for row in rows} == {"file"}


def test_every_annotator_of_a_file_stays_one(store: RankingStore, tmp_path: Path) -> None:
    three = [Ranking("a", name, "human", (1, 2, 2, 4)) for name in ("li", "wang", "zhang")]
    store.add_rankings(three)
    for split in ("train", "valid"):
        items, rankings = store.contents()
        named = [replace(item, id=split) for item in items], [replace(r, item=split) for r in rankings]
        ranking.write(tmp_path / split / "ranking.jsonl", *named)
    other = RankingStore(tmp_path / "other.sqlite")
    take_data_folder(other, tmp_path)
    assert other.rankings("train") == [replace(r, item="train") for r in three]


def test_a_split_without_rankings_is_named(tmp_path: Path) -> None:
    ranked_file(tmp_path / "train/ranking.jsonl", "r")
    with pytest.raises(DataError, match="neither ranking.jsonl nor preference.jsonl") as fault:
        take_data_folder(RankingStore(tmp_path / "rankings.sqlite"), tmp_path)
    assert fault.value.where == str(tmp_path / "valid")


def test_items_whose_rankings_can_not_be_stored_are_not_stored_either(tmp_path: Path) -> None:
    """An item without its ranking would look as if nobody had ranked it, and be handed to an annotator."""
    for split in ("train", "valid"):
        ranked_file(tmp_path / split / "ranking.jsonl", split)
    store = RankingStore(tmp_path / "rankings.sqlite")
    with sqlite3.connect(tmp_path / "rankings.sqlite") as connection:
        connection.execute("CREATE TRIGGER fault BEFORE INSERT ON ranking BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(DataError):
        take_data_folder(store, tmp_path)
    assert store.items() == []
    with sqlite3.connect(tmp_path / "rankings.sqlite") as connection:
        connection.execute("DROP TRIGGER fault")
    take_data_folder(store, tmp_path)
    assert set(store.all_rankings()) == {"train", "valid"}


@pytest.mark.realdata
def test_real_rankings_survive_import_and_export(tmp_path: Path) -> None:
    root = real_data_folder()
    assert root is not None
    store = RankingStore(tmp_path / "rankings.sqlite")
    take_data_folder(store, root)
    items, rankings = store.contents()
    expected = [r(root / split / f"{name}.jsonl", "file") for split in ("train", "valid") for name, r in KINDS.items()]
    assert len(items) == len(rankings) == sum(len(of_file) for of_file, _ in expected)
    assert ranking.write(tmp_path / "all.jsonl", items, rankings) == len(items)
    assert ranking.read(tmp_path / "all.jsonl", "nobody") == (items, rankings)


def test_a_fault_of_the_database_repeats_no_word_of_a_doctor(store: RankingStore, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "rankings.sqlite") as connection:
        connection.execute("DROP TABLE ranking")
    with pytest.raises(OperationalError) as fault:
        store.add_rankings([Ranking("a", "zhang", "human", (1, 2, 3, 4), comment="王秀英")])
    assert "no such table" in str(fault.value) and "王秀英" not in str(fault.value)
