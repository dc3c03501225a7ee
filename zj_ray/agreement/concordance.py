"""How alike two annotators rank: Kendall's τ-b, item by item, with its correction for ties."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from scipy.stats import kendalltau

from zj_ray.rankings.tables import Ranking


@dataclass(frozen=True)
class PairAgreement:
    """Two annotators and the items that both ranked.

    tau_b: −1 (opposite orders), 0 (unrelated), 1 (the same); the mean over the items, without those where it is
    undefined, as one of the two gave all answers the same rank. None where it is undefined on every item.
    """

    first: str
    second: str
    items: int
    tau_b: float | None


def pair_agreement(rankings: Mapping[str, Sequence[Ranking]]) -> list[PairAgreement]:
    """The agreement of every two annotators who have an item in common, in order of their names."""
    shared: dict[tuple[str, str], list[float | None]] = defaultdict(list)
    for of_item in rankings.values():
        for one, other in combinations(sorted(of_item, key=lambda r: r.annotator), 2):
            shared[one.annotator, other.annotator].append(tau_b(one.overall, other.overall))
    return [PairAgreement(*names, items=len(taus), tau_b=_mean(taus)) for names, taus in sorted(shared.items())]


# Four answers have 75 orders with ties, so thousands of items are a few hundred different pairs.
@lru_cache(maxsize=1 << 16)
def tau_b(one: tuple[int, ...], other: tuple[int, ...]) -> float | None:
    """Kendall's τ-b of two rankings of the same answers; None where one of them is all ties."""
    statistic = float(kendalltau(one, other).statistic)
    return None if np.isnan(statistic) else statistic


def similarity(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Kendall's τ-b; where it is undefined, 1 if both rankings are all ties, and 0 if one is, as it orders no pair."""
    tau = tau_b(one, other)
    return float(len(set(one)) == len(set(other))) if tau is None else tau


def disagree(rankings: Sequence[Ranking], threshold: float) -> bool:
    """Whether two rankings of one item call for a third annotator.

    They do where only one of them says that all answers are wrong, and where their `similarity` is below `threshold`.
    """
    two = combinations(rankings, 2)
    return any(a.all_wrong != b.all_wrong or similarity(a.overall, b.overall) < threshold for a, b in two)


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are defined; None where none is."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
