"""Whether a reward model's σ(s_i − s_j) is the probability that i is preferred: reliability, expected calibration error, temperature.

Guo et al. 2017, «On Calibration of Modern Neural Networks»: the temperature divides score differences and is fitted to half of the
prompts by maximum likelihood; the error is measured on the other half, before and after, never on what was fitted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

BINS = 15  # of equal width over confidences from ½ to 1
TEMPERATURES = (1e-2, 1e2)  # searched; a model that errs in no pair would else be given none

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Pairs of like confidence: its mean, and the share of them that the model ordered rightly."""

    confidence: float
    accuracy: float
    pairs: int


@dataclass(frozen=True)
class Calibration:
    """ece_before, before: at temperature 1. All but the temperature is of the `pairs` that did not fit it."""

    temperature: float
    ece_before: float
    ece: float
    pairs: int
    before: list[Bin]
    after: list[Bin]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def calibrate(differences: Floats, prompts: NDArray[np.int64]) -> Calibration | None:
    """differences: `[pairs]`, score of the preferred answer less the other's; prompts: `[pairs]`, each one's prompt. None below two prompts."""
    numbers = np.unique(prompts)
    if len(numbers) < 2:
        return None
    fitted = np.isin(prompts, numbers[::2])
    temperature, measured = fit_temperature(differences[fitted]), differences[~fitted]
    before, after = reliability(measured), reliability(measured / temperature)
    return Calibration(temperature, expected_error(before), expected_error(after), len(measured), before, after)


def fit_temperature(differences: Floats) -> float:
    """The T in `TEMPERATURES` under which σ(difference / T) gives the preferred answers the highest likelihood."""
    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(
        lambda log_t: np.logaddexp(0.0, -differences / np.exp(log_t)).mean(), bounds=(low, high), method="bounded"
    )
    return float(np.exp(found.x))


def reliability(differences: Floats) -> list[Bin]:
    """The bins that hold any pair. A model that sees no difference is right in half."""
    confidence = 1 / (1 + np.exp(-np.abs(differences)))
    right = 0.5 + 0.5 * np.sign(differences)
    place = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    return [
        Bin(float(confidence[place == b].mean()), float(right[place == b].mean()), int((place == b).sum()))
        for b in range(BINS)
        if (place == b).any()
    ]


def expected_error(bins: list[Bin]) -> float:
    """ECE: mean distance of accuracy from confidence, by pairs."""
    return sum(b.pairs * abs(b.accuracy - b.confidence) for b in bins) / sum(b.pairs for b in bins)
