"""Truncated importance sampling between the engine that sampled and the trainer that learns."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def importance_weights(
    trainer_logprobs: Tensor,
    behaviour_logprobs: Tensor,
    mask: Tensor,
    cap: float,
    level: Literal["token", "sequence"] = "token",
) -> Tensor:
    """min(π_trainer / π_engine, cap) at each masked token, 1 elsewhere; a constant in the gradient (Yao et al. 2025).

    All inputs `[batch, time]`. level: "sequence" gives every token of a row the ratio of the whole row, which leaves no
    bias of order but has more variance the longer the row is.
    """
    mask = mask.bool()
    difference = torch.where(mask, trainer_logprobs - behaviour_logprobs, 0.0)
    if level == "sequence":
        difference = torch.where(mask, difference.sum(-1, keepdim=True), 0.0)
    return torch.exp(difference).clamp(max=cap).detach()
