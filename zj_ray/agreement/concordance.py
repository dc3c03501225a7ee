"""How alike two annotators rank: Kendall's τ-b and Kendall's W, item by item, both with their corrections for ties."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from scipy.stats import kendalltau, rankdata

from zj_ray.rankings.tables import Ranking


@dataclass(frozen=True)
class PairAgreement:
    """Means over the items that both ranked, without those where they are undefined: one of the two (W: both) gave all answers one rank.

    tau_b: −1 (opposite orders), 0 (unrelated), 1 (the same). w, of two annotators: 0, 0.5 and 1 in these cases.
    """

    first: str
    second: str
    items: int
    tau_b: float | None
    w: float | None


def pair_agreement(rankings: Mapping[str, Sequence[Ranking]]) -> list[PairAgreement]:
    """Of every two annotators who have an item in common, in order of their names."""
    shared: dict[tuple[str, str], list[tuple[tuple[int, ...], tuple[int, ...]]]] = defaultdict(list)
    for known in rankings.values():
        for one, other in combinations(sorted(known, key=lambda r: r.annotator), 2):
            shared[one.annotator, other.annotator].append((one.overall, other.overall))
    return [
        PairAgreement(
            first, second, len(both), mean([tau_b(a, b) for a, b in both]), mean([kendall_w(a, b) for a, b in both])
        )
        for (first, second), both in sorted(shared.items())
    ]


@lru_cache(
    maxsize=1 << 16
)  # four answers have 75 orders with ties, so thousands of items are a few hundred different pairs
def tau_b(one: tuple[int, ...], other: tuple[int, ...]) -> float | None:
    """Kendall's τ-b of two rankings of the same answers; None where one of them is all ties."""
    statistic = float(kendalltau(one, other).statistic)
    return None if np.isnan(statistic) else statistic


@lru_cache(maxsize=1 << 16)
def kendall_w(*ranks: tuple[int, ...]) -> float | None:
    """Kendall's coefficient of concordance of m rankings of n answers, corrected for ties; None where all of them are all ties.

    W = 12·S / (m²·(n³ − n) − m·ΣT): S is the sum of squares of the answers' rank sums about their mean, with middle ranks
    for ties, and T the sum of t³ − t over an annotator's groups of t tied answers (Kendall & Gibbons, 1990, ch. 6).
    """
    m, n = len(ranks), len(ranks[0])
    sums = rankdata(ranks, axis=1).sum(axis=0)
    ties = sum(int((t**3 - t).sum()) for t in (np.unique(row, return_counts=True)[1] for row in ranks))
    most = m**2 * (n**3 - n) - m * ties
    return 12 * float(((sums - sums.mean()) ** 2).sum()) / most if most else None


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of those that are defined; None where none is."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
