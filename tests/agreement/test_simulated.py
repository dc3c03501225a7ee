"""Simulated annotators: deterministic, noisy in proportion, and always labelled as simulated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zj_ray.agreement.measure import measure_agreement
from zj_ray.agreement.simulated import Scale, SimulatedAnnotator, noise_ceiling, noticeable_ranks, panel, rank_items
from zj_ray.config.schema import FeedbackConfig
from zj_ray.data.messages import Message
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import Answer, Item, Ranking
from zj_ray.rules.rubric import Rubric

CONTEXT = (Message("user", "医生，我头痛三天了。"),)


def plausible_rubrics(items: int) -> dict[str, list[Rubric]]:
    """Rubrics as sampled answers of a small model would get: mostly safe, otherwise of every quality."""
    random = np.random.default_rng(7)

    def rubric() -> Rubric:
        safety = random.choice([0.0, 0.5, 1.0], p=[0.1, 0.3, 0.6])
        professionalism = random.choice([0.0, 0.5, 1.0], p=[0.3, 0.4, 0.3])
        fluency = random.choice([0.3, 0.6, 1.0], p=[0.2, 0.3, 0.5])
        return Rubric(float(safety), float(professionalism), float(fluency))

    return {f"item-{n}": [rubric() for _ in range(4)] for n in range(items)}


def filled_store(path: Path, rubrics: dict[str, list[Rubric]]) -> RankingStore:
    store = RankingStore(path)
    answers = {item: tuple(Answer(f"答案 {k}") for k in range(len(values))) for item, values in rubrics.items()}
    store.add_items([Item(item, item, CONTEXT, None, of_item) for item, of_item in answers.items()])
    return store


def test_without_noise_the_ranks_are_those_of_the_utility() -> None:
    rubrics = [Rubric(1, 0.5, 1), Rubric(0, 1, 1), Rubric(1, 1, 1), Rubric(1, 0.5, 1)]
    annotator = SimulatedAnnotator("simulated-1", 0, noise=0.0)
    assert annotator.rank(rubrics, scale=Scale.of([rubrics]), item="a") == [2, 4, 1, 2]
    assert annotator.rank_aspects(rubrics, scale=Scale.of([rubrics]), item="a")["safety"] == [1, 4, 1, 1]


def test_values_closer_than_just_noticeable_share_a_rank_and_ties_do_not_chain() -> None:
    assert noticeable_ranks(np.array([1.0, 0.95, 0.9, 0.2]), 0.06) == [1, 1, 3, 4]


def test_answers_that_are_all_alike_are_all_first() -> None:
    alike = [Rubric(1, 1, 1)] * 4
    annotator = SimulatedAnnotator("simulated-1", 0, noise=0.45)
    assert annotator.rank(alike, scale=Scale.of([alike]), item="a") == [1, 1, 1, 1]


def test_what_differs_between_contexts_only_is_no_spread() -> None:
    assert Scale.of([[Rubric(0, 0, 0)] * 4, [Rubric(1, 1, 1)] * 4]).utility == 0.0
    assert Scale.of([[Rubric(0, 0, 0), Rubric(1, 1, 1)]]).utility == pytest.approx(0.5**0.5)


def test_an_annotators_error_depends_on_seed_name_and_item_only() -> None:
    rubrics = plausible_rubrics(50)
    scale = Scale.of(list(rubrics.values()))

    def ranked(name: str, seed: int) -> list[list[int]]:
        annotator = SimulatedAnnotator(name, seed, 0.45)
        return [annotator.rank(values, scale=scale, item=item) for item, values in rubrics.items()]

    assert ranked("simulated-1", 0) == ranked("simulated-1", 0)
    assert ranked("simulated-1", 0) != ranked("simulated-2", 0)
    assert ranked("simulated-1", 0) != ranked("simulated-1", 1)


def test_every_ranking_says_that_it_is_simulated_and_a_second_pass_adds_none(tmp_path: Path) -> None:
    rubrics = plausible_rubrics(5)
    store = filled_store(tmp_path / "r.sqlite", rubrics)
    annotators = panel(FeedbackConfig(), seed=0)
    assert rank_items(store, store.items(), rubrics, annotators) == 15
    assert rank_items(store, store.items(), rubrics, annotators) == 0
    rankings = [r for of_item in store.all_rankings().values() for r in of_item]
    assert {r.kind for r in rankings} == {"simulated"}
    assert all(r.annotator.startswith("simulated") and r.aspects for r in rankings)


def test_default_noise_of_three_annotators_gives_an_agreement_like_that_of_people(tmp_path: Path) -> None:
    rubrics = plausible_rubrics(240)
    store = filled_store(tmp_path / "r.sqlite", rubrics)
    rank_items(store, store.items(), rubrics, panel(FeedbackConfig(noise=0.45), seed=0))
    agreement = measure_agreement(store.all_rankings(), resamples=50)
    assert agreement.alpha is not None and 0.6 < agreement.alpha < 0.85
    assert agreement.simulated and agreement.annotators == 3


def test_more_noise_lowers_the_ceiling(tmp_path: Path) -> None:
    rubrics = plausible_rubrics(120)
    ceilings = []
    for noise in (0.0, 0.3, 1.0):
        store = filled_store(tmp_path / f"{noise}.sqlite", rubrics)
        rank_items(store, store.items(), rubrics, panel(FeedbackConfig(noise=noise), seed=0))
        ids = sorted(rubrics)
        ceilings.append(noise_ceiling([[r.utility for r in rubrics[i]] for i in ids], [store.rankings(i) for i in ids]))
    assert ceilings[0] == 1.0 and ceilings[0] > ceilings[1] > ceilings[2] > 0.5


def test_ceiling_counts_an_equal_utility_as_a_guess() -> None:
    def ranked(*overall: int) -> list[list[Ranking]]:
        return [[Ranking("a", "x", "simulated", overall)]]

    assert noise_ceiling([[1.0, 0.5, 0.5]], ranked(1, 2, 3)) == pytest.approx((1 + 1 + 0.5) / 3)
    assert noise_ceiling([[1.0, 0.5]], ranked(1, 1)) is None
