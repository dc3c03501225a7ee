"""The split of ranked items: a question, a dialogue or a patient is on one side of it, whatever it is called."""

from __future__ import annotations

import pytest

from zj_ray.data.messages import Message
from zj_ray.rankings.split import is_held_out, opening_of, questions, stop_by
from zj_ray.rankings.tables import Answer, Item


def item(name: str, opening: str, prompt: str | None = None, split: str | None = None, turns: int = 0) -> Item:
    """An item of two answers after so many further turns of each side."""
    context = [Message("user", opening)]
    for number in range(turns):
        context += [Message("assistant", f"第{number}问？"), Message("user", f"第{number}答。")]
    origin = {"split": split} if split else {}
    return Item(name, prompt or name, tuple(context), None, (Answer("甲", origin), Answer("乙", origin)))


def test_moments_of_a_dialogue_and_answers_to_a_question_are_on_one_side() -> None:
    items = [item(f"{talk}-{turn}", f"我是{talk}号病人。", turns=turn) for talk in range(300) for turn in range(4)]
    held_out = is_held_out(items, 0.2, seed=3)
    sides = {talk: {held_out[f"{talk}-{turn}"] for turn in range(4)} for talk in range(300)}
    assert all(len(side) == 1 for side in sides.values()) and 40 < sum(held_out.values()) / 4 < 80


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (item("a", "头痛三天了怎么办？"), item("b", "医生您好，头痛三天了，怎么办")),
        (item("a", "我想问一下，停药行不行？"), item("b", "请问停藥行不行？")),
        (item("a", "头痛。", prompt="case-1"), item("b", "这个病让我头痛。", prompt="case-1")),  # masked in one of them
        (item("a", "头痛。", turns=2), item("b", "大夫，头痛")),
    ],
)
def test_another_greeting_spelling_or_id_makes_no_other_question(one: Item, other: Item) -> None:
    assert len(set(questions([one, other, item("c", "别的问题。")]).values())) == 2
    for seed in range(20):
        held_out = is_held_out([one, other, item("c", "别的问题。")], 0.5, seed)
        assert held_out["a"] == held_out["b"]


def test_who_only_greets_is_not_everybody_who_greets() -> None:
    assert len(set(questions([item("a", "医生您好。"), item("b", "您好！")]).values())) == 2
    assert opening_of(item("a", "医生您好，在吗？", prompt="p")) == "p"


def test_a_prompt_links_openings_into_one_question() -> None:
    chain = [item("a", "头痛。", "p"), item("b", "头晕。", "p"), item("c", "头晕。", "q"), item("d", "腿麻。", "r")]
    found = questions(chain)
    assert found["a"] == found["b"] == found["c"] != found["d"]


def test_held_out_questions_stay_held_out_when_more_is_ranked() -> None:
    items = [item(str(n), f"{n // 2}号病人头痛。") for n in range(400)]
    first, later = is_held_out(items[:200], 0.2, seed=3), is_held_out(items, 0.2, seed=3)
    assert all(later[name] == held for name, held in first.items()) and 50 < sum(later.values()) < 110
    assert is_held_out(items, 0.2, seed=4) != later
    linked = [*items, *(item(f"link-{n}", f"{n}号病人头痛。", prompt=f"p{n // 2}") for n in range(200))]
    grown = is_held_out(linked, 0.2, seed=3)
    assert all(grown[name] for name, held in later.items() if held)  # what was held out is never learnt later


def test_at_least_one_question_is_held_out() -> None:
    items = [item(str(n), f"{n // 2}号病人头痛。") for n in range(6)]
    assert sum(is_held_out(items, 1e-9, seed=0).values()) == 2


def test_of_files_valid_is_held_out_with_what_shares_its_questions() -> None:
    """The cheat: the same question in both splits of somebody's file, under other ids."""
    files = [("a", "头痛。", "train"), ("b", "头晕。", "valid"), ("c", "您好，头晕。", "train")]
    items = [item(name, opening, split=split) for name, opening, split in files]
    assert is_held_out(items, 0.99, seed=0) == {"a": False, "b": True, "c": True}


def test_training_is_stopped_by_whole_questions_but_never_by_all() -> None:
    assert stop_by([], 0) == stop_by([item("a", "头痛。")], 0) == set()
    assert len(stop_by([item("a", "头痛。"), item("b", "头晕。")], 0)) == 1
    items = [item(str(n), f"{n // 4}号病人头痛。") for n in range(400)]
    chosen = stop_by(items, 0)
    assert 10 < len(chosen) < 90 and all(len({str(4 * n + k) in chosen for k in range(4)}) == 1 for n in range(100))
