"""The four roles together: start, score a batch, update, save."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from zj_ray.config.schema import FleetConfig, FrozenRoleConfig, LearnerRoleConfig, ModelConfig, PPOConfig
from zj_ray.errors import ZjError
from zj_ray.roles.batch import RolloutBatch
from zj_ray.roles.critic import CriticRank
from zj_ray.roles.group import RoleGroup
from zj_ray.roles.placement import Places, in_turns
from zj_ray.roles.policy import MiniBatchPlan, PolicyObjective, PolicyRank, UpdateStats
from zj_ray.roles.reference import ReferenceRank
from zj_ray.roles.reward import RewardRank
from zj_ray.training.packing import plan_rows
from zj_ray.training.zero_engine import EngineSpec
from zj_ray.weights.bucket import PublishedWeights, WeightManifest


@dataclass(frozen=True)
class Models:
    """Folders that the roles start from; the critic's is the reward model's. policy: None for the reference's."""

    reference: Path
    reward: Path
    policy: Path | None = None


@dataclass(frozen=True)
class RoleUpdates:
    """What the learners report of one step's update."""

    policy: UpdateStats | None  # None while only the critic learns
    critic: UpdateStats | None  # None where advantages need no critic


class Roles:
    """critic is None where advantages need none, reference where the policy without its adapters is the reference."""

    def __init__(
        self,
        config: PPOConfig,
        model: ModelConfig,
        *,
        seed: int,
        temperature: float,
        start_timeout: float,
        fleet: FleetConfig,
    ) -> None:
        """temperature: that of the sampling, at which log-probs are taken.

        fleet: how the policy's weights reach the engines, and the engines' part of the places that they share.
        """
        self.config, self._dtype, self._start_timeout = config, model.dtype, start_timeout
        self._transport = fleet.transport
        present, timeout = config.roles(), config.role_timeout
        self.places = Places(config.residents(fleet), config.colocate)

        def group(name: str, rank_class: type, *more: Any) -> RoleGroup:
            arguments = model, seed, timeout, *more
            return RoleGroup(name, rank_class, present[name], self.places, timeout, arguments=arguments)

        objective = PolicyObjective(
            temperature=temperature,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            dual_clip=config.dual_clip,
            entropy_coefficient=config.entropy_coefficient,
            # The config's checks refuse k1 in the loss.
            kl_estimator=config.kl_estimator if config.kl_in == "loss" else None,  # type: ignore[arg-type]
        )
        self.policy = group("policy", PolicyRank, objective, config.policy.lora)
        self.reward = group("reward", RewardRank)
        self.reference = group("reference", ReferenceRank, objective) if "reference" in present else None
        critic = config.value_clip, config.critic.lora
        self.critic = group("critic", CriticRank, *critic) if "critic" in present else None
        self.learners = [role for role in (self.policy, self.critic) if role]
        self.groups = [role for role in (*self.learners, self.reference, self.reward) if role]

    def start(self, models: Models) -> None:
        """Load all models; they load side by side."""
        config = self.config
        self.places.wait(self._start_timeout)
        starts = (
            (self.policy, models.policy or models.reference, config.policy, config.learning_rate),
            (self.reward, models.reward, config.reward, None),
            (self.reference, models.reference, config.reference, None),
            (self.critic, models.reward, config.critic, config.critic_learning_rate),
        )
        loading = [(g, g.start(str(model), self._spec(role, rate))) for g, model, role, rate in starts if g]
        for group, references in loading:
            group.wait(references, what="load its model")

    def _spec(self, role: LearnerRoleConfig | FrozenRoleConfig, learning_rate: float | None) -> EngineSpec:
        clip_norm, offload = self.config.clip_norm, role.offload
        return EngineSpec(learning_rate, clip_norm, role.zero_stage, offload=offload, dtype=self._dtype)

    def score(self, batch: RolloutBatch) -> list[np.ndarray]:
        """Fill in old and reference log-probs and, with a critic, values; returns the scores, `[turns, heads]` each."""
        token_ids, generated = ray.put(batch.token_ids), ray.put(batch.positions)
        turn_ends, capacity = ray.put(batch.turn_end_positions), self.config.micro_batch_tokens

        def ask(group: RoleGroup, method: str, positions: Any = generated) -> Callable[[], list[np.ndarray]]:
            return lambda: group.compute(method, token_ids, positions, batch.lengths, capacity)

        work = {"policy": [ask(self.policy, "logprobs")], "reward": [ask(self.reward, "scores", turn_ends)]}
        if self.reference:
            work["reference"] = [ask(self.reference, "logprobs")]
        else:
            work["policy"].append(ask(self.policy, "reference_logprobs"))
        if self.critic:
            work["critic"] = [ask(self.critic, "values")]
        results = in_turns(self.places.plan, work)
        batch.old_logprobs = results["policy"][0]
        batch.reference_logprobs = results["reference" if self.reference else "policy"][-1]
        batch.values = results["critic"][0] if self.critic else []
        return results["reward"][0]

    def update(
        self, batch: RolloutBatch, mini_batches: list[list[list[int]]], kl_coefficient: float, learn_policy: bool
    ) -> RoleUpdates:
        """Critic and policy learn. mini_batches: for each epoch, the trajectory numbers of each mini-batch."""
        shared = ray.put(batch)
        work: dict[str, list[Callable[[], Any]]] = {}

        def teach(group: RoleGroup, *arguments: Any) -> None:
            plans = self._plans(batch, mini_batches, group.size)
            work[group.name] = [lambda: group.wait(group.call("update", shared, plans, *arguments), what="update")[0]]

        if self.critic:
            teach(self.critic)
        if learn_policy:
            teach(self.policy, kl_coefficient)
        results = in_turns(self.places.plan, work)
        return RoleUpdates(*(results[name][0] if name in results else None for name in ("policy", "critic")))

    def _plans(self, batch: RolloutBatch, mini_batches: list[list[list[int]]], ranks: int) -> list[MiniBatchPlan]:
        """One for each mini-batch of each epoch, in rows of trajectory numbers."""
        plans = []
        for members in (mini for epoch in mini_batches for mini in epoch):
            rows = plan_rows([batch.lengths[i] for i in members], ranks, self.config.micro_batch_tokens)
            named = [[[members[i] for i in row] for row in rank] for rank in rows]
            plans.append(MiniBatchPlan(named, float(sum(batch.generated[i] for i in members))))
        return plans

    def weights(self, version: int) -> PublishedWeights:
        """The policy's current weights in the object store, or with `ppo.push: adapter` its adapters alone.

        With another transport nothing is copied: the fleet will ask the policy's ranks to send them.
        """
        if self._transport != "object_store":
            self.policy.wait(self.policy.call("offer", version), what="offer its weights")
            return PublishedWeights(WeightManifest(version, (), (), 0), (), senders=tuple(self.policy.actors))
        packing = self.policy.call("weights", version, self.config.push == "adapter")
        published = self.policy.wait(packing, what="publish its weights")[0]
        if published is None:
            raise ZjError("rank 0 published no weights", where="role policy")
        return published

    def save(self, folder: Path) -> None:
        """Copy the learners' state; it is written into `folder` while they work on, until `are_saved`."""
        self._of_learners("copy its state", "save", folder)

    def are_saved(self) -> bool:
        """Whether the disk has what `save` copied. Raises CheckpointError when some rank could not write."""
        return all(self._of_learners("say whether its state is written", "is_saved"))

    def load(self, folder: Path) -> None:
        """Make the learners what they were when `save` copied them."""
        self._of_learners("load its state", "load", folder)

    def _of_learners(self, what: str, method: str, folder: Path | None = None) -> list[Any]:
        """What every rank of the learners answers; each group has its own part of `folder`."""
        calls = [(g, g.call(method, *([str(folder / g.name)] if folder else []))) for g in self.learners]
        return [answer for group, references in calls for answer in group.wait(references, what=what)]

    def export_policy(self, folder: Path) -> None:
        """Leave the policy as a plain HF folder, without its tokenizer."""
        self.policy.wait(self.policy.call("export", str(folder)), what="export its model")

    def close(self) -> None:
        for group in self.groups:
            group.close()
        self.places.close()
