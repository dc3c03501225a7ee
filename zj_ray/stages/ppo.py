"""PPO over whole consultations: consult, score, estimate advantages, update, publish; resumable after every checkpoint."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from statistics import fmean
from typing import Any

from zj_ray.algorithms.kl import KLController
from zj_ray.config.schema import PPOConfig
from zj_ray.data.datasets import load_prompts
from zj_ray.errors import RoleLost, ZjError
from zj_ray.fleet.control.fleet import Spoken
from zj_ray.fleet.control.publisher import GRACE
from zj_ray.fleet.dialogue import DialogueSettings, stable_seed
from zj_ray.patients.stream import PromptStream
from zj_ray.ppo.advantages import PolicyDrift, estimate_advantages
from zj_ray.ppo.ahead import Rollout, RolloutAhead, check_staleness, load_spoken, save_spoken
from zj_ray.ppo.checkpointing import CheckpointWriter
from zj_ray.ppo.record import StepLog, Stopwatch
from zj_ray.progress import Bar, progress
from zj_ray.rewards.mix import ScoreScale, score_turns
from zj_ray.roles.batch import RolloutBatch
from zj_ray.roles.roles import Models, Roles, Updated
from zj_ray.runs.summary import update_summary
from zj_ray.stages.context import StageContext
from zj_ray.training.checkpoint_copy import open_checkpoints

logger = logging.getLogger(__name__)


def ppo(context: StageContext) -> dict[str, Any]:
    """Leaves `ppo/model`, `rollouts.jsonl`, `metrics.jsonl` and checkpoints. A role that dies is built anew from the last of them."""
    folder, restarts = context.run.stage("ppo"), context.config.ppo.role_restarts
    with progress("ppo", context.config.ppo.steps) as bar:
        for left in reversed(range(restarts + 1)):
            try:
                with started(context) as loop:
                    loop.train(bar)
                    loop.roles.export_policy(folder / "model")
                    summary = loop.record.summary(loop.fleet.checksum_failures)
                break
            except RoleLost as lost:
                if left == 0:
                    raise
                logger.warning(
                    "%s; the roles are built anew from the last checkpoint (%d more times at most)", lost, left - 1
                )
    shutil.copytree(context.run.folder / "tokenizer", folder / "model", dirs_exist_ok=True)
    update_summary(context.run.folder, summary)
    return summary


@contextmanager
def started(context: StageContext) -> Iterator[PPOLoop]:
    """The loop with its roles and engines, which start up side by side unless they share GPUs."""
    config = context.config
    policy = context.earlier_model("ppo") if config.ppo.init == "earlier" else None
    roles = Roles(config.ppo, config.model, config.seed, config.ray.start_timeout, config.fleet)
    shared = roles.places.of_engines
    if shared:
        context.release_fleet()  # those of an earlier stage sit elsewhere
    try:
        fleet = context.launch_fleet(context.model("sft"), shared)
        if shared:
            fleet.wait_ready()  # vLLM takes what others allocate on its GPU while it measures for its own need
        roles.start(Models(reference=context.model("sft"), reward=context.model("reward"), policy=policy))
        loop = PPOLoop(context, roles, context.fleet(context.model("sft")))
        with loop.rollouts, closing(loop.saving):
            yield loop
    finally:
        if shared:
            context.release_fleet()  # they go with their places
        roles.close()


class PPOLoop:
    """One run's state: what a checkpoint must hold is the roles' own, the KL controller and the step."""

    def __init__(self, context: StageContext, roles: Roles, fleet: Any) -> None:
        self.context, self.roles, self.fleet = context, roles, fleet
        self.config: PPOConfig = context.config.ppo
        self.chat = context.chat()
        self.prompts = PromptStream(
            load_prompts(context.data_root, "train"), context.config.seed, self.config.safety_share
        )
        manifest = context.run.manifest("reward") or {}
        self.scale = ScoreScale(manifest["score_mean"], manifest["score_deviation"])
        target = self.config.kl_target if self.config.kl_controller == "adaptive" else None
        self.kl = KLController(self.config.kl_coefficient, target, self.config.kl_horizon)
        self.settings = DialogueSettings(
            self.config.max_turns, self.config.turn_tokens, context.config.model.max_length, self.config.temperature
        )
        folder = context.run.stage("ppo")
        kept = self.config.keep_checkpoints, self.config.keep_best, self.config.keep_every
        self.checkpoints = open_checkpoints(context.checkpoint_url("ppo"), folder / "checkpoints", *kept)
        self.saving = CheckpointWriter(self.checkpoints, roles, self.config.role_timeout)
        self.record = StepLog(folder, context.tensorboard)
        self.rollout_limit = (
            self.config.max_staleness + 1
        ) * self.config.rollout_timeout  # as so many steps share the fleet
        self.rollouts = RolloutAhead(
            self._consult, self.config.max_staleness, self.config.steps, self.rollout_limit + GRACE
        )
        self.spoken: dict[int, Spoken] = {}  # by step: of the consultations that have begun and are not learnt from yet
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
            self.context.run.status(stage="ppo", step=step + 1, total=self.config.steps, fleet=self.fleet.table())
            bar.advance(1, reward=reward, kl=kl)
        self.saving.settle()

    def step(self, step: int) -> tuple[float, float]:
        """One PPO step; returns the mean reward of its consultations and the KL per token."""
        watch = Stopwatch()
        rollout = self.rollouts.take(step)
        self.spoken.pop(step)
        prompts, trajectories = rollout.prompts, rollout.consultations.trajectories
        check_staleness(trajectories, self.context.version, self.config.max_staleness)
        if self.context.config.fleet.sleep:
            self.fleet.sleep()
        watch.lap("rollout")
        batch = RolloutBatch.of(trajectories, self.context.version)
        scores = self.roles.score(batch)
        watch.lap("score")
        scored = [
            score_turns(t, prompts[t.prompt_id], raw[:, 0].tolist(), self.scale, self.config.mix)
            for t, raw in zip(trajectories, scores, strict=True)
        ]
        agreement = estimate_advantages(batch, scored, self.kl.coefficient, self.config)
        self._check(agreement, step)
        watch.lap("advantages")
        updated = self.roles.update(
            batch, self._mini_batches(len(batch), step), self.kl.coefficient, learn_policy=step >= self.warmup
        )
        self._count_skipped(updated, step)
        watch.lap("update")
        sync = self.context.publish(self.roles.weights(self.context.next_version()))
        watch.lap("sync")
        reward = self.record.write(step, rollout, scored, batch, agreement, updated, sync, self.kl.coefficient, watch)
        self.kl.update(agreement.kl, len(batch))
        return reward, agreement.kl

    def _consult(self, step: int) -> Rollout:
        """Hold the consultations of a step; with `ppo.max_staleness` this runs beside the updates of the steps before."""
        samples = self.config.samples
        prompts = self.prompts.take(step, self.config.consultations // samples)
        consultations = self.fleet.rollout(
            [(prompt, place * samples + k) for place, prompt in enumerate(prompts) for k in range(samples)],
            key=f"step-{step}/v{self.context.version}",  # the version tells it from a rollout that a lost role left behind
            seed=stable_seed(self.context.config.seed, step),
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
            order = random.Random(f"{self.context.config.seed}/{step}/{epoch}").sample(range(count), count)
            deals = [order[i :: self.config.mini_batches] for i in range(self.config.mini_batches)]
            epochs.append([deal for deal in deals if deal])
        return epochs

    def _check(self, agreement: PolicyDrift, step: int) -> None:
        if agreement.mismatch_mean > self.config.mismatch_bound:
            raise ZjError(
                f"step {step}: engine and trainer log-probs differ by {agreement.mismatch_mean:.2g} on average (max {agreement.mismatch_max:.2g})",
                where="ppo",
                remedy="use the same dtype in both (model.dtype), or raise ppo.mismatch_bound",
            )
        if agreement.kl > self.config.kl_bound:
            raise ZjError(
                f"step {step}: the policy is {agreement.kl:.2g} nats per token from the reference, {self.config.kl_bound} are allowed",
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
            "weight_version": self.context.version,
            "record": rows,
        }
        ahead = {
            step: dict(turns) for step, turns in list(self.spoken.items())
        }  # they grow meanwhile, on other threads
        score = fmean(row["reward"] for row in rows[-self.config.checkpoint_every :])
        self.saving.begin(step, state, score, partial(save_spoken, steps=ahead, version=self.context.version))

    def _resume(self) -> int:
        """Go back to the newest checkpoint, if there is one; returns the step to go on with."""
        found = self.checkpoints.latest()
        step = 0
        if found is not None:
            step, folder, state = found
            self.roles.load(folder)
            self.kl.coefficient, self.skipped = state["kl_coefficient"], state["skipped"]
            self.record.restore(state["record"])
            self.context.version = max(self.context.version, state["weight_version"])
        self.record.truncate_after(step)
        self.context.publish(self.roles.weights(self.context.next_version()))
        if found is not None:
            self.spoken = load_spoken(folder, self.context.version)
        return step
