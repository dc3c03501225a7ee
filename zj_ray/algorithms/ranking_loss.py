"""Loss of a reward model on K ranked answers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def ranking_loss(scores: Tensor, better: Tensor) -> Tensor:
    """Mean Bradley–Terry loss over the ordered pairs of one prompt's answers (InstructGPT eq. 1; Zhongjing §3.3).

    scores: `[K]`, higher is better. better: `[K, K]` bool, whether i is preferred to j; tied answers form no pair. Each
    prompt weighs the same whatever its number of pairs. Zero, with a gradient path, when every answer is tied.
    """
    losses = -logsigmoid(scores[:, None] - scores[None, :])
    return torch.where(better, losses, 0.0).sum() / better.sum().clamp(min=1)


def pair_outcomes(scores: Tensor, better: Tensor) -> tuple[int, int]:
    """How many of the ordered pairs the scores put the right way round (an equal score is wrong), and of how many."""
    right = better & (scores[:, None] > scores[None, :])
    return int(right.sum()), int(better.sum())
