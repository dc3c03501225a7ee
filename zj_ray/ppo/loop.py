"""One PPO run: consult, score, estimate advantages, update, publish; resumable after every checkpoint.

The loop owns what lies between the roles, which learn, and the fleet, which speaks. What a reader must not get wrong: a
checkpoint holds the roles' own state and everything here that a later step depends on; what is not in `_checkpoint` is lost.
"""

from __future__ import annotations

import random
from functools import partial
from statistics import fmean

from zj_ray.algorithms.kl import KLController
from zj_ray.config.schema import PPOConfig
from zj_ray.data.chat import ChatFormat
from zj_ray.data.datasets import load_prompts
from zj_ray.errors import ZjError
from zj_ray.fleet.control.fleet import Fleet
from zj_ray.fleet.control.publisher import GRACE
from zj_ray.fleet.dialogue import DialogueSettings, stable_seed
from zj_ray.fleet.turns import SpokenTurns
from zj_ray.patients.stream import PromptStream
from zj_ray.ppo.advantages import PolicyDrift, estimate_advantages
from zj_ray.ppo.ahead import Rollout, RolloutAhead, check_staleness, load_spoken, save_spoken
from zj_ray.ppo.checkpointing import CheckpointWriter
from zj_ray.ppo.record import StepLog, Stopwatch
from zj_ray.progress import Bar
from zj_ray.rewards.mix import ScoreScale, score_turns
from zj_ray.roles.batch import RolloutBatch
from zj_ray.roles.roles import Roles, Updated
from zj_ray.runs.folder import Run
from zj_ray.training.checkpoint_copy import open_checkpoints
from zj_ray.weights.bucket import WeightVersions


