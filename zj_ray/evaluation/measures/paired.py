"""Two models compared unit by unit, where a unit is what was drawn independently: a case, a question, a dialogue.

Ten answers to one question are not ten questions: a model that has learnt one refusal passes or fails with all ten of
them. So answers are added up within their question first, and only whole questions are resampled and exchanged. Every
function is seeded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

FEWEST = 5  # units below which a resample is too like the sample to give an interval
EXCHANGES = 4999  # of the two models within units, for the p-value

Floats = NDArray[np.float64]
ByUnit = Mapping[str, tuple[float, float]]  # unit → (amount, count); a measure is Σ amounts / Σ counts


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A measure of both models over the same units; differences are PPO − SFT.

    Values are None where nothing was counted, intervals (95 %) also below FEWEST units. p: of no difference, two-sided.
    """

    units: int
    sft: float | None
    ppo: float | None
    sft_ci95: tuple[float, float] | None
    ppo_ci95: tuple[float, float] | None
    difference: float | None
    ci95: tuple[float, float] | None
    p: float | None


def paired(sft: ByUnit, ppo: ByUnit, *, share: bool, resamples: int, seed: int = 0) -> Paired:
    """Compare the units that both models have.

    share: whether the measure is a share of its counts; then one without any spread gets the Wilson interval of as many
    units.
    """
    units = [unit for unit in sorted(sft.keys() & ppo.keys()) if sft[unit][1] or ppo[unit][1]]
    rows = np.array([[*sft[unit], *ppo[unit]] for unit in units], dtype=np.float64).reshape(len(units), 4)
    before, after = _ratio(rows[:, :2].sum(0)), _ratio(rows[:, 2:].sum(0))
    random = np.random.default_rng(seed)
    weights = random.multinomial(len(units), [1 / len(units)] * len(units), resamples) if units else np.zeros((0, 0))
    sums = weights @ rows
    resampled_before, resampled_after = _ratio(sums[:, :2]), _ratio(sums[:, 2:])
    difference = _known(after - before)
    return Paired(
        units=len(units),
        sft=_known(before),
        ppo=_known(after),
        sft_ci95=_interval(resampled_before, before, len(units), share),
        ppo_ci95=_interval(resampled_after, after, len(units), share),
        difference=difference,
        ci95=_interval(resampled_after - resampled_before, after - before, len(units), share=False),
        p=None if difference is None else _p_value(rows, difference, random),
    )


def _ratio(sums: Floats) -> Floats:
    """Amounts over counts `[..., 2]`, nan where nothing was counted."""
    amounts, counts = sums[..., 0], sums[..., 1]
    return np.divide(amounts, counts, out=np.full(np.shape(counts), np.nan), where=counts > 0)


def _known(value: Floats) -> float | None:
    return float(value) if np.isfinite(value) else None


def _interval(resampled: Floats, value: Floats, units: int, share: bool) -> tuple[float, float] | None:
    """The percentile interval; resamples in which nothing was counted are left out."""
    if units < FEWEST or not np.isfinite(value):
        return None
    low, high = np.nanquantile(resampled, (0.025, 0.975))
    if share and low == high and value in (0, 1):  # all alike: resampling can't show what another unit might do
        wilson = binomtest(round(float(value) * units), units).proportion_ci(method="wilson")
        return float(wilson.low), float(wilson.high)
    return float(low), float(high)


def _p_value(rows: Floats, difference: float, random: np.random.Generator) -> float:
    """How often exchanging the models within units at random makes as large a difference (Fisher's permutations)."""
    sft, ppo = rows[:, :2], rows[:, 2:]
    exchanged = random.random((EXCHANGES, len(rows))) < 0.5
    moved = exchanged @ (ppo - sft)
    differences = _ratio(ppo.sum(0) - moved) - _ratio(sft.sum(0) + moved)
    as_large = ~(np.abs(differences) < abs(difference) - 1e-9)  # where nothing was counted it can't be told: as large
    return float((1 + as_large.sum()) / (1 + EXCHANGES))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values made up for their number (Holm 1979): below 0.05 any is a false find in at most 5 % of tables."""
    order = np.argsort(p_values)
    stepped = np.maximum.accumulate(np.array(p_values)[order] * (len(p_values) - np.arange(len(p_values))))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()
