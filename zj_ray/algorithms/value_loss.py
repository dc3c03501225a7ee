"""The critic's loss: squared error with PPO's value clip."""

from __future__ import annotations

import torch
from torch import Tensor

from zj_ray.algorithms.masked import masked_mean


def token_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float | None) -> Tensor:
    """Half the squared error of each token, zero where `mask` is false.

    clip: the new value may move by so much from the old one before its gradient is cut (the larger of the clipped and
    the unclipped error counts, as in OpenAI's baselines). It is in units of the reward; None clips nothing.
    """
    mask = mask.bool()
    values, old_values, returns = (torch.where(mask, x, 0.0) for x in (values, old_values, returns))
    if clip is None:
        return 0.5 * (values - returns) ** 2
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float | None) -> Tensor:
    """Scalar: mean of `token_value_loss` over the masked tokens of the whole `[batch, time]`."""
    return masked_mean(token_value_loss(values, old_values, returns, mask, clip), mask)
