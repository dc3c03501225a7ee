"""What the rankings of one item come to: which of them count, their mean ranks, and the pairs that most agree upon."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zj_ray.algorithms.preference import majority
from zj_ray.errors import DataError
from zj_ray.rankings.tables import Ranking


def settled(rankings: Sequence[Ranking]) -> list[Ranking]:
    """The rankings that count: the adjudicator's where there is one, everybody's where there is none."""
    return [r for r in rankings if r.adjudicated] or list(rankings)


def consensus(rankings: Sequence[Ranking]) -> list[float]:
    """Mean overall rank of each answer [answers] over the annotators; lower is better.

    Raises DataError without a ranking.
    """
    if not rankings:
        raise DataError("nobody has ranked this item", remedy="leave unranked items out, or collect a ranking first")
    return [float(mean) for mean in np.mean([r.overall for r in rankings], axis=0)]


def pairs(rankings: Sequence[Ranking]) -> list[tuple[int, int]]:
    """(better, worse) indices of every pair of answers that most annotators order this way."""
    return [(int(i), int(j)) for i, j in np.argwhere(majority(np.array([r.overall for r in rankings], dtype=float).T))]


def competition_ranks(mean_ranks: Sequence[float]) -> list[int]:
    """Whole ranks of a consensus, 1 = best, with gaps after ties: [1.0, 2.5, 2.5, 4.0] gives [1, 2, 2, 4]."""
    return [1 + sum(other < mine for other in mean_ranks) for mine in mean_ranks]
