"""Advantage whitening: zero mean and unit variance over the generated tokens of the whole batch, or of a part of it."""

from __future__ import annotations

import torch
from torch import Tensor


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """`x` (any shape) minus its masked mean, over its masked standard deviation; zero where `mask` is false.

    The batch must be whole: whitening each rank's share by itself would weigh the same advantage differently on each
    rank. A batch whose masked values are all equal is centred and left at that. Slots outside the mask may hold NaN.
    """
    mask = mask.bool()
    kept = x[mask]
    if kept.numel() == 0:
        return torch.zeros_like(x)
    centred = torch.where(mask, x - kept.mean(), 0.0)
    return centred / (kept.std(unbiased=False) + 1e-8)


def whiten_within(x: Tensor, mask: Tensor, groups: Tensor, strata: Tensor) -> Tensor:
    """`x` (`[batch, time]`) less the masked mean of its stratum in its group, over its group's masked deviation.

    groups: `[batch]` int, of each row; strata: `[batch, time]` int. So no group's scale depends on another's, and what
    all of a stratum have in common, such as the turns that are still to come, is nobody's merit. Zero where `mask` is
    false, where slots may hold NaN.
    """
    mask, result = mask.bool(), torch.zeros_like(x)
    for group in groups.unique():
        of_group = mask & (groups == group)[:, None]
        for stratum in strata[of_group].unique():
            here = of_group & (strata == stratum)
            result[here] = x[here] - x[here].mean()
        result[of_group] = result[of_group] / (result[of_group].square().mean().sqrt() + 1e-8)
    return result
