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
from zj_ray.training.packing import Row, plan_rows
from zj_ray.training.zero_engine import EngineSpec
from zj_ray.weights.bucket import PublishedWeights, WeightManifest


@dataclass(frozen=True)
class Models:
    """Folders the roles start from. policy: None for a copy of the reference. The critic starts as a copy of the reward model."""

    reference: Path
    reward: Path
    policy: Path | None = None


@dataclass(frozen=True)
class Updated:
    policy: UpdateStats | None  # None while only the critic learns
    critic: UpdateStats | None  # None where advantages need no critic


class Roles:
    """critic is None where advantages need none, reference where the policy without its adapters is the reference."""

    def __init__(
        self, config: PPOConfig, model: ModelConfig, seed: int, start_timeout: float, fleet: FleetConfig
    ) -> None:
        """fleet: how the policy's weights reach the engines, and their part of the places that they share with roles."""
        self.config, self._dtype, self._start_timeout, self._transport = (
            config,
            model.dtype,
            start_timeout,
            fleet.transport,
        )
        present, timeout = config.roles(), config.role_timeout
        self.places = Places(config.residents(fleet), config.colocate)

        def group(name: str, rank_class: type, *more: Any) -> RoleGroup:
            return RoleGroup(name, rank_class, present[name], self.places, timeout, model, seed, timeout, *more)

        objective = PolicyObjective(
            config.temperature,
            config.clip_low,
            config.clip_high,
            config.dual_clip,
            config.entropy_coefficient,
            config.kl_estimator if config.kl_in == "loss" else None,  # type: ignore[arg-type]  # config checks refuse k1 there
        )
        self.policy = group("policy", PolicyRank, objective, config.policy.lora)
        self.reward = group("reward", RewardRank)
        self.reference = group("reference", ReferenceRank, objective) if "reference" in present else None
        self.critic = (
            group("critic", CriticRank, config.value_clip, config.critic.lora) if "critic" in present else None
        )
        self.learners = [self.policy, *([self.critic] if self.critic else [])]
        self.groups = [*self.learners, *([self.reference] if self.reference else []), self.reward]

    def start(self, models: Models) -> None:
        """Load all models; they load side by side."""
        config = self.config
        self.places.wait(self._start_timeout)
        started = [
            (
                self.policy,
                self.policy.start(
                    str(models.policy or models.reference), self._spec(config.policy, config.learning_rate)
                ),
            ),
            (self.reward, self.reward.start(str(models.reward), self._spec(config.reward, None))),
        ]
        if self.reference:
            started.append(
                (self.reference, self.reference.start(str(models.reference), self._spec(config.reference, None)))
            )
        if self.critic:
            started.append(
                (
                    self.critic,
                    self.critic.start(str(models.reward), self._spec(config.critic, config.critic_learning_rate)),
                )
            )
        for group, references in started:
            group.wait(references, what="load its model")

    def _spec(self, role: LearnerRoleConfig | FrozenRoleConfig, learning_rate: float | None) -> EngineSpec:
        return EngineSpec(
            learning_rate, self.config.clip_norm, role.zero_stage, offload=role.offload, dtype=self._dtype
        )

    def score(self, batch: RolloutBatch) -> list[np.ndarray]:
        """Fill in old and reference log-probs and, with a critic, values; returns raw reward scores `[turns, heads]` of each."""
        ends = [positions[turns] for positions, turns in zip(batch.positions, batch.turn_ends, strict=True)]
        token_ids, positions, turn_ends = ray.put(batch.token_ids), ray.put(batch.positions), ray.put(ends)

        def ask(group: RoleGroup, method: str, where: Any = positions) -> Callable[[], list[np.ndarray]]:
            rows: list[list[Row]] = plan_rows(batch.lengths, group.size, self.config.micro_batch_tokens)
            return lambda: group.merge(group.call(method, token_ids, where, rows), len(batch), what=f"compute {method}")

        work = {"policy": [ask(self.policy, "logprobs")], "reward": [ask(self.reward, "scores", turn_ends)]}
        if self.reference:
            work["reference"] = [ask(self.reference, "logprobs")]
        else:
            work["policy"].append(ask(self.policy, "reference_logprobs"))
        if self.critic:
            work["critic"] = [ask(self.critic, "values")]
        found = in_turns(self.places.plan, work)
        batch.old_logprobs = found["policy"][0]
        batch.reference_logprobs = (found["reference"] if self.reference else found["policy"])[-1]
        batch.values = found["critic"][0] if self.critic else []
        return found["reward"][0]

    def update(
        self, batch: RolloutBatch, mini_batches: list[list[list[int]]], kl_coefficient: float, learn_policy: bool
    ) -> Updated:
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
        found = in_turns(self.places.plan, work)
        return Updated(*(found[name][0] if name in found else None for name in ("policy", "critic")))

    def _plans(self, batch: RolloutBatch, mini_batches: list[list[list[int]]], ranks: int) -> list[MiniBatchPlan]:
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
        published = self.policy.wait(
            self.policy.call("weights", version, self.config.push == "adapter"), what="publish its weights"
        )[0]
        if published is None:
            raise ZjError("rank 0 published no weights", where="role policy")
        return published

    def save(self, folder: Path) -> None:
        """Copy the learners' state; it is written into `folder` while they work on, until `are_saved`."""
        calls = [(group, group.call("save", str(folder / group.name))) for group in self.learners]
        for group, references in calls:
            group.wait(references, what="copy its state")

    def are_saved(self) -> bool:
        """Raises CheckpointError when some rank could not write."""
        calls = [(group, group.call("is_saved")) for group in self.learners]
        return all(
            [all(group.wait(references, what="say whether its state is written")) for group, references in calls]
        )

    def load(self, folder: Path) -> None:
        calls = [(group, group.call("load", str(folder / group.name))) for group in self.learners]
        for group, references in calls:
            group.wait(references, what="load its state")

    def export_policy(self, folder: Path) -> None:
        self.policy.wait(self.policy.call("export", str(folder)), what="export its model")

    def close(self) -> None:
        for group in self.groups:
            group.close()
        self.places.close()
