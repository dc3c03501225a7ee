"""Simulated annotators: deterministic, noisy in proportion, and always labelled as simulated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zj_ray.agreement.expert import Opinion
from zj_ray.agreement.measure import measure_agreement, measure_alpha
from zj_ray.agreement.simulated import Scale, SimulatedAnnotator, is_hard, noticeable_ranks, panel, rank_items
from zj_ray.config.schema import FeedbackConfig
from zj_ray.data.messages import Message
from zj_ray.evaluation.reward_model import ceiling
from zj_ray.rankings.labels import label_items
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import Answer, Item, Ranking

CONTEXT = (Message("user", "医生，我头痛三天了。"),)


def plausible_opinions(items: int) -> dict[str, list[Opinion]]:
    """Opinions as sampled answers of a small model would get: mostly safe, otherwise of every quality."""
    random = np.random.default_rng(7)

    def opinion() -> Opinion:
        safety = random.choice([0.0, 0.5, 1.0], p=[0.1, 0.3, 0.6])
        professionalism = random.choice([0.0, 0.5, 1.0], p=[0.3, 0.4, 0.3])
        fluency = random.choice([0.3, 0.6, 1.0], p=[0.2, 0.3, 0.5])
        return Opinion(float(safety), float(professionalism), float(fluency))

    return {f"item-{n}": [opinion() for _ in range(4)] for n in range(items)}


def filled_store(path: Path, opinions: dict[str, list[Opinion]]) -> RankingStore:
    store = RankingStore(path)
    answers = {item: tuple(Answer(f"答案 {k}") for k in range(len(values))) for item, values in opinions.items()}
    store.add_items([Item(item, item, CONTEXT, None, of_item) for item, of_item in answers.items()])
    return store


def test_without_noise_the_ranks_are_those_of_the_utility() -> None:
    opinions = [Opinion(1, 0.5, 1), Opinion(0, 1, 1), Opinion(1, 1, 1), Opinion(1, 0.5, 1)]
    annotator = SimulatedAnnotator("simulated-1", 0, noise=0.0)
    assert annotator.rank(opinions, scale=Scale.of([opinions]), item="a") == [2, 4, 1, 2]
    assert annotator.rank_aspects(opinions, scale=Scale.of([opinions]), item="a")["safety"] == [1, 4, 1, 1]


def test_values_closer_than_just_noticeable_share_a_rank_and_ties_do_not_chain() -> None:
    assert noticeable_ranks(np.array([1.0, 0.95, 0.9, 0.2]), 0.06) == [1, 1, 3, 4]


def test_answers_that_are_all_alike_are_all_first() -> None:
    alike = [Opinion(1, 1, 1)] * 4
    annotator = SimulatedAnnotator("simulated-1", 0, noise=0.45)
    assert annotator.rank(alike, scale=Scale.of([alike]), item="a") == [1, 1, 1, 1]


def test_what_differs_between_contexts_only_is_no_spread() -> None:
    assert Scale.of([[Opinion(0, 0, 0)] * 4, [Opinion(1, 1, 1)] * 4]).utility == 0.0
    assert Scale.of([[Opinion(0, 0, 0), Opinion(1, 1, 1)]]).utility == pytest.approx(0.5**0.5)


def test_an_annotators_error_depends_on_seed_name_and_item_only() -> None:
    opinions = plausible_opinions(50)
    scale = Scale.of(list(opinions.values()))

    def ranked(name: str, seed: int) -> list[list[int]]:
        annotator = SimulatedAnnotator(name, seed, 0.45)
        return [annotator.rank(values, scale=scale, item=item) for item, values in opinions.items()]

    assert ranked("simulated-1", 0) == ranked("simulated-1", 0)
    assert ranked("simulated-1", 0) != ranked("simulated-2", 0)
    assert ranked("simulated-1", 0) != ranked("simulated-1", 1)


def test_every_ranking_says_that_it_is_simulated_and_a_second_pass_adds_none(tmp_path: Path) -> None:
    opinions = plausible_opinions(5)
    store = filled_store(tmp_path / "r.sqlite", opinions)
    annotators = panel(FeedbackConfig(), seed=0)
    assert rank_items(store, store.items(), opinions, annotators) == 15
    assert rank_items(store, store.items(), opinions, annotators) == 0
    rankings = [r for of_item in store.all_rankings().values() for r in of_item]
    assert {r.kind for r in rankings} == {"simulated"}
    assert all(r.annotator.startswith("simulated") and r.aspects for r in rankings)


def test_default_noise_of_three_annotators_gives_an_agreement_like_that_of_people(tmp_path: Path) -> None:
    opinions = plausible_opinions(240)
    store = filled_store(tmp_path / "r.sqlite", opinions)
    rank_items(store, store.items(), opinions, panel(FeedbackConfig(noise=0.45), seed=0))
    agreement = measure_agreement(store.all_rankings(), resamples=50)
    assert agreement.alpha is not None and 0.6 < agreement.alpha < 0.85
    assert agreement.simulated and agreement.annotators == 3


def ranked(config: FeedbackConfig) -> tuple[float, float]:
    """The ceiling of 300 plausible items, and how far their annotators agree."""
    opinions = plausible_opinions(300)
    scale, annotators = Scale.of(list(opinions.values())), panel(config, seed=0)
    rankings = {
        item: [Ranking(item, a.name, "simulated", tuple(a.rank(of, scale=scale, item=item))) for a in annotators]
        for item, of in opinions.items()
    }
    items = [Item(i, i, CONTEXT, None, tuple(Answer(f"答案 {k}") for k in range(4))) for i in opinions]
    utilities = {item: [true.utility for true in answers] for item, answers in opinions.items()}
    measured = ceiling(label_items(items, rankings), utilities)
    alpha = measure_alpha(rankings, resamples=2, seed=0).alpha
    assert measured is not None and alpha is not None
    return measured["accuracy"], alpha


def test_the_truth_itself_does_not_reach_093_against_the_default_annotators() -> None:
    highest, alpha = ranked(FeedbackConfig())
    assert 0.8 < highest <= 0.93 and 0.6 < alpha < 0.9
    exact, sure = ranked(FeedbackConfig(noise=0.0, hard_items=0.0))
    assert exact == 1.0 and sure == 1.0


@pytest.mark.parametrize("change", [{"noise": 0.6}, {"hard_items": 0.6}, {"shared_bias": 3.0}])
def test_every_kind_of_error_lowers_the_ceiling(change: dict[str, float]) -> None:
    more, default = FeedbackConfig(**change), FeedbackConfig()
    assert ranked(more)[0] < ranked(default)[0]


def test_a_shared_bias_hides_from_the_agreement_and_own_errors_do_not() -> None:
    """Why the ceiling is measured and not read off α: annotators who err alike agree."""
    alike = FeedbackConfig(noise=0.0, hard_items=1.0, shared_bias=2.0)
    highest, alpha = ranked(alike)
    assert highest < 0.75 and alpha == 1.0
    torn, easy = FeedbackConfig(hard_items=0.6, shared_bias=0.0), FeedbackConfig(hard_items=0.0)
    assert ranked(torn)[1] < ranked(easy)[1] - 0.03


def test_on_hard_items_alone_all_err_alike() -> None:
    opinions, bias = plausible_opinions(400), {"noise": 0.0, "hard_items": 0.3, "shared_bias": 2.0}
    scale = Scale.of(list(opinions.values()))
    first, second = SimulatedAnnotator("a", 0, **bias), SimulatedAnnotator("b", 0, **bias)
    exact = SimulatedAnnotator("c", 0, noise=0.0)
    for item, values in opinions.items():
        ranks = first.rank(values, scale=scale, item=item)
        assert ranks == second.rank(values, scale=scale, item=item)
        assert is_hard(item, 0.3, 0) or ranks == exact.rank(values, scale=scale, item=item)
    assert 0.2 < sum(is_hard(item, 0.3, 0) for item in opinions) / 400 < 0.4


def test_the_ceiling_is_the_accuracy_of_the_truth_where_it_is_known() -> None:
    answers = tuple(Answer(text) for text in "甲乙丙")
    [known] = label_items([Item("a", "a", CONTEXT, None, answers)], {"a": [Ranking("a", "x", "simulated", (1, 2, 3))]})
    measured = ceiling([known], {"a": [1.0, 0.5, 0.5], "b": [0.0]})
    assert measured is not None
    assert measured["accuracy"] == pytest.approx((1 + 1 + 0.5) / 3)  # an equal utility is a guess
    assert ceiling([known], {}) is None and ceiling([known], {"a": [1.0, 0.5]}) is None
