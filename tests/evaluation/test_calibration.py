"""Calibration of a reward model: a scorer whose probabilities are known, and a temperature that is never judged by what fitted it."""

from __future__ import annotations

import numpy as np
import pytest

from zj_ray.evaluation.calibration import calibrate, expected_error, fit_temperature, reliability


def drawn(scale: float, pairs: int = 40_000, seed: int = 0) -> np.ndarray:
    """Score differences of the preferred answer where σ(difference / scale) is the truth."""
    random = np.random.default_rng(seed)
    logits = random.normal(0.0, 2.0, pairs)
    first_preferred = random.random(pairs) < 1 / (1 + np.exp(-logits))
    return np.where(first_preferred, logits, -logits) * scale


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_temperature_is_found_and_the_error_goes(scale: float) -> None:
    differences, prompts = drawn(scale), np.arange(40_000)
    found = calibrate(differences, prompts)
    assert found is not None
    assert found.temperature == pytest.approx(scale, rel=0.05)
    assert found.ece < 0.015 and (found.ece_before > 0.05) == (scale != 1.0)
    assert found.pairs == sum(b.pairs for b in found.after) == 20_000


def test_the_error_is_measured_on_prompts_that_did_not_fit_the_temperature() -> None:
    prompts = np.repeat(np.arange(200), 6)
    sure = np.where(
        np.isin(prompts, np.arange(0, 200, 2)), 3.0, -3.0
    )  # right wherever the temperature is fitted, wrong elsewhere
    found = calibrate(sure, prompts)
    assert found is not None and found.pairs == 600
    assert found.ece > 0.95 and found.temperature < 0.1


def test_the_error_by_hand() -> None:
    ln3 = np.log(3.0)  # confidence ¾
    bins = reliability(np.array([ln3, ln3, ln3, -ln3, 100.0, 100.0, 0.0]))
    assert [(b.pairs, b.accuracy) for b in bins] == [(1, 0.5), (4, 0.75), (2, 1.0)]
    assert [b.confidence for b in bins] == pytest.approx([0.5, 0.75, 1.0])
    assert expected_error(bins) == pytest.approx(0.0)
    assert expected_error(reliability(np.array([ln3, -ln3]))) == pytest.approx(0.25)


def test_one_prompt_can_not_both_fit_and_measure() -> None:
    assert calibrate(np.array([1.0, 2.0]), np.array([7, 7])) is None
    assert fit_temperature(np.array([1.0, 2.0])) == pytest.approx(
        1e-2, rel=0.1
    )  # no error at all: as sure as it may be
