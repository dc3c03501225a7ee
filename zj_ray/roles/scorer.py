"""The reward model as a role by itself, for the stages that score and don't learn: evaluate and collect.

It scores as PPO's reward role does: the same ranks, asked in the same way (`RoleGroup.compute`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zj_ray.algorithms.balance import pack
from zj_ray.config.schema import ModelConfig, PPOConfig
from zj_ray.roles.group import RoleGroup
from zj_ray.roles.placement import Places
from zj_ray.roles.reward import RewardRank
from zj_ray.training.model import TokenLogprobs, load_causal_lm
from zj_ray.training.zero_engine import EngineSpec


class ScorerRank(RewardRank):
    def perplexity(self, path: str, documents: Sequence[np.ndarray], capacity: int) -> float:
        """exp(mean negative log-likelihood) of tokenised documents under the causal LM at `path`.

        documents: `[length]` each, scored from its second token on. The mean is over the tokens of all documents.
        """
        positions = [np.arange(1, len(document)) for document in documents]
        likelihoods = self.log_likelihoods(path, documents, positions, capacity)
        return math.exp(-sum(likelihoods) / sum(map(len, positions)))

    def log_likelihoods(
        self, path: str, documents: Sequence[np.ndarray], positions: Sequence[np.ndarray], capacity: int
    ) -> list[float]:
        """Of each document under the causal LM at `path` [nats], over its tokens at `positions`, never the first."""
        model = TokenLogprobs(load_causal_lm(path, self.model_config)).to(self.engine.device).eval()
        rows = pack(list(map(len, documents)), capacity)
        logprobs = self.compute(documents, positions, rows, lambda row, i: model(row.input_ids, row.position_ids, i)[0])
        return [float(logprobs[i].sum(dtype=float)) for i in range(len(documents))]


@dataclass(frozen=True)
class Scorer:
    """loading: what `RoleGroup.start` returned; capacity: tokens of a packed row."""

    group: RoleGroup
    loading: list[Any]
    capacity: int

    def scores(self, token_ids: Sequence[np.ndarray], ends: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Scores of each document, `[ends, heads]`, read at the positions `ends`: the last token of each answer."""
        return self._compute("scores", token_ids, ends)

    def member_scores(self, token_ids: Sequence[np.ndarray], ends: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The same of every member of the ensemble by itself, `[ends, members, heads]`."""
        return self._compute("member_scores", token_ids, ends)

    def _compute(self, method: str, token_ids: Sequence[np.ndarray], ends: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.group.wait(self.loading, what="load its model")
        return self.group.compute(method, token_ids, ends, list(map(len, token_ids)), self.capacity)

    def perplexity(self, model: str, documents: Sequence[np.ndarray]) -> float:
        """The perplexity of the causal LM in the folder `model`, or with this hub id; measured by one rank."""
        self.group.wait(self.loading, what="load its model")
        measured = [self.group.actors[0].perplexity.remote(model, documents, self.capacity)]
        return self.group.wait(measured, what=f"measure the perplexity of {model}")[0]

    def log_likelihoods(
        self, model: str, documents: Sequence[np.ndarray], positions: Sequence[np.ndarray]
    ) -> list[float]:
        """Of each document under the causal LM in the folder `model` [nats], over its tokens at `positions`."""
        self.group.wait(self.loading, what="load its model")
        measured = [self.group.actors[0].log_likelihoods.remote(model, documents, positions, self.capacity)]
        return self.group.wait(measured, what=f"measure the likelihood of talk under {model}")[0]


@contextmanager
def reward_scorer(
    folder: Path, config: PPOConfig, model: ModelConfig, seed: int, start_timeout: float
) -> Iterator[Scorer]:
    """Inside, the reward model in `folder` has the resources of PPO's reward role; it loads while others work."""
    role, timeout = config.reward, config.role_timeout
    places = Places({"scorer": role})
    group = RoleGroup("scorer", ScorerRank, role, places, timeout, arguments=(model, seed, timeout))
    try:
        places.wait(start_timeout)
        spec = EngineSpec(None, config.clip_norm, role.zero_stage, offload=role.offload, dtype=model.dtype)
        yield Scorer(group, group.start(str(folder), spec), config.micro_batch_tokens)
    finally:
        group.close()
        places.close()
