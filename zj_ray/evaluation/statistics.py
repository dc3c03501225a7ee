"""Paired comparison of two models over the same cases, with intervals.

The case is the unit: both models answered the same one, so differences are taken within a case before anything is averaged
or resampled. An interval covers the choice of cases, not the luck of one training run. Every function is seeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zj_ray.errors import DataError

Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution
CHUNK = 4_000_000  # resampled values held at once, so that memory stays bounded whatever the number of cases


@dataclass(frozen=True)
class Proportion:
    """`count` of `n` with its 95 % Wilson interval; value and interval are None when n is 0."""

    count: int
    n: int
    value: float | None
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class Mean:
    value: float
    ci95: tuple[float, float]
    n: int


@dataclass(frozen=True)
class Comparison:
    """How `after` does against `before` on the same n cases. win + tie + loss = 1; win_ci95 is the interval of `win`."""

    n: int
    mean_before: float
    mean_after: float
    difference: float
    difference_ci95: tuple[float, float]
    win: float
    tie: float
    loss: float
    win_ci95: tuple[float, float]
    loss_ci95: tuple[float, float]
    tie_margin: float


def compare(
    before: Sequence[float], after: Sequence[float], *, tie_margin: float = 0.0, resamples: int = 2000, seed: int = 0
) -> Comparison:
    """Compare scores [cases] of two models, case by case; a difference of at most `tie_margin` is a tie.

    Raises DataError for no case, unequal numbers of cases or a score that is not finite.
    """
    old, new = _scores(before), _scores(after)
    if len(old) != len(new):
        raise DataError(
            f"{len(old)} scores of one model against {len(new)} of the other",
            remedy="compare both models on the same cases",
        )
    difference = new - old
    mean = mean_interval(difference, resamples=resamples, seed=seed)
    wins, losses = int(np.sum(difference > tie_margin)), int(np.sum(difference < -tie_margin))
    n = len(difference)
    return Comparison(
        n=n,
        mean_before=float(old.mean()),
        mean_after=float(new.mean()),
        difference=mean.value,
        difference_ci95=mean.ci95,
        win=wins / n,
        tie=(n - wins - losses) / n,
        loss=losses / n,
        win_ci95=wilson(wins, n),
        loss_ci95=wilson(losses, n),
        tie_margin=tie_margin,
    )


def mean_interval(values: Sequence[float] | NDArray[np.float64], *, resamples: int = 2000, seed: int = 0) -> Mean:
    """Mean of `values` [cases] with its 95 % percentile-bootstrap interval over cases. Raises DataError as `compare` does."""
    sample = _scores(values)
    random = np.random.default_rng(seed)
    rows = max(1, CHUNK // len(sample))
    means = [
        sample[random.integers(0, len(sample), (min(rows, resamples - start), len(sample)))].mean(axis=1)
        for start in range(0, resamples, rows)
    ]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Mean(float(sample.mean()), (float(low), float(high)), len(sample))


def ratio_interval(
    numerators: Sequence[float], denominators: Sequence[float], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, tuple[float, float]] | None:
    """Σ numerators / Σ denominators over cases (facts for each question) with its 95 % bootstrap interval; None when Σ denominators is 0."""
    top, bottom = _scores(numerators), _scores(denominators)
    if bottom.sum() == 0:
        return None
    drawn = np.random.default_rng(seed).integers(0, len(top), (resamples, len(top)))
    sums = bottom[drawn].sum(axis=1)
    ratios = top[drawn].sum(axis=1)[sums > 0] / sums[sums > 0]  # a resample without any question has no ratio
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(top.sum() / bottom.sum()), (float(low), float(high))


def proportion(count: int, n: int) -> Proportion:
    """`count` of `n` with its 95 % Wilson interval."""
    return Proportion(count, n, count / n if n else None, wilson(count, n) if n else None)


def wilson(count: int, n: int) -> tuple[float, float]:
    """95 % Wilson interval of `count` of `n` (n > 0): holds near 0 and 1 too, where the normal interval leaves [0, 1]."""
    share = count / n
    middle = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    low, high = max(0.0, float(middle - half)), min(1.0, float(middle + half))
    return (0.0 if count == 0 else low), (1.0 if count == n else high)


def _scores(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64)
    if not len(scores) or not np.isfinite(scores).all():
        raise DataError(
            "scores to compare must be finite numbers, at least one",
            remedy="look into the consultations that were scored",
        )
    return scores
