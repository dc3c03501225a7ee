"""Advantage whitening: zero mean and unit variance over the generated tokens of the whole batch."""

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
