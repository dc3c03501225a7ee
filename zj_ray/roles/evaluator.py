"""The evaluation's own role: scores consultations with the reward model and measures perplexity of any model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zj_ray.evaluation.forgetting import perplexity
from zj_ray.roles.reward import RewardRank
from zj_ray.training.model import load_causal_lm


class EvaluatorRank(RewardRank):
    def perplexity(self, path: str, documents: Sequence[np.ndarray]) -> float:
        """Of the causal LM at `path` on tokenised documents."""
        model = load_causal_lm(path, self.model_config).to(self.engine.device)
        return perplexity(model, [document.tolist() for document in documents])
