"""PPO's clipped surrogate, as a loss to minimise."""

from __future__ import annotations

import torch
from torch import Tensor

from zj_ray.algorithms.masked import masked_mean


def token_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Tensor:
    """The loss of each token, same shape as the inputs, zero where `mask` is false (Schulman et al. 2017, eq. 7).

    clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high]. dual_clip: bound c > 1 on the loss of
    tokens with negative advantage (Ye et al. 2020, eq. 5), or None.
    """
    mask = mask.bool()
    ratio = torch.exp(torch.where(mask, logprobs - old_logprobs, 0.0))
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1.0 - clip_low, 1.0 + clip_high))
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)
    return torch.where(mask, loss, 0.0)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Tensor:
    """Scalar: mean of `token_policy_loss` over the masked tokens of the whole `[batch, time]`."""
    losses = token_policy_loss(
        logprobs, old_logprobs, advantages, mask, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
    )
    return masked_mean(losses, mask)


def clip_fraction(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """Share of masked tokens whose ratio lies outside the clip range."""
    ratio = torch.exp(torch.where(mask.bool(), logprobs - old_logprobs, 0.0))
    return masked_mean(((ratio < 1.0 - clip_low) | (ratio > 1.0 + clip_high)).float(), mask)
