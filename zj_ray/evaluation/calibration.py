"""Whether a reward model's σ(s_i − s_j) is the probability that answer i is preferred to answer j.

Guo et al. 2017, «On Calibration of Modern Neural Networks»: the temperature divides score differences and is fitted to
half of the prompts by maximum likelihood; the error is measured on the other half, before and after, never on what was
fitted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

BINS = 15  # of equal width over confidences from ½ to 1
TEMPERATURES = (1e-2, 1e2)  # the bounds of the search: the likelihood of a model that errs in no pair has no maximum

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Pairs of like confidence: their mean confidence, and the share of them that the model ordered rightly."""

    confidence: float
    accuracy: float
    pairs: int


@dataclass(frozen=True)
class Calibration:
    """The temperature, and the expected calibration error (ECE) of the `pairs` that did not fit it.

    ece_before, before: at temperature 1.
    """

    temperature: float
    ece_before: float
    ece: float
    pairs: int
    before: list[Bin]
    after: list[Bin]


def calibrate(differences: Floats, prompts: NDArray[np.int64]) -> Calibration | None:
    """The calibration of a reward model; None below two prompts.

    differences: `[pairs]`, score of the preferred answer less the other's; prompts: `[pairs]`, each one's prompt.
    """
    numbers = np.unique(prompts)
    if len(numbers) < 2:
        return None
    to_fit = np.isin(prompts, numbers[::2])
    temperature, others = fit_temperature(differences[to_fit]), differences[~to_fit]
    before, after = reliability(others), reliability(others / temperature)
    return Calibration(
        temperature,
        ece_before=expected_error(before),
        ece=expected_error(after),
        pairs=len(others),
        before=before,
        after=after,
    )


def fit_temperature(differences: Floats) -> float:
    """The T in `TEMPERATURES` under which σ(difference / T) gives the preferred answers the highest likelihood."""

    def loss(log_temperature: float) -> float:
        return np.logaddexp(0.0, -differences / np.exp(log_temperature)).mean()

    minimum = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded")
    return float(np.exp(minimum.x))


def reliability(differences: Floats) -> list[Bin]:
    """The bins that hold any pair. A model that sees no difference is right in half of the cases."""
    confidence = 1 / (1 + np.exp(-np.abs(differences)))
    right = 0.5 + 0.5 * np.sign(differences)
    bin_of = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    members = [bin_of == number for number in np.unique(bin_of)]
    return [Bin(float(confidence[m].mean()), float(right[m].mean()), int(m.sum())) for m in members]


def expected_error(bins: list[Bin]) -> float:
    """The ECE: the mean distance of accuracy from confidence over the pairs."""
    return sum(b.pairs * abs(b.accuracy - b.confidence) for b in bins) / sum(b.pairs for b in bins)
