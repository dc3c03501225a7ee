"""Losses of a reward model on K ranked answers of one prompt."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry(scores: Tensor, preference: Tensor, margin: Tensor | None = None) -> Tensor:
    """Pairwise loss over the answers of one prompt, every pair weighted 1 / C(K, 2).

    InstructGPT eq. 1; Zhongjing §3.3. scores: `[K]`, higher is better. preference: `[K, K]` in [0, 1], how far i is
    preferred to j: 1 for what is certain, a share of votes where annotators differ; a tie is 0 both ways and has no
    loss, and its weight goes to no other pair. margin: `[K, K]`, by how much i is to be above j (Llama 2, §3.2.2).
    Zero, with a gradient path, where every answer is tied.
    """
    above = scores[:, None] - scores[None, :]
    losses = -logsigmoid(above if margin is None else above - margin)
    count = len(scores)
    return (preference * losses).sum() / (count * (count - 1) / 2)


def plackett_luce(scores: Tensor, ranks: Tensor) -> Tensor:
    """Negative log-likelihood of one annotator's ranks: the best is chosen, then the best of the rest.

    Plackett 1975; Luce 1959. scores: `[K]`, higher is better. ranks: `[K]`, lower is better; NaN is an answer without a
    rank. Tied answers stand in an order that the annotator did not tell, so the likelihood is that of all orders which
    agree with the ranks (the marginal likelihood of Kalbfleisch & Prentice 1973, Biometrika 60). 2^t terms for t
    answers that tie above others.
    """
    told = ~torch.isnan(ranks)
    loss = scores.sum() * 0.0
    for rank in torch.unique(ranks[told]).tolist():
        tied, below = scores[ranks == rank], scores[ranks > rank]
        if len(below):
            loss = loss - _log_first(tied, below.logsumexp(0))
    return loss


def _log_first(tied: Tensor, below: Tensor) -> Tensor:
    """Log-probability that all of `tied` `[t]` are chosen, in whatever order, before any of the rest.

    below: the log-sum-exp of the rest.
    P(S) = Σ_{i∈S} e^{s_i} / (Σ_{j∈S} e^{s_j} + rest) · P(S without i), over sets S as bit masks.
    """
    log_first = [below * 0.0]
    for chosen in range(1, 1 << len(tied)):
        members = [i for i in range(len(tied)) if chosen >> i & 1]
        everyone = torch.cat([tied[members], below[None]]).logsumexp(0)
        earlier = torch.stack([log_first[chosen & ~(1 << i)] for i in members])
        log_first.append((tied[members] + earlier).logsumexp(0) - everyone)
    return log_first[-1]


def pair_outcomes(scores: Tensor, better: Tensor) -> tuple[int, int]:
    """How many of the ordered pairs the scores put the right way round (an equal score is wrong), and of how many."""
    right = better & (scores[:, None] > scores[None, :])
    return int(right.sum()), int(better.sum())
