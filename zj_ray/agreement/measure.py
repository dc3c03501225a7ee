"""How far annotators agree: overall and on each aspect, two by two, over time, on gold items; and how good each is.

Krippendorff's α over ranks (ordinal) has an interval over items: the answers of one item are ranked against each other,
so it resamples whole items, never single answers. α says how alike the annotators rank, not whether they are right
(gold does); among simulated annotators it measures the noise that was put in. What can't be computed is None and no
fault: one annotator is a legitimate way to work.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import krippendorff
import numpy as np
from numpy.typing import NDArray

from zj_ray.agreement.concordance import PairAgreement, pair_agreement
from zj_ray.agreement.drift import Drift, drift
from zj_ray.agreement.quality import GoldAccuracy, Quality, annotator_quality, gold_accuracy
from zj_ray.errors import DataError
from zj_ray.files import write_json
from zj_ray.rankings.aspects import ASPECTS
from zj_ray.rankings.tables import Ranking


@dataclass(frozen=True)
class Alpha:
    """Krippendorff's α and its interval; both None where it is undefined (one annotator, or all ranks equal)."""

    alpha: float | None
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class Agreement:
    """How far the annotators of a store agree.

    alpha, ci95: of the overall ranks. by_aspect: of the aspects that somebody ranked. simulated: some annotator was.
    """

    alpha: float | None
    ci95: tuple[float, float] | None
    annotators: int
    items: int
    simulated: bool
    by_aspect: dict[str, Alpha]
    pairs: list[PairAgreement]
    drift: dict[str, Drift]
    gold_accuracy: dict[str, GoldAccuracy]
    quality: dict[str, Quality]

    def as_dict(self) -> dict[str, Any]:
        """What `feedback/agreement.json` holds."""
        return asdict(self)

    def write(self, path: Path) -> None:
        """Write `feedback/agreement.json` whole or not at all."""
        write_json(path, self.as_dict())


