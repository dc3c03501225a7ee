"""Paired comparison of two models over the same cases, with intervals.

The case is the unit: both models answered the same one, so differences are taken within a case before anything is
averaged or resampled. An interval covers the choice of cases, not the luck of one training run. Every function is
seeded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from zj_ray.errors import DataError

CHUNK = 4_000_000  # resampled values held at once, so that memory stays bounded whatever the number of cases


@dataclass(frozen=True)
class Mean:
    """The mean of n values with its 95 % bootstrap interval."""

    value: float
    ci95: tuple[float, float]
    n: int


@dataclass(frozen=True)
class Comparison:
    """How `after` does against `before` on the same n cases, with 95 % intervals. win + tie + loss = 1."""

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
        what = f"{len(old)} scores of one model against {len(new)} of the other"
        raise DataError(what, remedy="compare both models on the same cases")
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
    """Mean of `values` [cases] with its 95 % bootstrap interval over cases. Raises DataError as `compare` does."""
    sample = _scores(values)
    return Mean(float(sample.mean()), _interval(np.mean, sample, resamples=resamples, seed=seed), len(sample))


def ratio_interval(
    numerators: Sequence[float], denominators: Sequence[float], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, tuple[float, float]] | None:
    """Σ numerators / Σ denominators over cases (facts for each question) with its 95 % bootstrap interval.

    None where Σ denominators is 0. Raises DataError as `compare` does.
    """
    top, bottom = _scores(numerators), _scores(denominators)
    if bottom.sum() == 0:
        return None
    return float(top.sum() / bottom.sum()), _interval(_ratio, top, bottom, resamples=resamples, seed=seed)


def _ratio(top: NDArray[np.float64], bottom: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    sums = bottom.sum(axis)
    # A resample without any question has no ratio.
    return np.divide(top.sum(axis), sums, out=np.full_like(sums, np.nan), where=sums > 0)


def _interval(
    statistic: Callable[..., NDArray[np.float64]], *samples: NDArray[np.float64], resamples: int, seed: int
) -> tuple[float, float]:
    """95 % percentile-bootstrap interval over cases; resamples in which the statistic is undefined are left out.

    scipy's `bootstrap` draws the same, but refuses a single case, and warns where a resample is undefined.
    """
    random, n = np.random.default_rng(seed), len(samples[0])
    rows = max(1, CHUNK // n)
    draws = (random.integers(0, n, (min(rows, resamples - start), n)) for start in range(0, resamples, rows))
    values = [statistic(*(sample[drawn] for sample in samples), axis=1) for drawn in draws]
    low, high = np.nanquantile(np.concatenate(values), (0.025, 0.975))
    return float(low), float(high)


def wilson(count: int, n: int) -> tuple[float, float]:
    """95 % Wilson interval of `count` of `n` (n > 0), which holds near 0 and 1, too, where the normal one does not."""
    interval = binomtest(count, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _scores(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64)
    if not len(scores) or not np.isfinite(scores).all():
        what = "scores to compare must be finite numbers, at least one"
        raise DataError(what, remedy="look into the consultations that were scored")
    return scores
