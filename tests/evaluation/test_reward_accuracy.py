"""Accuracy of a ranking scorer: by hand on few pairs, and of scorers that know length alone or nothing of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from zj_ray.algorithms.ensemble import Ensemble
from zj_ray.algorithms.preference import disagreement
from zj_ray.data.messages import Message
from zj_ray.evaluation.ranking_accuracy import compare_scorers, length_scores, measure, preferred_pairs
from zj_ray.evaluation.reward_model import caption, disagreements, measure_reward, rows, summarise, table
from zj_ray.rankings.aspects import HEADS
from zj_ray.rankings.labels import RankedForTraining
from zj_ray.rankings.tables import Answer, Item


def item(name: str, texts: Sequence[str], ranks: Sequence[float], department: str | None = None) -> RankedForTraining:
    """An item that one annotator ranked overall; its answers are of the kinds a, b, c, …"""
    answers = tuple(Answer(text, {"kind": "abcdefgh"[k], "source": "test"}) for k, text in enumerate(texts))
    by_head = np.full((len(HEADS), len(texts), 1), np.nan)
    by_head[0, :, 0] = ranks
    context = (Message("user", f"{name}号病人头痛。"),)
    return RankedForTraining(Item(name, name, context, department, answers), by_head, np.ones(1))


def random_items(count: int, seed: int = 0) -> tuple[list[RankedForTraining], np.ndarray]:
    """Items whose better answers are mostly longer, and the truth that ranked them `[answers]`."""
    random = np.random.default_rng(seed)
    lengths, truth = random.integers(5, 200, (count, 4)), random.normal(size=(count, 4))
    truth = truth + 0.01 * lengths
    ranks = (-truth).argsort().argsort() + 1.0
    return [item(str(n), ["字" * k for k in lengths[n]], ranks[n]) for n in range(count)], truth.flatten()


def test_accuracy_by_hand() -> None:
    items = [
        item("one", ["字" * 30, "字" * 5, "字" * 5], [1, 2, 3], department="内科"),
        item("two", ["字", "字" * 4], [2, 1]),
    ]
    measured = measure(np.array([2.0, 1.0, 1.0, 9.0, 3.0]), preferred_pairs(items))  # right, right, equal; wrong
    assert (measured["accuracy"], measured["pairs"]) == (2.5 / 4, 4) and measured["ci95"][0] <= 2.5 / 4 <= measured[
        "ci95"
    ][1]
    by = measured["by"]
    assert {part: by["rank distance"][part]["accuracy"] for part in "12"} == {"1": (1 + 0.5 + 0) / 3, "2": 1.0}
    assert by["department"]["内科"] == {"accuracy": 2.5 / 3, "ci95": (2.5 / 3, 2.5 / 3), "pairs": 3}
    assert by["answers"]["b over a"]["accuracy"] == 0.0 and by["answers"]["a over c"]["pairs"] == 1
    assert by["length"]["better is longer by over 10 characters"]["pairs"] == 2
    assert by["length"]["within 10 characters"]["accuracy"] == 0.25
    assert "source" not in by  # all from the same


def test_pairs_are_what_most_annotators_say_of_the_head() -> None:
    labelled = item("one", ["甲", "乙"], [1, 2])
    labelled.ranks[2, :, 0] = [2, 1]
    better = [preferred_pairs([labelled], head).better.tolist() for head in (0, 2)]
    assert better == [[0], [1]]
    assert measure(np.zeros(2), preferred_pairs([labelled], head=1))["accuracy"] is None


@pytest.mark.parametrize("of_length", [lambda n: n, lambda n: -3 * n, np.log1p, lambda n: 0.1 * n - np.log1p(n)])
def test_of_a_scorer_that_knows_length_alone_a_coin_is_left(of_length: object) -> None:
    items, _ = random_items(300)
    pairs = preferred_pairs(items)
    measured = measure(of_length(pairs.lengths), pairs)  # type: ignore[operator]
    assert abs(measured["accuracy"] - 0.5) > 0.1 and measured["length_partialled"] == 0.5


def test_a_scorer_that_does_not_go_with_length_keeps_its_accuracy() -> None:
    items, truth = random_items(2000)
    pairs = preferred_pairs(items)
    of_quality = truth - 0.01 * pairs.lengths  # what ranked them, without the length
    measured = measure(of_quality, pairs)
    assert measured["accuracy"] > 0.7 and measured["length_partialled"] == pytest.approx(measured["accuracy"], abs=0.02)
    against = measure(of_quality - 0.02 * pairs.lengths, pairs)  # the same quality, hidden below length
    assert against["accuracy"] < measured["accuracy"] - 0.2
    assert against["length_partialled"] == pytest.approx(measured["length_partialled"])


def test_the_length_baseline_takes_its_direction_from_what_was_trained_on() -> None:
    longer, shorter = [item("a", ["字" * 9, "字"], [1, 2])], [item("b", ["字" * 9, "字"], [2, 1])]
    assert length_scores(preferred_pairs(longer), preferred_pairs(longer)).tolist() == [9, 1]
    assert length_scores(preferred_pairs(longer), preferred_pairs(shorter)).tolist() == [-9, -1]


def test_the_interval_covers_the_truth_as_often_as_it_says_when_pairs_of_a_prompt_go_together() -> None:
    covered = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        items = [item(str(n), ["甲", "乙", "丙", "丁"], [1, 2, 3, 4]) for n in range(60)]
        right = random.random(60) < 0.7  # a prompt is ordered rightly as a whole, or the other way round
        scores = np.concatenate([np.arange(4)[::-1] if r else np.arange(4) for r in right]).astype(float)
        low, high = measure(scores, preferred_pairs(items))["ci95"]
        covered += low <= 0.7 <= high
    assert covered >= 51  # 57 are expected; with an interval over pairs it would be 34


def test_members_that_differ_in_scale_of_prompts_alone_agree() -> None:
    scores = np.array([[1.0, 2.0, 0.0], [11.0, 12.0, 10.0]])
    assert disagreement(scores) < 1e-12 and disagreement(np.array([[1.0, 2.0], [2.0, 1.0]])) > 0.2
    items = [item("calm", ["甲", "乙"], [1, 2]), item("torn", ["甲", "乙"], [1, 2])]
    by_item = disagreements(items, np.array([[1.0, 0.0, 2.0, 0.0], [6.0, 5.0, 0.0, 2.0]])[:, :, None])
    assert by_item["torn"] > 0.3 > 0.01 > by_item["calm"]


def test_model_and_baselines_are_measured_on_the_same_pairs() -> None:
    items, truth = random_items(40)
    members = np.repeat(np.stack([truth, -truth, truth * 3])[:, :, None], len(HEADS), axis=2)
    combined = Ensemble.fit(members, 0.0).combine(members)
    measured = measure_reward(members, combined, items, items)
    scorers = measured["scorers"]
    assert {figures["pairs"] for figures in scorers.values()} == {240}
    assert list(scorers) == ["reward model", "first member", "length only", "rules only"]
    assert scorers["reward model"]["accuracy"] == 1.0 and scorers["first member"]["accuracy"] == 1.0
    assert 0.6 < scorers["length only"]["accuracy"] < 0.95 and measured["disagreement"] > 0.1
    assert measured["aspects"]["safety"]["pairs"] == 0 and measured["calibration"]["pairs"] == 120
    gain = measured["model_less_rules"]
    assert gain["difference"] == pytest.approx(1.0 - scorers["rules only"]["accuracy"])
    assert gain["ci95"][0] <= gain["difference"] <= gain["ci95"][1]
    assert measured["questions"] == 40 and measured["ceiling"] is None


def test_who_remembers_answers_is_found_out_by_those_it_has_not_seen() -> None:
    """The cheat: a table of the training answers' ranks, which says nothing of any other text."""
    random = np.random.default_rng(3)
    old, new = [f"旧{n}" for n in range(6)], [f"新{n}" for n in range(400)]
    trained = [item(f"t{n}", old, range(6)) for n in range(10)]
    ranks = [[1, 2, 3, *random.permutation([0.5, 4])] for _ in range(200)]
    held_out = [item(f"h{n}", [*old[:3], *new[2 * n : 2 * n + 2]], ranks[n]) for n in range(200)]
    table_of = {text: -float(rank) for rank, text in enumerate(old)}
    scores = np.array([table_of.get(a.text, 0.0) for each in held_out for a in each.item.answers])
    scores = np.repeat(scores[None, :, None], len(HEADS), axis=2)
    measured = measure_reward(scores, scores[0], held_out, trained)
    assert measured["verbatim"] == {"answers": 1000, "in_training": 600}
    unseen = measured["unseen_answers"]["reward model"]
    assert measured["scorers"]["reward model"]["accuracy"] > 0.6
    assert unseen["accuracy"] == 0.5 and unseen["pairs"] == 200
    assert summarise(measured)["pair_accuracy_unseen_answers"] == 0.5
    assert "600 of 1000" in caption(measured) and "200 questions" in caption(measured)
    assert rows(measured)["reward model, unseen answers"] == unseen and table(measured).row_count == len(rows(measured))


