"""KL divergence from the reference: per-token estimators and the controller of its coefficient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zj_ray.errors import ConfigError


def kl(logprobs: Tensor, reference_logprobs: Tensor, estimator: Literal["k1", "k2", "k3"]) -> Tensor:
    """Estimate of KL(policy ‖ reference) at each sampled token, same shape as the inputs (Schulman 2020).

    k1: the log-ratio, unbiased, may be negative; k2: half its square, low variance, biased; k3: unbiased, never
    negative.
    """
    difference = logprobs - reference_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference**2
    if estimator == "k3":
        return torch.expm1(-difference) + difference
    raise ConfigError(f"unknown KL estimator {estimator!r}", remedy="use k1, k2 or k3")


@dataclass
class KLController:
    """The KL coefficient β. Adaptive (Ziegler et al. 2019, §2.2): proportional to the clipped relative error.

    horizon: samples over which an error of 20 % changes β by 20 %. A target of None keeps β fixed.
    """

    coefficient: float
    target: float | None = None
    horizon: int = 10_000

    def update(self, observed: float, samples: int) -> None:
        """Move β towards the target.

        observed: the step's mean KL per token; samples: consultations it was measured on.
        """
        if self.target is None:
            return
        error = min(max(observed / self.target - 1.0, -0.2), 0.2)
        self.coefficient *= 1.0 + error * samples / self.horizon
