"""Who is preferred to whom, when several annotators ranked the same answers."""

from __future__ import annotations

import numpy as np


def votes(ranks: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """`[K, K]` in [0, 1]: the share of the annotators who put answer i above answer j, of those who ranked both.

    ranks: `[K, annotators]`, lower is better; NaN where an annotator did not rank an answer. weights: `[annotators]`,
    how much each counts; None: all the same. 0 where nobody ranked both. Who ties two answers counts against both
    orders.
    """
    both = ~np.isnan(ranks)[:, None, :] & ~np.isnan(ranks)[None, :, :]
    counts = np.ones(ranks.shape[1]) if weights is None else weights
    above = ((ranks[:, None, :] < ranks[None, :, :]) * counts).sum(-1)
    heard = (both * counts).sum(-1)
    return np.divide(above, heard, out=np.zeros_like(above), where=heard > 0)


def majority(ranks: np.ndarray) -> np.ndarray:
    """`[K, K]` bool: whether most annotators put answer i above answer j.

    Averaging ranks instead would make a preference of what a single annotator fancies to see between two answers that
    look alike to the others.
    """
    return votes(ranks) > 0.5


def disagreement(scores: np.ndarray) -> float:
    """How unlike the members of an ensemble order K answers.

    It is the SD over the members of P(i above j) = σ(s_i − s_j), a mean over the pairs. scores: `[members, K]`. Only
    differences within a prompt mean something, so a member that scores all answers higher agrees.
    """
    above = 1 / (1 + np.exp(scores[:, None, :] - scores[:, :, None]))
    first, second = np.triu_indices(scores.shape[1], 1)
    return float(above[:, first, second].std(axis=0).mean())
