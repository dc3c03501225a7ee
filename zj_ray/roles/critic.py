"""The critic: the value of the consultation before each generated token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from zj_ray.algorithms.value_loss import token_value_loss
from zj_ray.config.schema import LoraConfig, ModelConfig
from zj_ray.roles.batch import RolloutBatch
from zj_ray.roles.policy import MiniBatchPlan, UpdateStats
from zj_ray.roles.rank import Rank, flat, packed
from zj_ray.training.lora import NO_LORA, add_lora
from zj_ray.training.model import load_heads
from zj_ray.training.packing import PackedRow, Row
from zj_ray.training.zero_engine import StepResult


class CriticRank(Rank):
    def __init__(
        self, model: ModelConfig, seed: int, timeout: float, value_clip: float | None, lora: LoraConfig = NO_LORA
    ) -> None:
        super().__init__(model, seed, timeout)
        self.value_clip, self.lora = value_clip, lora

    def load_model(self, path: str) -> nn.Module:
        """The reward model's trunk, which knows good answers from bad ones, under a head of zeros.

        The trained head would start from values of another scale and meaning (a raw score, where rules and gate make
        most of the reward): in a short run the policy then climbs those values, while the reward that it is paid falls.
        """
        critic = load_heads(path, self.model_config, only=1)
        nn.init.zeros_(critic.heads.weight)
        nn.init.zeros_(critic.heads.bias)
        add_lora(critic.backbone, self.lora, self.seed)
        return critic

    def values(
        self, token_ids: Sequence[np.ndarray], positions: Sequence[np.ndarray], rows: list[list[Row]]
    ) -> dict[int, np.ndarray]:
        """Values `[generated]`, by trajectory number: what the critic expects before it sees the token."""
        return self.compute(token_ids, positions, rows[self.rank], self._forward)

    def _forward(self, row: PackedRow, index: Tensor) -> Tensor:
        return self.engine.engine(row.input_ids, row.position_ids, index - 1)[:, 0]

    def update(self, batch: RolloutBatch, plans: Sequence[MiniBatchPlan]) -> UpdateStats:
        """One optimizer step for each plan, on the clipped squared error."""
        sums = np.zeros(2)
        results: list[StepResult] = []

        def loss_of(_: nn.Module, members: Row) -> Tensor:
            row, index = packed(batch.token_ids, batch.positions, members)
            values = self._forward(row.to(self.engine.device), index.to(self.engine.device))
            old, returns = flat(batch.values, members, values), flat(batch.returns, members, values)
            losses = token_value_loss(values, old, returns, torch.ones_like(values, dtype=torch.bool), self.value_clip)
            nonlocal sums
            sums = sums + [float(losses.detach().sum()), len(old)]
            return losses.sum()

        for plan in plans:
            results.append(self.engine.train_batch(plan.rows[self.rank], loss_of, plan.denominator))
        self.engine.rest()
        loss, tokens = self.engine.sum_over_ranks(sums.tolist())
        return UpdateStats.of(results, loss=loss / tokens)
