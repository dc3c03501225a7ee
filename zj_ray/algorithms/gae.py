"""Generalised advantage estimation over multi-turn consultations.

The one thing not to get wrong: the recursion runs over *generated* tokens only and carries across whatever stands
between two doctor turns. The patient's tokens are not states in which the policy acted; walking through them with λ < 1
decays the credit of a good question once for each word of the patient's answer, and zeroed values there flip its sign.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, loss_mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns, both `[batch, time]`, unwhitened and zero where `loss_mask` is false.

    rewards, values: `[batch, time]`; read only where `loss_mask` (`[batch, time]`, bool) is true, so NaN elsewhere is
    harmless. gamma: discount per generated token; lam: GAE's λ (Schulman et al. 2016, eq. 16).
    """
    # [time, batch] from here on: the recursion reads one token of every row at a time, which should lie side by side.
    mask, rewards, values = (x.T.contiguous() for x in (loss_mask.bool(), rewards, values))
    rewards = torch.where(mask, rewards, 0.0)
    values = torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(values)
    next_value = torch.zeros_like(values[0])
    next_advantage = torch.zeros_like(next_value)
    for t in range(len(values) - 1, -1, -1):
        here = mask[t]
        delta = rewards[t] + gamma * next_value - values[t]
        advantage = delta + gamma * lam * next_advantage
        advantages[t] = torch.where(here, advantage, 0.0)
        next_advantage = torch.where(here, advantage, next_advantage)
        next_value = torch.where(here, values[t], next_value)
    returns = advantages + values
    return advantages.T.contiguous(), returns.T.contiguous()


def turn_end_rewards(turn_ends: list[list[int]], turn_rewards: list[list[float]], time: int) -> Tensor:
    """`[batch, time]` rewards that are zero but at the last token of each doctor turn."""
    rewards = torch.zeros(len(turn_ends), time)
    for row, (ends, amounts) in enumerate(zip(turn_ends, turn_rewards, strict=True)):
        rewards[row, torch.tensor(ends)] = torch.tensor(amounts)
    return rewards
