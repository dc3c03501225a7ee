"""Safety as a constraint: the cost's own advantage, a multiplier for each kind of prompt, and the bound they keep.

One multiplier for each kind (case, safety, control): under a common mean a policy could pay for its neglect of red
flags with better refusals, or for needless refusals with the dangerous prompts. The bound is what the policy itself
cost before it first learnt, unless it is a number. All of it is in `state`: a checkpoint that leaves it out would begin
to measure anew, with a policy that has changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

import numpy as np
import torch

from zj_ray.algorithms.constraint import Multiplier, RunningMean, constrained
from zj_ray.algorithms.gae import gae, turn_end_rewards
from zj_ray.algorithms.whitening import whiten, whiten_within
from zj_ray.config.schema import SafetyConfig
from zj_ray.rewards.mix import ScoredTurns
from zj_ray.roles.batch import RolloutBatch, pad, unpad

KINDS = ("case", "safety", "control")


class SafetyConstraint:
    """multipliers, measured: by kind of prompt, none where safety is a part of the reward (`method: weight`).

    measured: the cost of a consultation of the policy that PPO starts from.
    """

    def __init__(self, config: SafetyConfig) -> None:
        self.config = config
        kinds = KINDS if config.method == "constraint" else ()
        self.multipliers = {kind: Multiplier(config.multiplier, climbed=config.multiplier) for kind in kinds}
        self.measured = {kind: RunningMean() for kind in kinds}

    def bound(self, kind: str) -> float | None:
        """Most that a consultation may cost on average; None while there is nothing to take it from."""
        if self.config.bound != "sft":
            return self.config.bound
        cost = self.measured[kind]
        return max(cost.mean - self.config.margin * cost.error, 0.0) if cost.count else None

    def weigh(self, batch: RolloutBatch, scored: Sequence[ScoredTurns], kinds: Sequence[str], gamma: float) -> None:
        """Weigh the advantages of a batch, which are those of the reward, against those of the cost, in place.

        kinds: of each consultation's prompt. The cost to go needs no critic: it is a sum over a handful of turns, each
        0 or 1, and what can be foreseen of it, the number of turns that are left, is taken off by whitening.
        """
        if not self.multipliers:
            return
        advantages, mask = pad(batch.advantages)
        ends = [of_turns.tolist() for of_turns in batch.turn_ends]
        costs = turn_end_rewards(ends, [s.costs for s in scored], mask.shape[1])
        to_go, _ = gae(costs, torch.zeros_like(costs), mask, gamma, lam=1.0)
        turns, _ = pad([np.searchsorted(e, np.arange(n)) for e, n in zip(ends, batch.generated, strict=True)])
        groups = torch.tensor([KINDS.index(kind) for kind in kinds])
        of_cost = whiten_within(to_go, mask, groups, turns)
        weights = torch.tensor([self.multipliers[kind].value for kind in kinds])
        # rloo leaves the reward's advantage in its own units, in which a λ would mean something else in every run.
        batch.advantages = unpad(constrained(whiten(advantages, mask), of_cost, weights), batch.generated)

    def update(self, costs: Mapping[str, Sequence[float]], *, learnt: bool) -> None:
        """Take in what a step's consultations cost, by kind as `costs_by_kind` has it, after the step was learnt from.

        learnt: whether their policy had learnt before it held them. Until then they only measure. A kind of which a
        step has no consultation stays as it is.
        """
        config = self.config
        pace = {"rate": config.learning_rate, "gain": config.gain, "smoothing": config.smoothing, "cap": config.cap}
        for kind in costs.keys() & self.multipliers.keys():
            if not learnt:
                self.measured[kind].add(costs[kind])
                self.multipliers[kind].smoothed = self.measured[kind].mean
            elif (bound := self.bound(kind)) is not None:
                self.multipliers[kind].ascend(fmean(costs[kind]), bound, **pace)

    def figures(self, costs: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """By kind, as metrics: the mean of a step's costs; λ, smoothed cost and bound, each where there is one."""
        found: dict[str, float | None] = {f"cost_{kind}": fmean(values) for kind, values in costs.items()}
        for kind, multiplier in self.multipliers.items():
            found |= {f"multiplier_{kind}": multiplier.value, f"smoothed_cost_{kind}": multiplier.smoothed}
            found[f"bound_{kind}"] = self.bound(kind)
        return {name: value for name, value in found.items() if value is not None}

    def state(self) -> dict[str, Any]:
        """All that later steps depend on, as JSON, which keeps every bit of a number."""
        multipliers = {kind: asdict(multiplier) for kind, multiplier in self.multipliers.items()}
        return {"multipliers": multipliers, "measured": {kind: asdict(cost) for kind, cost in self.measured.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.multipliers = {kind: Multiplier(**part) for kind, part in state["multipliers"].items()}
        self.measured = {kind: RunningMean(**part) for kind, part in state["measured"].items()}


def costs_by_kind(
    prompts: Sequence[int], kinds: Sequence[str], scored: Sequence[ScoredTurns]
) -> dict[str, list[float]]:
    """What consultations cost, by kind of prompt: one number a prompt, the mean of its samples, which are alike.

    prompts: equal for the samples of one prompt, as in RolloutBatch.
    """
    samples: dict[tuple[str, int], list[float]] = {}
    for prompt, kind, scores in zip(prompts, kinds, scored, strict=True):
        samples.setdefault((kind, prompt), []).append(scores.cost)
    costs: dict[str, list[float]] = {}
    for (kind, _), values in samples.items():
        costs.setdefault(kind, []).append(fmean(values))
    return costs