def test_no_pair_without_known_answers_is_no_fault() -> None:
    items, truth = random_items(3)
    scores = np.repeat(truth[None, :, None], len(HEADS), axis=2)
    measured = measure_reward(scores, scores[0], items, items)
    assert measured["unseen_answers"]["reward model"]["pairs"] == 0
    assert summarise(measured)["pair_accuracy_unseen_answers"] is None
    assert "reward model, unseen answers" not in rows(measured)


def test_scorers_that_err_on_the_same_pairs_are_told_apart_by_the_paired_difference() -> None:
    items, truth = random_items(150)
    pairs, random = preferred_pairs(items), np.random.default_rng(0)
    errors = 1.5 * random.normal(size=len(truth))
    better, hard = truth + 0.7 * errors, truth + errors
    gain = compare_scorers(better, hard, pairs)
    wide = measure(hard, pairs)["ci95"]
    assert gain["ci95"][0] > 0 and gain["ci95"][1] - gain["ci95"][0] < 0.8 * (wide[1] - wide[0])
    assert compare_scorers(hard, hard, pairs)["ci95"] == (0.0, 0.0)


def test_copies_of_a_question_do_not_narrow_the_interval() -> None:
    """The cheat: many moments of few talks. The interval goes by talks."""
    items, truth = random_items(30)
    copies = [replace(each, item=replace(each.item, id=f"{each.item.id}-{n}")) for each in items for n in range(8)]
    noisy = truth + np.random.default_rng(1).normal(size=len(truth)) * 2
    by_item = noisy.reshape(30, -1)
    once = measure(noisy, preferred_pairs(items))["ci95"]
    often = measure(np.repeat(by_item, 8, axis=0).flatten(), preferred_pairs(copies))["ci95"]
    assert often[1] - often[0] > 0.9 * (once[1] - once[0])
