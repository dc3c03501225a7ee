"""Krippendorff's α over ranks against published numbers and its own limits."""

from __future__ import annotations

import numpy as np
import pytest

from zj_ray.errors import DataError
from zj_ray.feedback.agreement import alpha_interval, krippendorff_alpha, measure_agreement, rank_matrix
from zj_ray.feedback.tables import Ranking

MISSING = np.nan
# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", the four-observer example.
PUBLISHED = np.array([
    [1, 2, 3, 3, 2, 1, 4, 1, 2, MISSING, MISSING, MISSING],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, MISSING, 3],
    [MISSING, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, MISSING],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, MISSING],
])


def ranking(item: str, annotator: str, *ranks: int) -> Ranking:
    return Ranking(item, annotator, "human", ranks)


def test_ordinal_alpha_of_the_published_example_is_0_815() -> None:
    assert krippendorff_alpha(PUBLISHED) == pytest.approx(0.815, abs=0.001)


def test_perfect_agreement_is_one_and_opposite_ranks_are_negative() -> None:
    assert krippendorff_alpha(np.array([[1.0, 2, 3, 4]] * 3)) == pytest.approx(1.0)
    assert krippendorff_alpha(np.array([[1.0, 2, 3, 4], [4.0, 3, 2, 1]])) < 0


def test_random_ranks_agree_about_zero_and_the_interval_covers_it() -> None:
    random = np.random.default_rng(3)
    matrix = np.stack([np.concatenate([random.permutation(4) + 1.0 for _ in range(200)]) for _ in range(3)])
    items = np.repeat(np.arange(200), 4)
    low, high = alpha_interval(matrix, items, resamples=200, seed=1)
    assert low < 0.02 and high > -0.02 and high - low < 0.2
    assert abs(krippendorff_alpha(matrix)) < 0.08
    assert alpha_interval(matrix, items, resamples=200, seed=1) == (low, high)


def test_a_missing_annotator_leaves_a_hole_in_the_matrix() -> None:
    matrix, items = rank_matrix({"a": [ranking("a", "x", 1, 2), ranking("a", "y", 2, 1)], "b": [ranking("b", "y", 1, 2, 3)]})
    np.testing.assert_array_equal(matrix, [[1, 2, MISSING, MISSING, MISSING], [2, 1, 1, 2, 3]])
    assert items.tolist() == [0, 0, 1, 1, 1]


def test_one_annotator_has_no_agreement_and_that_is_no_fault() -> None:
    with pytest.raises(DataError, match="undefined"):
        krippendorff_alpha(np.array([[1.0, 2.0]]))
    found = measure_agreement({"a": [ranking("a", "x", 1, 2)]})
    assert found.alpha is None and found.ci95 is None and found.items == 1


def test_agreement_of_equal_rankings_is_one_and_is_not_called_simulated() -> None:
    rankings = {f"i{n}": [ranking(f"i{n}", "x", 1, 2, 3), ranking(f"i{n}", "y", 1, 2, 3)] for n in range(5)}
    found = measure_agreement(rankings, resamples=20)
    assert found.alpha == pytest.approx(1.0) and found.ci95 == pytest.approx((1.0, 1.0)) and not found.simulated