def measure_agreement(
    rankings: Mapping[str, Sequence[Ranking]],
    *,
    gold: Mapping[str, Sequence[int]] | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> Agreement:
    """The agreement over a store's rankings and gold items (`RankingStore.all_rankings()`, `.gold()`)."""
    overall = measure_alpha(rankings, resamples=resamples, seed=seed)
    by_aspect = {aspect: ranked for aspect in ASPECTS if (ranked := on_aspect(rankings, aspect))}
    quality = annotator_quality(rankings)
    return Agreement(
        alpha=overall.alpha,
        ci95=overall.ci95,
        annotators=len(quality),
        items=len(rankings),
        simulated=any(r.kind == "simulated" for of_item in rankings.values() for r in of_item),
        by_aspect={a: measure_alpha(ranked, resamples=resamples, seed=seed) for a, ranked in by_aspect.items()},
        pairs=pair_agreement(rankings),
        drift=drift(rankings),
        gold_accuracy=gold_accuracy(rankings, gold or {}),
        quality=quality,
    )


def on_aspect(rankings: Mapping[str, Sequence[Ranking]], aspect: str) -> dict[str, list[Ranking]]:
    """The rankings by annotators who ranked this aspect, with its ranks instead of the overall ones."""
    ranked = {
        item: [replace(r, overall=r.aspects[aspect]) for r in of_item if r.aspects and aspect in r.aspects]
        for item, of_item in rankings.items()
    }
    return {item: of_item for item, of_item in ranked.items() if of_item}


def measure_alpha(rankings: Mapping[str, Sequence[Ranking]], *, resamples: int, seed: int) -> Alpha:
    """α of the overall ranks with its interval."""
    matrix, items = rank_matrix(rankings)
    try:
        return Alpha(krippendorff_alpha(matrix), alpha_interval(matrix, items, resamples=resamples, seed=seed))
    except DataError:
        return Alpha(None, None)


def rank_matrix(rankings: Mapping[str, Sequence[Ranking]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Ranks [annotators, items·answers], NaN where an annotator gave none; and the item's number of each column."""
    names = sorted({r.annotator for of_item in rankings.values() for r in of_item})
    blocks, numbers = [], []
    for number, (_, of_item) in enumerate(sorted(rankings.items())):
        block = np.full((len(names), len(of_item[0].overall)), np.nan)
        for ranking in of_item:
            block[names.index(ranking.annotator)] = ranking.overall
        blocks.append(block)
        numbers += [number] * block.shape[1]
    matrix = np.concatenate(blocks, axis=1) if blocks else np.full((0, 0), np.nan)
    return matrix, np.asarray(numbers, dtype=np.int64)


def krippendorff_alpha(rank_matrix: NDArray[np.float64]) -> float:
    """Ordinal α of ranks [annotators, items·answers], NaN where missing. Raises DataError where α is undefined."""
    values = _values(rank_matrix)
    counts = _value_counts(rank_matrix, values)
    pairable = counts[counts.sum(axis=1) > 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # a division by zero would otherwise come back as NaN
        alpha = krippendorff.alpha(value_counts=pairable, value_domain=values, level_of_measurement="ordinal")
    return float(alpha)


def alpha_interval(
    rank_matrix: NDArray[np.float64], items: NDArray[np.int64], *, resamples: int = 500, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of α, resampling items. Raises DataError where α is undefined.

    items: the item's number of each column of the matrix, 0 … n − 1.
    """
    coincidences = item_coincidences(_value_counts(rank_matrix, _values(rank_matrix)), items)
    random = np.random.default_rng(seed)
    draws = random.multinomial(len(coincidences), np.full(len(coincidences), 1 / len(coincidences)), size=resamples)
    alphas = ordinal_alphas(np.einsum("si,ikl->skl", draws.astype(np.float64), coincidences, optimize=True))
    if np.isnan(alphas).all():
        raise DataError("no resample has two different ranks", remedy="rank more items")
    low, high = np.nanquantile(alphas, (0.025, 0.975))
    return float(low), float(high)


def item_coincidences(counts: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float64]:
    """What each item adds to the coincidence matrix [items, values, values]; counts: [items·answers, values]."""
    pairable = counts.sum(axis=1) > 1  # an answer that one annotator ranked says nothing about agreement
    paired = counts[pairable].astype(float)
    pairs = paired[:, :, None] * paired[:, None, :] - paired[:, :, None] * np.eye(paired.shape[1])
    by_item = np.zeros((int(items.max()) + 1, *pairs.shape[1:]))
    np.add.at(by_item, items[pairable], pairs / (paired.sum(axis=1) - 1)[:, None, None])
    return by_item


def ordinal_alphas(coincidences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ordinal α of coincidence matrices [n, values, values], for all resamples at once; NaN where all ranks are equal.

    The numbers are the library's, in a thirtieth of its time. The squared ordinal distance of two ranks is that of the
    middles of their blocks in the row of all ranks.
    """
    margins = coincidences.sum(axis=2)
    middles = margins.cumsum(axis=1) - margins / 2
    distances = (middles[:, :, None] - middles[:, None, :]) ** 2
    expected = margins[:, :, None] * margins[:, None, :] / np.maximum(margins.sum(axis=1) - 1, 1)[:, None, None]
    by_chance = (expected * distances).sum(axis=(1, 2))
    return 1 - (coincidences * distances).sum(axis=(1, 2)) / np.where(by_chance > 0, by_chance, np.nan)


def _values(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The different ranks that were given, in order. Raises DataError where α is undefined."""
    values = np.unique(matrix[~np.isnan(matrix)])
    if len(matrix) < 2 or len(values) < 2 or not np.any((~np.isnan(matrix)).sum(axis=0) > 1):
        what = "agreement is undefined: it needs two annotators, an answer that both ranked and two different ranks"
        raise DataError(what, remedy="let a second annotator rank the same items")
    return values


def _value_counts(matrix: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.int64]:
    """How often each answer got each rank [items·answers, values]."""
    return np.sum(matrix[:, :, None] == values, axis=0, dtype=np.int64)
