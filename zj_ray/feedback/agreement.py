"""How far annotators agree: Krippendorff's α over ranks (ordinal), with an interval over items.

The answers of one item are ranked against each other, so the interval resamples whole items, never single answers. α says
how alike the annotators rank, not whether they are right; among simulated annotators it measures the noise they were given.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import krippendorff
import numpy as np
from numpy.typing import NDArray

from zj_ray.errors import DataError
from zj_ray.feedback.tables import Ranking


@dataclass(frozen=True)
class Agreement:
    """alpha: None when it is undefined (fewer than two annotators, or all ranks equal). simulated: some annotator was."""

    alpha: float | None
    ci95: tuple[float, float] | None
    annotators: int
    items: int
    simulated: bool

    def as_dict(self) -> dict[str, Any]:
        """What `feedback/agreement.json` holds."""
        return asdict(self)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")


def measure_agreement(rankings: Mapping[str, Sequence[Ranking]], *, resamples: int = 500, seed: int = 0) -> Agreement:
    """Agreement over a store's rankings (`RankingStore.all_rankings()`)."""
    matrix, items = rank_matrix(rankings)
    simulated = any(r.kind == "simulated" for known in rankings.values() for r in known)
    try:
        alpha, interval = krippendorff_alpha(matrix), alpha_interval(matrix, items, resamples=resamples, seed=seed)
    except DataError:  # undefined is a finding here, not a fault: one annotator is a legitimate way to work
        return Agreement(None, None, len(matrix), len(rankings), simulated)
    return Agreement(alpha, interval, len(matrix), len(rankings), simulated)


def rank_matrix(rankings: Mapping[str, Sequence[Ranking]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(ranks [annotators, items·answers] with NaN where an annotator gave none, number of the item of each column [items·answers])."""
    names = sorted({r.annotator for known in rankings.values() for r in known})
    blocks, numbers = [], []
    for number, (_, known) in enumerate(sorted(rankings.items())):
        block = np.full((len(names), len(known[0].overall)), np.nan)
        for ranking in known:
            block[names.index(ranking.annotator)] = ranking.overall
        blocks.append(block)
        numbers += [number] * block.shape[1]
    matrix = np.concatenate(blocks, axis=1) if blocks else np.full((0, 0), np.nan)
    return matrix, np.asarray(numbers, dtype=np.int64)


def krippendorff_alpha(rank_matrix: NDArray[np.float64]) -> float:
    """Ordinal α of ranks [annotators, items·answers], NaN where missing. Raises DataError where α is undefined."""
    values = _values(rank_matrix)
    return _alpha(_value_counts(rank_matrix, values), values)


def alpha_interval(
    rank_matrix: NDArray[np.float64], items: NDArray[np.int64], *, resamples: int = 500, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of α, resampling items. items: the item's number of each column, 0 … n − 1. Raises DataError as above."""
    values = _values(rank_matrix)
    counts = _value_counts(rank_matrix, values)
    columns = [np.flatnonzero(items == item) for item in range(int(items.max()) + 1)]
    random = np.random.default_rng(seed)
    alphas = []
    for _ in range(resamples):
        drawn = random.integers(0, len(columns), len(columns))
        sample = counts[np.concatenate([columns[item] for item in drawn])]
        if np.count_nonzero(sample.sum(axis=0)) > 1:  # α of a resample in which all ranks are equal does not exist
            alphas.append(_alpha(sample, values))
    if not alphas:
        raise DataError("no resample has two different ranks", remedy="rank more items")
    low, high = np.quantile(alphas, (0.025, 0.975))
    return float(low), float(high)


def _values(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values = np.unique(matrix[~np.isnan(matrix)])
    if len(matrix) < 2 or len(values) < 2 or not np.any((~np.isnan(matrix)).sum(axis=0) > 1):
        raise DataError(
            "agreement is undefined: it needs two annotators, an answer that both ranked and two different ranks",
            remedy="let a second annotator rank the same items",
        )
    return values


def _value_counts(matrix: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.int64]:
    """How often each answer got each rank [items·answers, values]."""
    return np.sum(matrix[:, :, None] == values, axis=0, dtype=np.int64)


def _alpha(counts: NDArray[np.int64], values: NDArray[np.float64]) -> float:
    paired = counts[counts.sum(axis=1) > 1]  # an answer that one annotator ranked says nothing about agreement
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # a division by zero would otherwise come back as NaN
        return float(krippendorff.alpha(value_counts=paired, value_domain=values, level_of_measurement="ordinal"))
