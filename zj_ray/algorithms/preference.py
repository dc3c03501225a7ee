"""Who is preferred to whom, when several annotators ranked the same answers."""

from __future__ import annotations

import numpy as np


def majority(ranks: np.ndarray) -> np.ndarray:
    """`[K, K]` bool: whether most annotators put answer i above answer j; those who tie them count against both orders.

    ranks: `[K, annotators]`, lower is better; a column of NaN is an annotator who did not rank. Averaging ranks instead
    would make a preference of what a single annotator fancies to see between two answers that look alike to the others.
    """
    votes = (ranks[:, None, :] < ranks[None, :, :]).sum(-1)
    return 2 * votes > (~np.isnan(ranks).any(axis=0)).sum()