class PPOLoop:
    """One run's state: what a checkpoint must hold is the roles' own, the KL controller and the step."""

    def __init__(self, run: Run, versions: WeightVersions, chat: ChatFormat, roles: Roles, fleet: Fleet) -> None:
        self.run, self.versions, self.chat, self.roles, self.fleet = run, versions, chat, roles, fleet
        self.config: PPOConfig = run.config.ppo
        self.prompts = PromptStream(load_prompts(run.data_root, "train"), run.config.seed, self.config.safety_share)
        manifest = run.manifest("reward") or {}
        self.scale = ScoreScale(manifest["score_mean"], manifest["score_deviation"])
        target = self.config.kl_target if self.config.kl_controller == "adaptive" else None
        self.kl = KLController(self.config.kl_coefficient, target, self.config.kl_horizon)
        consultation = run.config.consultation
        self.settings = DialogueSettings(
            max_turns=consultation.max_turns,
            turn_tokens=consultation.turn_tokens,
            max_length=run.config.model.max_length,
            temperature=consultation.temperature,
        )
        folder = run.stage("ppo")
        kept = self.config.keep_checkpoints, self.config.keep_best, self.config.keep_every
        self.checkpoints = open_checkpoints(run.checkpoint_url("ppo"), folder / "checkpoints", *kept)
        self.saving = CheckpointWriter(self.checkpoints, roles, self.config.role_timeout)
        self.record = StepLog(folder, run.tensorboard)
        # As so many steps share the fleet.
        self.rollout_limit = (self.config.max_staleness + 1) * consultation.timeout
        self.rollouts = RolloutAhead(
            self._consult, self.config.max_staleness, self.config.steps, self.rollout_limit + GRACE
        )
        self.spoken: dict[int, SpokenTurns] = {}  # by step: of the consultations that have begun and are not learnt from yet
        self.skipped = 0
        self.warmup = self.config.critic_warmup if self.config.advantage == "gae" else 0

    def train(self, bar: Bar) -> None:
        """All remaining steps."""
        first = self._resume()
        bar.advance(first - bar.done)
        for step in range(first, self.config.steps):
            reward, kl = self.step(step)
            if (step + 1) % self.config.checkpoint_every == 0 or step + 1 == self.config.steps:
                self._checkpoint(step + 1)
            self.run.status(stage="ppo", step=step + 1, total=self.config.steps, fleet=self.fleet.table())
            bar.advance(1, reward=reward, kl=kl)
        self.saving.settle()

    def step(self, step: int) -> tuple[float, float]:
        """One PPO step; returns the mean reward of its consultations and the KL per token."""
        watch = Stopwatch()
        rollout = self.rollouts.take(step)
        self.spoken.pop(step)
        prompts, trajectories = rollout.prompts, rollout.consultations.trajectories
        check_staleness(trajectories, self.versions.current, self.config.max_staleness)
        if self.run.config.fleet.sleep:
            self.fleet.sleep()
        watch.lap("rollout")
        batch = RolloutBatch.of(trajectories, self.versions.current)
        scores = self.roles.score(batch)
        watch.lap("score")
        scored = [
            score_turns(t, prompts[t.prompt_id], raw[:, 0].tolist(), self.scale, self.config.mix)
            for t, raw in zip(trajectories, scores, strict=True)
        ]
        drift = estimate_advantages(batch, scored, self.kl.coefficient, self.config)
        self._check(drift, step)
        watch.lap("advantages")
        updated = self.roles.update(
            batch, self._mini_batches(len(batch), step), self.kl.coefficient, learn_policy=step >= self.warmup
        )
        self._count_skipped(updated, step)
        watch.lap("update")
        sync = self.fleet.publish(self.roles.weights(self.versions.next()))
        watch.lap("sync")
        reward = self.record.write(step, rollout, scored, batch, drift, updated, sync, self.kl.coefficient, watch)
        self.kl.update(drift.kl, len(batch))
        return reward, drift.kl

    def _consult(self, step: int) -> Rollout:
        """Hold the consultations of a step; with `ppo.max_staleness` this runs beside the updates of the steps before."""
        samples = self.config.samples
        prompts = self.prompts.take(step, self.config.consultations // samples)
        consultations = self.fleet.rollout(
            [(prompt, place * samples + k) for place, prompt in enumerate(prompts) for k in range(samples)],
            key=f"step-{step}/v{self.versions.current}",  # the version tells it from a rollout that a lost role left behind
            seed=stable_seed(self.run.config.seed, step),
            chat=self.chat,
            settings=self.settings,
            timeout=self.rollout_limit,
            spoken=self.spoken.setdefault(step, {}),
        )
        return Rollout({prompt.id: prompt for prompt in prompts}, consultations)

    def _mini_batches(self, count: int, step: int) -> list[list[list[int]]]:
        """For each epoch a fresh shuffle of the trajectories, dealt into mini-batches."""
        epochs = []
        for epoch in range(self.config.epochs):
            order = random.Random(f"{self.run.config.seed}/{step}/{epoch}").sample(range(count), count)
            deals = [order[i :: self.config.mini_batches] for i in range(self.config.mini_batches)]
            epochs.append([deal for deal in deals if deal])
        return epochs

    def _check(self, drift: PolicyDrift, step: int) -> None:
        if drift.mismatch_mean > self.config.mismatch_bound:
            raise ZjError(
                f"step {step}: engine and trainer log-probs differ by {drift.mismatch_mean:.2g} on average (max {drift.mismatch_max:.2g})",
                where="ppo",
                remedy="use the same dtype in both (model.dtype), or raise ppo.mismatch_bound",
            )
        if drift.kl > self.config.kl_bound:
            raise ZjError(
                f"step {step}: the policy is {drift.kl:.2g} nats per token from the reference, {self.config.kl_bound} are allowed",
                where="ppo",
                remedy="lower ppo.learning_rate, raise ppo.kl_coefficient, or raise ppo.kl_bound",
            )

    def _count_skipped(self, updated: Updated, step: int) -> None:
        self.skipped += sum(stats.skipped for stats in (updated.critic, updated.policy) if stats)
        if self.skipped > self.config.skipped_steps:
            raise ZjError(
                f"step {step}: {self.skipped} optimizer steps were dropped because a loss or gradient was not finite",
                where="ppo",
                remedy="lower the learning rates; `zj run` again resumes from the last checkpoint",
            )

    def _checkpoint(self, step: int) -> None:
        rows = self.record.state()
        state = {
            "kl_coefficient": self.kl.coefficient,
            "skipped": self.skipped,
            "weight_version": self.versions.current,
            "record": rows,
        }
        ahead = {
            step: dict(turns) for step, turns in list(self.spoken.items())
        }  # they grow meanwhile, on other threads
        score = fmean(row["reward"] for row in rows[-self.config.checkpoint_every :])
        self.saving.begin(step, state, score, partial(save_spoken, steps=ahead, version=self.versions.current))

    def _resume(self) -> int:
        """Go back to the newest checkpoint, if there is one; returns the step to go on with."""
        found = self.checkpoints.latest()
        step = 0
        if found is not None:
            step, folder, state = found
            self.roles.load(folder)
            self.kl.coefficient, self.skipped = state["kl_coefficient"], state["skipped"]
            self.record.restore(state["record"])
            self.versions.current = max(self.versions.current, state["weight_version"])
        self.record.truncate_after(step)
        self.fleet.publish(self.roles.weights(self.versions.next()))
        if found is not None:
            self.spoken = load_spoken(folder, self.versions.current)
        return step
