"""The quality of annotators: inferred from their rankings alone, and made into weights that are never negative."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.agreement.test_simulated import plausible_opinions
from zj_ray.agreement.quality import LEAST_WEIGHT, annotator_quality, annotator_weights
from zj_ray.agreement.simulated import Scale, SimulatedAnnotator
from zj_ray.rankings.tables import Ranking

NOISES = {"careful": 0.2, "usual": 0.5, "tired": 1.0, "careless": 2.0}


def simulated(noises: dict[str, float], items: int) -> dict[str, list[Ranking]]:
    opinions = plausible_opinions(items)
    scale = Scale.of(list(opinions.values()))
    annotators = [SimulatedAnnotator(name, 0, noise) for name, noise in noises.items()]
    return {
        item: [Ranking(item, a.name, "simulated", tuple(a.rank(values, scale=scale, item=item))) for a in annotators]
        for item, values in opinions.items()
    }


def ranked(**by: list[tuple[int, ...]]) -> dict[str, list[Ranking]]:
    items = max(map(len, by.values()))
    return {
        f"i{n}": [Ranking(f"i{n}", name, "human", ranks[n]) for name, ranks in by.items() if n < len(ranks)]
        for n in range(items)
    }


def pairs_with_errors(errors: dict[str, float], items: int, seed: int) -> dict[str, list[tuple[int, ...]]]:
    """Ranks of two answers, of which the first is better; errors: how often each annotator turns them round."""
    random = np.random.default_rng(seed)
    return {name: [(2, 1) if wrong else (1, 2) for wrong in random.random(items) < e] for name, e in errors.items()}


@pytest.mark.parametrize("names", [list(NOISES), list(reversed(NOISES))])
def test_the_order_of_quality_is_recovered_from_the_rankings(names: list[str]) -> None:
    quality = annotator_quality(simulated({name: NOISES[name] for name in names}, 150))
    assert sorted(quality, key=lambda name: -(quality[name].accuracy or 0)) == list(NOISES)
    weights = [quality[name].weight for name in NOISES]
    assert weights[0] == 1.0 and weights == sorted(weights, reverse=True) and weights[-1] > LEAST_WEIGHT


def test_accuracy_is_the_share_of_pairs_that_are_ordered_as_the_truth_is() -> None:
    """Three annotators turn each pair round with chances of which the model is told nothing."""
    errors = {"a": 0.05, "b": 0.15, "c": 0.3}
    quality = annotator_quality(ranked(**pairs_with_errors(errors, 4000, seed=2)))
    expected = {name: 1 - e for name, e in errors.items()}
    assert {name: q.accuracy for name, q in quality.items()} == pytest.approx(expected, abs=0.03)


def test_two_bad_annotators_do_not_outvote_a_good_one_by_chance() -> None:
    weights = annotator_weights(simulated({"good": 0.2, "bad-1": 3.0, "bad-2": 3.0}, 200))
    assert weights["good"] == 1.0 and max(weights["bad-1"], weights["bad-2"]) < 0.5


def test_who_ranks_the_wrong_way_round_weighs_least_and_never_less_than_nothing() -> None:
    straight, reverse = [(1, 2, 3, 4)] * 50, [(4, 3, 2, 1)] * 50
    quality = annotator_quality(ranked(a=straight, b=straight, c=straight, mad=reverse))
    mad = quality["mad"]
    assert mad.accuracy is not None and mad.accuracy < 0.5 and mad.weight == LEAST_WEIGHT
    assert {quality[name].weight for name in "abc"} == {1.0}


def test_equal_annotators_weigh_the_same_however_many_items_each_ranked() -> None:
    alike = ranked(many=[(1, 2, 3)] * 60, few=[(1, 2, 3)] * 4, third=[(1, 2, 3)] * 60)
    assert set(annotator_weights(alike).values()) == {1.0}


def test_an_annotator_of_few_pairs_is_drawn_towards_everybody() -> None:
    right, wrong = [(1, 2)] * 200, [(2, 1)]
    quality = annotator_quality(ranked(a=right, b=right, unlucky=wrong))
    assert quality["unlucky"].pairs == 1
    assert quality["unlucky"].accuracy is not None and 0.8 < quality["unlucky"].accuracy < 1


@pytest.mark.parametrize("alone", [{"a": [(1, 2)]}, {"a": [(1, 1)], "b": [(1, 1)]}, {"a": [(1, 2)], "b": [(1, 1)]}])
def test_where_no_pair_was_decided_twice_quality_is_unknown_and_all_weigh_the_same(
    alone: dict[str, list[tuple[int, ...]]],
) -> None:
    quality = annotator_quality(ranked(**alone))
    assert {(q.accuracy, q.pairs, q.weight) for q in quality.values()} == {(None, 0, 1.0)}


def test_who_shares_no_pair_with_others_has_everybodys_accuracy() -> None:
    rankings = ranked(a=[(1, 2)] * 30, b=[(1, 2)] * 30) | {"own": [Ranking("own", "hermit", "human", (1, 2))]}
    assert annotator_quality(rankings)["hermit"].pairs == 0 and annotator_weights(rankings)["hermit"] == 1.0


def test_the_order_in_which_answers_stand_changes_nothing() -> None:
    """As in pairs from a file, where the better answer always comes first."""
    rankings = ranked(**pairs_with_errors({"a": 0.1, "b": 0.3, "c": 0.4}, 60, seed=5))
    turned = {item: [replace(r, overall=r.overall[::-1]) for r in of_item] for item, of_item in rankings.items()}
    turned |= {item: rankings[item] for item in list(rankings)[::3]}
    assert annotator_weights(turned) == pytest.approx(annotator_weights(rankings), rel=1e-6)


def test_no_ranking_gives_no_weight() -> None:
    assert annotator_weights({}) == {}
