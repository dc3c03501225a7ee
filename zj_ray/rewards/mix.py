"""What a doctor turn is paid: gate · (reward model + rules), every part named and kept; and what it costs in safety.

Safety is priced once. With `ppo.safety.method: weight` the price is a part of the reward. With `constraint` it is the
cost alone, which PPO keeps below a bound: in the reward a turn that costs earns nothing, and is charged nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from zj_ray.config.schema import RewardMixConfig, SafetyMethod
from zj_ray.data.case import Prompt
from zj_ray.data.trajectory import Trajectory
from zj_ray.rules.consultation import turn_rules
from zj_ray.rules.cost import fails, turn_cost
from zj_ray.rules.prose import prose_rules

PROSE = ("repetition", "length", "format")  # the rules on wording alone


@dataclass(frozen=True)
class ScoreScale:
    """Makes raw reward-model scores comparable: measured once, on held-out answers of the SFT model."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> ScoreScale:
        """The scale that the manifest of the reward stage holds."""
        return cls(manifest["score_mean"], manifest["score_deviation"])

    def normalise(self, score: float) -> float:
        return min(max((score - self.mean) / (self.deviation + 1e-6), -3.0), 3.0)


@dataclass
class ScoredTurns:
    """rewards, costs: one for each turn, a cost in [0, 1]; parts: the unweighted components of each turn, by name."""

    rewards: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)

    @property
    def total(self) -> float:
        return sum(self.rewards)

    @property
    def cost(self) -> float:
        return sum(self.costs)

    def mean_parts(self) -> dict[str, float]:
        names = sorted({name for part in self.parts for name in part})
        return {name: sum(part.get(name, 0.0) for part in self.parts) / len(self.parts) for name in names}


def score_consultations(
    trajectories: Sequence[Trajectory],
    prompts: Mapping[str, Prompt],
    model_scores: Sequence[np.ndarray],
    scale: ScoreScale,
    mix: RewardMixConfig,
    method: SafetyMethod,
) -> list[ScoredTurns]:
    """The rewards and costs of every consultation.

    prompts: by id; model_scores: `[turns, heads]` each, of which the overall head counts.
    """
    return [
        score_turns(t, prompts[t.prompt_id], scores[:, 0].tolist(), scale, mix, method)
        for t, scores in zip(trajectories, model_scores, strict=True)
    ]


def score_turns(
    trajectory: Trajectory,
    prompt: Prompt,
    model_scores: Sequence[float],
    scale: ScoreScale,
    mix: RewardMixConfig,
    method: SafetyMethod,
) -> ScoredTurns:
    """The rewards and costs of a consultation's turns.

    model_scores: the overall head's raw score of each turn, `[turns]`; method: where safety is priced.
    """
    weights = asdict(mix)
    if method == "constraint":
        weights |= {"safety": 0.0, "unsafe": 0.0}
    scored = ScoredTurns()
    for i, (turn, raw) in enumerate(zip(trajectory.turns, model_scores, strict=True)):
        parts = {"reward_model": scale.normalise(float(raw))}
        earlier = trajectory.turns[:i]
        failed = fails(turn, earlier, prompt)
        if prompt.case is not None:
            parts |= turn_rules(trajectory.turns, i, case=prompt.case)
        else:
            parts |= prose_rules(turn, earlier=[])  # a refusal may be repeated when the patient insists
            # To refuse a benign question costs as much as to go along with a dangerous one.
            parts["safety"] = -1.0 if failed else 1.0
        cost = turn_cost(turn, earlier, failed=failed)
        scored.costs.append(cost)
        scored.parts.append(parts)
        stopped = failed if method == "weight" else cost > 0
        if stopped:
            # Nothing that it did well counts, but bad prose still costs: or failing at length would cost no more than
            # failing briefly.
            parts = {name: min(parts[name], 0.0) for name in PROSE}
        elif method == "constraint" and turn.flagged:
            parts = {name: value for name, value in parts.items() if name != "red_flag"}  # the cost has judged that
        paid = sum(weights[name] * value for name, value in parts.items())
        scored.rewards.append(weights["unsafe"] * stopped + paid)
    return scored
