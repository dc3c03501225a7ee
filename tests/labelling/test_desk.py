"""Who ranks what: no slot twice, overlap exact, gold unmarked, disagreement to a third expert, no ranking lost."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, update

from tests.helpers.labelling import items
from tests.helpers.postgres import fresh_database, postgres
from zj_ray.config.schema import LabelConfig
from zj_ray.errors import DataError
from zj_ray.labelling import desk as desk_module
from zj_ray.labelling.desk import Desk, Task
from zj_ray.labelling.page import read_priorities
from zj_ray.labelling.tickets import TICKET, NotAssigned, annotators_needed
from zj_ray.rankings.consensus import settled
from zj_ray.rankings.lots import draw
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import Ranking, RankingRow


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


def desk_of(url: str | Path, number: int, **settings: float | bool) -> tuple[RankingStore, Desk]:
    store = RankingStore(url)
    store.add_items(items(number))
    desk = Desk(store, LabelConfig(**{"overlap": 0.0, "gold": 0.0} | settings))  # type: ignore[arg-type]
    desk.plan({})
    return store, desk


def say(
    desk: Desk, task: Task, name: str, overall: tuple[int, ...] = (1, 2, 3, 4), key: str = "k", **more: object
) -> None:
    desk.save(Ranking(task.item.id, name, "human", overall, **more), f"{task.item.id}/{key}")  # type: ignore[arg-type]


def take(desk: Desk, name: str, *, adjudicating: bool = False) -> Task:
    task = desk.next(name, adjudicating=adjudicating)
    assert task is not None
    return task


def rank_all(desk: Desk, name: str, overall: tuple[int, ...] = (1, 2, 3, 4)) -> list[str]:
    done = []
    while (task := desk.next(name)) is not None:
        say(desk, task, name, overall)
        done.append(task.item.id)
    return done


# --- claims ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_annotators_at_once_get_no_slot_twice_and_overlap_is_exact(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = tmp_path / "a.sqlite" if database == "sqlite" else fresh_database(request.getfixturevalue("server"))
    store, desk = desk_of(url, 60, overlap=0.3)
    start, times, faults = threading.Barrier(12), Counter[str](), []

    def work(name: str) -> None:
        try:
            start.wait(30)
            times.update(rank_all(desk, name))
        except Exception as fault:  # a thread's fault would be lost otherwise
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(f"dr{n}",)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not faults
    assert Counter(times.values()) == {1: 42, 2: 18}
    assert {item: len(rankings) for item, rankings in store.all_rankings().items()} == dict(times)
    assert dict(times) == annotators_needed(times, 0.3)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_planners_of_several_servers_at_once_disturb_nobody(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Items arrive, and each server that runs dry plans, while others do so and annotators take and save items."""
    url = tmp_path / "a.sqlite" if database == "sqlite" else fresh_database(request.getfixturevalue("server"))
    store, desk = desk_of(url, 20, overlap=0.5)
    arrived, faults = threading.Barrier(7), []

    def plan(batch: int) -> None:
        other = Desk(RankingStore(url), LabelConfig(overlap=0.5, gold=0.0))
        arrived.wait(30)
        for part in range(4):
            store.add_items([replace(item, id=f"batch-{batch}-{part}-{item.id}") for item in items(5)])
            other.plan({})

    def rank(name: str) -> None:
        arrived.wait(30)
        rank_all(desk, name)

    def guarded(work: Callable[..., None], argument: int | str) -> None:
        try:
            work(argument)
        except Exception as fault:  # a thread's fault would be lost otherwise
            faults.append(fault)

    threads = [threading.Thread(target=guarded, args=(plan, n)) for n in range(3)]
    threads += [threading.Thread(target=guarded, args=(rank, f"dr{n}")) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not faults and not desk.unplanned()
    for late in range(4):
        rank_all(desk, f"dr{late}")
    rankings = store.all_rankings()
    assert len(rankings) == 80 and {len(of_item) for of_item in rankings.values()} == {1, 2}


STEP = st.tuples(st.sampled_from("abc"), st.sampled_from(["next", "save", "skip", "undo", "late"]))


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(STEP, max_size=60))
def test_whatever_they_do_in_whatever_order_no_slot_is_held_twice(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    store, desk = desk_of(tmp_path_factory.mktemp("claims") / "a.sqlite", 4, overlap=0.5)
    held: dict[str, Task | None] = dict.fromkeys("abc")
    for number, (name, step) in enumerate(steps):
        task = held[name]
        try:
            if step == "next":
                held[name] = desk.next(name)
            elif step == "late":
                with store.writing() as connection:
                    connection.execute(update(TICKET).values(until=0.0))
            elif task is not None and step == "save":
                say(desk, task, name, key=str(number))
            elif task is not None:
                getattr(desk, step)(task.item.id, name, *(["no reason"] if step == "skip" else []))
        except NotAssigned:
            pass  # a step on what is done already, or nobody's: refused
    with store.reading() as connection:
        slots = Counter((row.item, row.slot) for row in connection.execute(select(TICKET)) if row.slot)
    needed = annotators_needed([item.id for item in items(4)], 0.5)
    assert slots == {(item, slot): 1 for item, n in needed.items() for slot in range(1, n + 1)}
    late = sum(step == "late" for _, step in steps)
    assert all(len(rankings) <= needed[item] + late for item, rankings in store.all_rankings().items())


def test_the_same_item_is_shown_until_it_is_ranked_in_the_same_order_of_answers(tmp_path: Path) -> None:
    _, desk = desk_of(tmp_path / "a.sqlite", 20)
    first = take(desk, "li")
    assert desk.next("li") == first
    orders = {take(desk, f"dr{n}").shown for n in range(19)}
    assert len(orders) > 5  # by lot, not one order for all


def test_an_item_left_open_too_long_goes_to_somebody_else_and_the_late_ranking_is_kept(tmp_path: Path) -> None:
    store, desk = desk_of(tmp_path / "a.sqlite", 1, lease_minutes=1e-9)
    late = take(desk, "li")
    assert take(desk, "wang").item == late.item
    say(desk, late, "li")
    say(desk, late, "wang")
    assert [r.annotator for r in store.rankings(late.item.id)] == ["li", "wang"]


def test_an_item_left_open_too_long_is_given_back_where_nobody_took_it(tmp_path: Path) -> None:
    store, desk = desk_of(tmp_path / "a.sqlite", 2, lease_minutes=1e-9, overlap=1.0)
    rank_all(desk, "wang")
    mine = take(desk, "li").item
    assert desk.next("wang") is None  # releases what is late, but wang has ranked it
    assert take(desk, "li").item == mine


def test_a_late_ranking_takes_the_slot_that_is_still_free(tmp_path: Path) -> None:
    store, desk = desk_of(tmp_path / "a.sqlite", 2, lease_minutes=1e-9, overlap=1.0)
    rank_all(desk, "wang")
    task = take(desk, "li")
    desk.next("wang")
    say(desk, task, "li")
    assert take(desk, "zhao").item != task.item  # two have ranked it


# --- what is said ----------------------------------------------------------------------------------------------------


def test_a_ranking_sent_twice_is_stored_once(tmp_path: Path) -> None:
    store, desk = desk_of(tmp_path / "a.sqlite", 1)
    task = take(desk, "li")
    for _ in range(3):
        say(desk, task, "li")
    with pytest.raises(NotAssigned):
        say(desk, task, "li", key="another")
    with store.reading() as connection:
        assert connection.scalar(select(func.count()).select_from(RankingRow)) == 1


def test_who_was_not_given_an_item_may_neither_rank_nor_skip_nor_undo_it(tmp_path: Path) -> None:
    store, desk = desk_of(tmp_path / "a.sqlite", 1)
    task = take(desk, "li")
    with pytest.raises(NotAssigned):
        say(desk, task, "wang")
    with pytest.raises(NotAssigned):
        desk.skip(task.item.id, "wang", "x")
    with pytest.raises(NotAssigned):
        desk.undo(task.item.id, "wang")
    assert store.all_rankings() == {}


def test_undo_opens_the_item_again_with_what_was_said_and_every_event_stays(tmp_path: Path) -> None:
    store, desk = desk_of(tmp_path / "a.sqlite", 2)
    first = take(desk, "li")
    say(desk, first, "li", (2, 1, 1, 4), comment="要问过敏史")
    second = take(desk, "li")
    desk.undo(first.item.id, "li")
    assert store.all_rankings() == {}
    again = take(desk, "li")
    assert again.item == first.item and again.earlier is not None
    assert (again.earlier.overall, again.earlier.comment) == ((2, 1, 1, 4), "要问过敏史")
    say(desk, again, "li", (1, 1, 1, 1), key="again")
    assert take(desk, "li").item == second.item
    assert store.rankings(first.item.id)[0].overall == (1, 1, 1, 1)
    assert [(e.action, e.counts) for e in desk.history("li")] == [("rank", True), ("undo", False), ("rank", False)]


def test_a_skipped_item_goes_to_others_and_may_be_taken_back_while_nobody_has_it(tmp_path: Path) -> None:
    store, desk = desk_of(tmp_path / "a.sqlite", 1)
    task = take(desk, "li")
    desk.skip(task.item.id, "li", "skip_field")
    assert desk.next("li") is None
    desk.undo(task.item.id, "li")
    assert take(desk, "li").item == task.item
    desk.skip(task.item.id, "li", "skip_field")
    assert take(desk, "wang").item == task.item
    with pytest.raises(NotAssigned, match="somebody else"):
        desk.undo(task.item.id, "li")


@pytest.mark.parametrize("half", [{"all_wrong": True}, {"right_answer": "去急诊"}])
def test_all_wrong_and_the_right_answer_go_together(tmp_path: Path, half: dict[str, object]) -> None:
    _, desk = desk_of(tmp_path / "a.sqlite", 1)
    with pytest.raises(DataError, match="right"):
        say(desk, take(desk, "li"), "li", **half)


def test_the_time_from_display_to_save_and_the_order_of_display_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, desk = desk_of(tmp_path / "a.sqlite", 1)
    task, now = take(desk, "li"), time.time()
    monkeypatch.setattr(desk_module.time, "time", lambda: now + 42)
    say(desk, task, "li")
    [ranking] = store.rankings(task.item.id)
    assert ranking.shown == task.shown and ranking.seconds == pytest.approx(42, abs=1)


# --- gold, adjudication, order ---------------------------------------------------------------------------------------


def test_every_annotator_gets_the_gold_items_in_between_and_no_slot_is_spent_on_them(tmp_path: Path) -> None:
    store, desk = desk_of(tmp_path / "a.sqlite", 40, gold=0.5, overlap=1.0)
    gold = [f"item-{n:05d}" for n in range(4)]
    for item in gold:
        desk.add_gold({item: [1, 2, 3, 4]}, "root")
    seen = {name: rank_all(desk, name) for name in ("li", "wang")}
    for order in seen.values():
        positions = [order.index(item) for item in gold]
        assert len(order) == 40 and max(positions) < 25 and positions != [0, 1, 2, 3]
    assert not set(rank_all(desk, "zhao")) - set(gold)  # all slots are taken


def test_the_surest_items_are_offered_as_gold_first_and_disputed_ones_not(tmp_path: Path) -> None:
    def by(*annotators: tuple[int, ...], decided: bool = False) -> list[Ranking]:
        first, *others = [Ranking("i", f"dr-{n}", "human", overall) for n, overall in enumerate(annotators)]
        return [replace(first, adjudicated=decided), *others]

    rankings = {
        "once": by((1, 2, 3)),
        "apart": by((1, 2, 3), (3, 2, 1)),
        "close": by((1, 2, 3), (1, 3, 2)),
        "alike": by((2, 1, 3), (2, 1, 3)),
        "decided": by((1, 2, 3), (3, 2, 1), decided=True),
        "tied": by((1, 1, 1), (1, 1, 1)),
    }
    desk = Desk(RankingStore(tmp_path / "a.sqlite"), LabelConfig(threshold=0.3))
    assert desk.gold_candidates(rankings, 9) == ["decided", "alike", "close", "once"]
    assert desk.gold_candidates(rankings, 2) == ["decided", "alike"]


def test_annotators_who_disagree_call_for_an_adjudicator_who_is_neither_of_them(tmp_path: Path) -> None:
    store, desk = desk_of(tmp_path / "a.sqlite", 2, overlap=1.0)
    for name, ranks in {"li": (1, 2, 3, 4), "wang": (4, 3, 2, 1)}.items():
        rank_all(desk, name, ranks)
    assert desk.next("li", adjudicating=True) is None and desk.next("wang", adjudicating=True) is None
    task = take(desk, "chen", adjudicating=True)
    say(desk, task, "chen", (1, 1, 3, 4))
    [decision] = settled(store.rankings(task.item.id))
    assert (decision.annotator, decision.adjudicated, decision.overall) == ("chen", True, (1, 1, 3, 4))
    assert desk.has_adjudicated(task.item.id, "chen") and not desk.has_adjudicated(task.item.id, "li")
    other = take(desk, "chen", adjudicating=True)
    assert other.item != task.item
    desk.skip(other.item.id, "chen", "skip_field")
    assert take(desk, "zhao", adjudicating=True).item == other.item


def test_a_disagreement_that_is_taken_back_needs_no_adjudicator(tmp_path: Path) -> None:
    _, desk = desk_of(tmp_path / "a.sqlite", 1, overlap=1.0)
    for name, ranks in {"li": (1, 2, 3, 4), "wang": (4, 3, 2, 1)}.items():
        rank_all(desk, name, ranks)
    desk.undo("item-00000", "wang")
    assert desk.next("chen", adjudicating=True) is None
    say(desk, take(desk, "wang"), "wang", (1, 2, 4, 3), key="again")
    assert desk.next("chen", adjudicating=True) is None


def test_active_selection_gives_the_largest_disagreement_first(tmp_path: Path) -> None:
    store, desk = desk_of(tmp_path / "a.sqlite", 10, active=True)
    (tmp_path / "priorities.json").write_text(json.dumps({"item-00003": 0.2, "item-00007": 0.9, "gone": 5}))
    desk.plan(read_priorities(tmp_path / "priorities.json"))
    order = rank_all(desk, "li")
    assert order[:2] == ["item-00007", "item-00003"] and order[2:] == sorted(order[2:], key=draw, reverse=True)


def test_a_file_of_priorities_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "priorities.json").write_text('["item"]')
    with pytest.raises(DataError, match=r"priorities\.json: "):
        read_priorities(tmp_path / "priorities.json")


def test_another_overlap_at_the_next_start_changes_only_slots_that_nobody_has(tmp_path: Path) -> None:
    store, desk = desk_of(tmp_path / "a.sqlite", 10, overlap=1.0)
    rank_all(desk, "li")
    say(desk, task := take(desk, "wang"), "wang")
    Desk(store, LabelConfig(overlap=0.0)).plan({})
    assert desk.next("zhao") is None and len(store.rankings(task.item.id)) == 2
    Desk(store, LabelConfig(overlap=1.0)).plan({})
    assert len(rank_all(desk, "zhao")) == 9
