"""Paired statistics against numbers worked out elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zj_ray.errors import DataError
from zj_ray.evaluation.statistics import Mean, compare, mean_interval, ratio_interval, wilson


def test_wilson_interval_equals_textbook_values() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_comparison_counts_wins_ties_and_losses_around_the_margin() -> None:
    comparison = compare([0.0, 0.0, 0.0, 0.0], [0.5, 0.04, -0.04, -0.5], tie_margin=0.05)
    assert (comparison.win, comparison.tie, comparison.loss) == (0.25, 0.5, 0.25)
    assert comparison.win + comparison.tie + comparison.loss == 1.0
    assert comparison.difference == 0.0 and comparison.win_ci95 == wilson(1, 4)


def test_bootstrap_interval_agrees_with_the_normal_one_on_many_cases() -> None:
    random = np.random.default_rng(0)
    values = random.normal(0.3, 1.0, 1000)
    mean = mean_interval(values, resamples=4000, seed=5)
    half = 1.96 * values.std() / math.sqrt(1000)
    assert mean.ci95 == pytest.approx((values.mean() - half, values.mean() + half), abs=0.006)


def test_pairing_removes_what_both_models_share() -> None:
    random = np.random.default_rng(0)
    difficulty = random.normal(0, 10, 200)
    comparison = compare(difficulty, difficulty + 0.1 + random.normal(0, 0.1, 200), seed=1)
    assert comparison.difference_ci95[0] > 0 and comparison.difference_ci95[1] - comparison.difference_ci95[0] < 0.05


def test_the_same_seed_gives_the_same_interval_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).normal(size=50)
    whole = mean_interval(values, resamples=500, seed=9)
    assert whole == mean_interval(values, resamples=500, seed=9)
    monkeypatch.setattr("zj_ray.evaluation.statistics.CHUNK", 1000)
    assert mean_interval(values, resamples=500, seed=9) == whole


@pytest.mark.parametrize(("before", "after"), [([], []), ([1.0], [1.0, 2.0]), ([1.0], [math.nan])])
def test_scores_that_can_not_be_paired_are_refused(before: list[float], after: list[float]) -> None:
    with pytest.raises(DataError):
        compare(before, after)


def test_the_interval_of_one_case_is_its_value() -> None:
    assert mean_interval([0.3]) == Mean(0.3, (0.3, 0.3), 1)
    assert ratio_interval([3], [4]) == (0.75, (0.75, 0.75))


def test_a_ratio_is_of_sums_and_absent_without_a_denominator() -> None:
    ratio = ratio_interval([1, 0, 2], [2, 1, 2], seed=0)
    assert ratio is not None and ratio[0] == pytest.approx(0.6) and ratio[1][0] <= 0.6 <= ratio[1][1]
    assert ratio_interval([0, 0], [0, 0]) is None
