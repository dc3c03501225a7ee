"""Calibration of a reward model: scorers of known probabilities, and a temperature not judged by what fitted it."""

from __future__ import annotations

import numpy as np
import pytest

from zj_ray.evaluation.calibration import calibrate, error_interval, expected_error, fit_temperature, reliability


def score_differences(scale: float, pairs: int = 40_000, seed: int = 0) -> np.ndarray:
    """Score differences of the preferred answer where σ(difference / scale) is the truth."""
    random = np.random.default_rng(seed)
    logits = random.normal(0.0, 2.0, pairs)
    first_preferred = random.random(pairs) < 1 / (1 + np.exp(-logits))
    return np.where(first_preferred, logits, -logits) * scale


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_temperature_is_found_and_the_error_goes(scale: float) -> None:
    differences, prompts = score_differences(scale), np.arange(40_000)
    calibration = calibrate(differences, prompts)
    assert calibration is not None
    assert calibration.temperature == pytest.approx(scale, rel=0.05)
    assert calibration.ece < 0.015 and (calibration.ece_before > 0.05) == (scale != 1.0)
    assert calibration.pairs == sum(b.pairs for b in calibration.after) == 20_000


def test_the_error_is_measured_on_prompts_that_did_not_fit_the_temperature() -> None:
    prompts = np.repeat(np.arange(200), 6)
    sure = np.where(prompts % 2 == 0, 3.0, -3.0)  # right wherever the temperature is fitted, wrong elsewhere
    calibration = calibrate(sure, prompts)
    assert calibration is not None and calibration.pairs == 600
    assert calibration.ece > 0.95 and calibration.temperature < 0.1


def test_the_error_by_hand() -> None:
    ln3 = np.log(3.0)  # confidence ¾
    bins = reliability(np.array([ln3, ln3, ln3, -ln3, 100.0, 100.0, 0.0]))
    assert [(b.pairs, b.accuracy) for b in bins] == [(1, 0.5), (4, 0.75), (2, 1.0)]
    assert [b.confidence for b in bins] == pytest.approx([0.5, 0.75, 1.0])
    assert expected_error(bins) == pytest.approx(0.0)
    assert expected_error(reliability(np.array([ln3, -ln3]))) == pytest.approx(0.25)


def test_one_prompt_can_not_both_fit_and_measure() -> None:
    assert calibrate(np.array([1.0, 2.0]), np.array([7, 7])) is None
    without_error = np.array([1.0, 2.0])
    assert fit_temperature(without_error) == pytest.approx(1e-2, rel=0.1)  # as sure as it may be


def test_the_interval_of_the_error_covers_the_truth_and_is_wider_for_fewer_questions() -> None:
    """The differences are twice what they should be; pairs of a question lean to the same side."""
    true = expected_error(reliability(score_differences(2.0, pairs=400_000, seed=99)))
    covered = 0
    for seed in range(60):
        low, high = error_interval(score_differences(2.0, pairs=600, seed=seed), np.repeat(np.arange(150), 4))
        covered += low <= true <= high
    assert covered >= 48  # 57 would be nominal; the docstring says what it reaches
    few, many = (error_interval(score_differences(2.0, n, 1), np.arange(n) // 4) for n in (200, 20_000))
    assert many[1] - many[0] < 0.3 * (few[1] - few[0])


def test_pairs_that_are_copies_of_each_other_do_not_narrow_the_interval() -> None:
    once = score_differences(2.0, pairs=200)
    apart, together = error_interval(once, np.arange(200)), error_interval(np.tile(once, 5), np.tile(np.arange(200), 5))
    assert together == pytest.approx(apart)
