"""Truncated importance sampling between the engine that sampled and the trainer that learns."""

from __future__ import annotations

import torch
from torch import Tensor


def importance_weights(trainer_logprobs: Tensor, behaviour_logprobs: Tensor, mask: Tensor, cap: float) -> Tensor:
    """min(π_trainer / π_engine, cap) at each masked token, 1 elsewhere; a constant in the gradient (Yao et al. 2025)."""
    difference = torch.where(mask.bool(), trainer_logprobs - behaviour_logprobs, 0.0)
    return torch.exp(difference).clamp(max=cap).detach()
