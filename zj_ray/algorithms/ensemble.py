"""One score from several reward models: what they say on average, less how far they are apart.

PPO finds the answers that a reward model overrates, and members of an ensemble overrate different ones: where they
differ the score is a guess and counts for less (Coste et al. 2023, arXiv 2310.02743).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Ensemble:
    """How the members' scores become one. means, deviations: `[members, heads]`; pessimism: what a spread of 1 costs.

    Preferences fix scores but for a constant and, with early stopping, hardly their size. So each member is first
    measured by its own mean and deviation on the same answers: or its constant would pass for disagreement.
    """

    means: np.ndarray
    deviations: np.ndarray
    pessimism: float

    @classmethod
    def fit(cls, scores: np.ndarray, pessimism: float) -> Ensemble:
        """scores: `[members, answers, heads]`, of answers that no member has learnt."""
        return cls(scores.mean(axis=1), scores.std(axis=1) + 1e-6, pessimism)

    def combine(self, scores: np.ndarray) -> np.ndarray:
        """`[answers, heads]`: the mean of the members' scores `[members, answers, heads]` less their spread."""
        members = (scores - self.means[:, None]) / self.deviations[:, None]
        return members.mean(axis=0) - self.pessimism * members.std(axis=0)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `of_dict` reads it."""
        return {
            "means": self.means.tolist(),
            "deviations": self.deviations.tolist(),
            "pessimism": self.pessimism,
        }

    @classmethod
    def of_dict(cls, values: dict[str, Any]) -> Ensemble:
        return cls(np.array(values["means"]), np.array(values["deviations"]), values["pessimism"])
