"""A constraint on what the policy costs: how its multiplier moves, and how reward and cost become one advantage.

The reward is to be as high as it can be while E[cost] ≤ bound: max_π min_{λ ≥ 0} E[reward] − λ · (E[cost] − bound).
As in Safe-RLHF (Dai et al. 2023, arXiv 2310.12773) the policy climbs (A_reward − λ · A_cost) / (1 + λ): a large λ turns
the step, but does not lengthen it. λ follows by projected ascent, not by theirs on ln λ, which can't reach 0 and hardly
moves near it. Ascent alone comes late: λ falls to 0 while all is safe, the policy finds what is unsafe and paid, and by
the time λ has grown again most of what it does costs. Hence a term in proportion to the violation itself (Stooke et al.
2020, arXiv 2007.03964), which is there at once and gone at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from zj_ray.errors import ZjError


@dataclass
class Multiplier:
    """λ of one constraint, the value, in [0, cap]: what it has climbed to, and what the violation adds.

    smoothed: exponential mean of the costs so far, None before the first.
    """

    value: float
    climbed: float
    smoothed: float | None = None

    def ascend(self, cost: float, bound: float, *, rate: float, gain: float, smoothing: float, cap: float) -> None:
        """Climb by rate · (smoothed cost − bound), and add gain · (smoothed cost − bound).

        cost: the step's mean, of few consultations and hence noisy; smoothing: its weight in the smoothed cost, in
        (0, 1]. Raises ZjError for a cost that is not finite, and then changes nothing.
        """
        if not math.isfinite(cost):
            remedy = "this is a fault of zj_ray: please report it with the run's log.txt"
            raise ZjError(f"the safety cost of a step is {cost}", where="ppo", remedy=remedy)
        old = cost if self.smoothed is None else self.smoothed
        self.smoothed = old + smoothing * (cost - old)
        violation = self.smoothed - bound
        self.climbed = min(max(self.climbed + rate * violation, 0.0), cap)
        self.value = min(max(self.climbed + gain * violation, 0.0), cap)


@dataclass
class RunningMean:
    """Mean of numbers that come a few at a time (Welford 1962). squares: summed squares of distances from the mean."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: Sequence[float]) -> None:
        for value in values:
            self.count += 1
            distance = value - self.mean
            self.mean += distance / self.count
            self.squares += distance * (value - self.mean)

    @property
    def error(self) -> float:
        """The mean's standard error; 0 of fewer than two numbers."""
        return math.sqrt(self.squares / (self.count - 1) / self.count) if self.count > 1 else 0.0


def constrained(advantages: Tensor, cost_advantages: Tensor, multipliers: Tensor) -> Tensor:
    """(A_reward − λ · A_cost) / (1 + λ), all `[batch, time]`, whitened. multipliers: λ of each row, `[batch]`."""
    weight = multipliers[:, None]
    return (advantages - weight * cost_advantages) / (1.0 + weight)
