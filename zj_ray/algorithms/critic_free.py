"""Advantages without a critic: what a consultation earned against its siblings.

GRPO and RLOO compare the samples of one prompt, so a prompt needs several. REINFORCE++ (Hu 2025) needs nothing of its
own: it is `gae` with λ = 1 and values of zero, whitened over the whole batch. What counts as earned, the KL penalty
with it or not, is decided where the rewards are made.
"""

from __future__ import annotations

import torch
from torch import Tensor


def grpo(totals: Tensor, prompts: Tensor) -> Tensor:
    """`[batch]`: each total less its prompt's mean, over its prompt's standard deviation (Shao et al. 2024, §4.1.2).

    totals: what each consultation earned, `[batch]`; prompts: `[batch]` int, equal for the samples of one prompt.
    Samples that all earned the same have no advantage, a prompt with one sample neither.
    """
    same, count = _siblings(prompts, totals)
    centred = totals - (same @ totals) / count
    deviation = ((same @ centred**2) / count).sqrt()
    return centred / (deviation + 1e-6)


def rloo(totals: Tensor, prompts: Tensor) -> Tensor:
    """`[batch]`: each total less the mean of the *other* samples of its prompt.

    Kool et al. 2019; Ahmadian et al. 2024, eq. 9. Shapes as in `grpo`. Unbiased, as no sample is its own baseline; a
    prompt with one sample has no advantage.
    """
    same, count = _siblings(prompts, totals)
    others = (count - 1).clamp(min=1)
    return torch.where(count > 1, totals - (same @ totals - totals) / others, 0.0)


def _siblings(prompts: Tensor, totals: Tensor) -> tuple[Tensor, Tensor]:
    """Which samples share a prompt `[batch, batch]`, and how many do `[batch]`, both in the type of `totals`."""
    same = (prompts[:, None] == prompts).to(totals.dtype)
    return same, same.sum(1)
