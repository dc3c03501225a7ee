"""The policy (actor): the model that learns to consult."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray
import torch
from torch import Tensor, nn

from zj_ray.algorithms.kl import kl
from zj_ray.algorithms.logprobs import Entropy
from zj_ray.algorithms.policy_loss import clip_fraction, token_policy_loss
from zj_ray.config.schema import LoraConfig, ModelConfig
from zj_ray.errors import ZjError
from zj_ray.roles.batch import RolloutBatch
from zj_ray.roles.rank import Rank, flat, packed
from zj_ray.training.lora import NO_LORA, adapter_config, adapter_weights, adapters_off, add_lora, plain_weights
from zj_ray.training.model import TokenLogprobs, load_causal_lm
from zj_ray.training.packing import PackedRow, Row
from zj_ray.training.zero_engine import StepResult
from zj_ray.weights.bucket import PublishedWeights, pack_weights
from zj_ray.weights.direct.transfer import Sender, Sent


@dataclass(frozen=True)
class MiniBatchPlan:
    """One optimizer step: for each rank its packed rows; denominator: generated tokens of the whole mini-batch."""

    rows: list[list[Row]]
    denominator: float


@dataclass(frozen=True)
class UpdateStats:
    """Means over all mini-batches of one update; skipped: optimizer steps dropped because something was not finite."""

    loss: float
    grad_norm: float
    clip_fraction: float
    entropy: float
    learning_rate: float
    skipped: int

    @classmethod
    def of(
        cls, results: Sequence[StepResult], *, loss: float, clip_fraction: float = 0.0, entropy: float = 0.0
    ) -> UpdateStats:
        """results: of the optimizer steps; the others are means per token."""
        norms = [result.grad_norm for result in results if result.applied]
        return cls(
            loss=loss,
            grad_norm=float(np.mean(norms)) if norms else float("nan"),
            clip_fraction=clip_fraction,
            entropy=entropy,
            learning_rate=results[-1].learning_rate,
            skipped=len(results) - len(norms),
        )


@dataclass(frozen=True)
class PolicyObjective:
    """What the policy minimises at each token: clipped surrogate, KL to the reference if paid here, minus the entropy.

    kl_estimator: k2 or k3, or None where the KL is part of the reward. temperature: that of the sampling.
    """

    temperature: float
    clip_low: float
    clip_high: float
    dual_clip: float | None = None
    entropy_coefficient: float = 0.0
    kl_estimator: Literal["k2", "k3"] | None = None


class PolicyRank(Rank):
    def __init__(
        self, model: ModelConfig, seed: int, timeout: float, objective: PolicyObjective, lora: LoraConfig = NO_LORA
    ) -> None:
        super().__init__(model, seed, timeout)
        self.objective, self.lora = objective, lora
        self.sender: Sender | None = None
        self.offered: int | None = None  # version under which the engines may have the weights that are here now

    def load_model(self, path: str) -> nn.Module:
        policy = TokenLogprobs(load_causal_lm(path, self.model_config))
        add_lora(policy.backbone, self.lora, self.seed)
        return policy

    def logprobs(
        self, token_ids: Sequence[np.ndarray], positions: Sequence[np.ndarray], rows: list[list[Row]]
    ) -> dict[int, np.ndarray]:
        """Log-probs of the generated tokens, by trajectory number, for this rank's rows."""
        return self.compute(token_ids, positions, rows[self.rank], lambda row, index: self._forward(row, index)[0])

    def reference_logprobs(
        self, token_ids: Sequence[np.ndarray], positions: Sequence[np.ndarray], rows: list[list[Row]]
    ) -> dict[int, np.ndarray]:
        """As `logprobs`, of the model that a LoRA policy started from."""
        with adapters_off(self.engine.module.backbone):  # type: ignore[arg-type]
            return self.logprobs(token_ids, positions, rows)

    def _forward(self, row: PackedRow, index: Tensor, entropy: Entropy = "unknown") -> tuple[Tensor, Tensor]:
        return self.engine.engine(row.input_ids, row.position_ids, index, self.objective.temperature, entropy)

    def update(self, batch: RolloutBatch, plans: Sequence[MiniBatchPlan], kl_coefficient: float) -> UpdateStats:
        """One optimizer step for each plan. kl_coefficient: β of this step, used where the KL is paid in the loss."""
        self.offered = None
        sums = np.zeros(4)  # loss, clipped tokens, entropy, tokens: sums over this rank's tokens
        results: list[StepResult] = []

        def loss_of(_: nn.Module, members: Row) -> Tensor:
            row, index = packed(batch.token_ids, batch.positions, members)
            kind: Entropy = "learned" if self.objective.entropy_coefficient > 0 else "measured"
            logprobs, entropy = self._forward(row.to(self.engine.device), index.to(self.engine.device), kind)
            arrays = batch.old_logprobs, batch.advantages, batch.importance
            old, advantages, importance = (flat(array, members, logprobs) for array in arrays)
            everywhere = torch.ones_like(logprobs, dtype=torch.bool)
            aim, clip = self.objective, (self.objective.clip_low, self.objective.clip_high)
            surrogate = token_policy_loss(logprobs, old, advantages, everywhere, *clip, dual_clip=aim.dual_clip)
            losses = importance * surrogate
            if aim.kl_estimator is not None:
                reference = flat(batch.reference_logprobs, members, logprobs)
                losses = losses + kl_coefficient * kl(logprobs, reference, aim.kl_estimator)
            if aim.entropy_coefficient > 0:
                losses = losses - aim.entropy_coefficient * entropy
            outside = float(clip_fraction(logprobs.detach(), old, everywhere, *clip))
            nonlocal sums
            sums = sums + [float(losses.detach().sum()), outside * len(old), float(entropy.detach().sum()), len(old)]
            return losses.sum()

        for plan in plans:
            results.append(self.engine.train_batch(plan.rows[self.rank], loss_of, plan.denominator))
        self.engine.rest()
        loss, clipped, entropy, tokens = self.engine.sum_over_ranks(sums.tolist())
        return UpdateStats.of(results, loss=loss / tokens, clip_fraction=clipped / tokens, entropy=entropy / tokens)

    def weights(self, version: int, adapters_alone: bool) -> PublishedWeights | None:
        """Rank 0 puts the current weights into the object store; the other ranks only take part in gathering them."""
        lm: nn.Module = self.engine.module.backbone  # type: ignore[assignment]
        named = self.engine.gather(adapter_weights(lm) if adapters_alone else plain_weights(lm))
        if self.rank != 0:
            for _ in named:
                pass
            return None
        manifest, buckets = pack_weights(named, version, adapter=adapter_config(lm) if adapters_alone else None)
        return PublishedWeights(manifest, tuple(ray.put(bucket) for bucket in buckets))

    def load(self, folder: str) -> None:
        self.offered = None
        super().load(folder)

    def offer(self, version: int) -> None:
        """The engines may have the current weights under this version until they change."""
        self.offered = version

    def packed_weights(self, version: int) -> PublishedWeights | None:
        """As `weights`, for engines that missed the sending of this version; None if the policy has moved on."""
        return self.weights(version, adapters_alone=False) if self.offered == version else None

    def send_weights(self, version: int, engines: dict[str, Any], transport: str, timeout: float) -> Sent | None:
        """Send the offered weights straight to the engines; rank 0 returns what each has received."""
        if self.offered != version:
            what = f"weights of version {version} were to be sent, but the policy has moved on"
            raise ZjError(what, where="role policy")
        if self.sender is None:
            lm: nn.Module = self.engine.module.backbone  # type: ignore[assignment]
            self.sender = Sender(transport, self.rank, partial(plain_weights, lm), self.engine.gather, timeout)
        return self.sender.send(engines)

    def export(self, folder: str) -> None:
        """Leave a plain HF folder, and with LoRA the adapters; the tokenizer is missing, as the policy has none."""
        self.engine.save_model(Path(folder))
