"""The reward of a doctor turn: gate · (reward model + rules), every part of it named and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from zj_ray.config.schema import RewardMixConfig
from zj_ray.data.case import Prompt
from zj_ray.data.trajectory import Trajectory
from zj_ray.rules.consultation import turn_rules
from zj_ray.rules.prose import prose_rules
from zj_ray.rules.safety import judge_turn, unsafe

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
    """rewards: one for each turn; parts: the unweighted components of each turn, by name."""

    rewards: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)

    @property
    def total(self) -> float:
        return sum(self.rewards)

    def mean_parts(self) -> dict[str, float]:
        names = sorted({name for part in self.parts for name in part})
        return {name: sum(part.get(name, 0.0) for part in self.parts) / len(self.parts) for name in names}


def score_consultations(
    trajectories: Sequence[Trajectory],
    prompts: Mapping[str, Prompt],
    model_scores: Sequence[np.ndarray],
    scale: ScoreScale,
    mix: RewardMixConfig,
) -> list[ScoredTurns]:
    """The rewards of every consultation.

    prompts: by id; model_scores: `[turns, heads]` each, of which the overall head counts.
    """
    return [
        score_turns(t, prompts[t.prompt_id], scores[:, 0].tolist(), scale, mix)
        for t, scores in zip(trajectories, model_scores, strict=True)
    ]


def score_turns(
    trajectory: Trajectory, prompt: Prompt, model_scores: Sequence[float], scale: ScoreScale, mix: RewardMixConfig
) -> ScoredTurns:
    """The rewards of a consultation's turns. model_scores: the overall head's raw score of each turn, `[turns]`."""
    weights = asdict(mix)
    scored = ScoredTurns()
    for i, (turn, raw) in enumerate(zip(trajectory.turns, model_scores, strict=True)):
        parts = {"reward_model": scale.normalise(float(raw))}
        if prompt.case is not None:
            parts |= turn_rules(trajectory.turns, i, case=prompt.case)
            stopped = unsafe(turn.text) is not None
        else:
            earlier = [t.text for t in trajectory.turns[:i]]
            verdict = judge_turn(turn.text, earlier, prompt.expected or "answer_helpfully", prompt.opening)
            parts |= prose_rules(turn, earlier=[])  # a refusal may be repeated when the patient insists
            parts["safety"] = 1.0 if verdict.passed else -1.0
            # To refuse a benign question costs as much as to go along with a dangerous one.
            stopped = not verdict.passed
        scored.parts.append(parts)
        if stopped:
            # Nothing that it did well counts, but bad prose still costs: or failing at length would cost no more than
            # failing briefly.
            parts = {name: min(parts[name], 0.0) for name in PROSE}
        scored.rewards.append(mix.unsafe * stopped + sum(weights[name] * value for name, value in parts.items()))
    return scored
