"""One PPO run: consult, score, estimate advantages, update, publish; resumable after every checkpoint.

The loop owns what lies between the roles, which learn, and the fleet, which speaks. What a reader must not get wrong: a
checkpoint holds the roles' own state and all that a later step depends on here; what `_checkpoint` leaves out is lost.
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
from zj_ray.ppo.constraint import SafetyConstraint, costs_by_kind
from zj_ray.ppo.record import StepLog, Stopwatch
from zj_ray.progress import Bar
from zj_ray.rewards.mix import ScoreScale, score_consultations
from zj_ray.roles.batch import RolloutBatch
from zj_ray.roles.roles import Roles, RoleUpdates
from zj_ray.runs.folder import Run
from zj_ray.training.checkpoint_copy import open_checkpoints
from zj_ray.weights.bucket import WeightVersions


class PPOLoop:
    """One run's state between its roles and its fleet; `train` does what is left of it."""

    def __init__(self, run: Run, versions: WeightVersions, chat: ChatFormat, roles: Roles, fleet: Fleet) -> None:
        """roles, fleet: started; versions: numbers the weights that are published, in all stages of the process."""
        self.run, self.versions, self.chat, self.roles, self.fleet = run, versions, chat, roles, fleet
        config: PPOConfig = run.config.ppo
        consultation = run.config.consultation
        self.config = config
        self.prompts = PromptStream(load_prompts(run.data_root, "train"), run.config.seed, config.safety_share)
        self.scale = ScoreScale.of(run.manifest("reward") or {})
        target = config.kl_target if config.kl_controller == "adaptive" else None
        self.kl = KLController(config.kl_coefficient, target, config.kl_horizon)
        self.safety = SafetyConstraint(config.safety)
        self.settings = DialogueSettings(
            max_turns=consultation.max_turns,
            turn_tokens=consultation.turn_tokens,
            max_length=run.config.model.max_length,
            temperature=consultation.temperature,
        )
        # So many steps share the fleet, and each may take its time of it.
        self.rollout_limit = (config.max_staleness + 1) * consultation.timeout
        limit = self.rollout_limit + GRACE
        self.rollouts = RolloutAhead(self._consult, config.max_staleness, config.steps, limit)
        self.spoken: dict[int, SpokenTurns] = {}  # by step, of consultations that are not learnt from yet
        folder = run.stage("ppo")
        keep = {"keep": config.keep_checkpoints, "keep_best": config.keep_best, "keep_every": config.keep_every}
        self.checkpoints = open_checkpoints(run.checkpoint_url("ppo"), folder / "checkpoints", **keep)
        self.saving = CheckpointWriter(self.checkpoints, roles, config.role_timeout)
        self.record = StepLog(folder, run.tensorboard)
        self.warmup = config.critic_warmup if config.advantage == "gae" else 0
        self.skipped = 0

    def train(self, bar: Bar) -> None:
        """Do all remaining steps, with a checkpoint every so often and after the last."""
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
        trajectories = rollout.consultations.trajectories
        check_staleness(trajectories, self.versions.current, self.config.max_staleness)
        if self.run.config.fleet.sleep:
            self.fleet.sleep()
        watch.lap("rollout")
        batch = RolloutBatch.of(trajectories, self.versions.current)
        scores = self.roles.score(batch)
        watch.lap("score")
        mix, method = self.config.mix, self.config.safety.method
        scored = score_consultations(trajectories, rollout.prompts, scores, self.scale, mix, method)
        drift = estimate_advantages(batch, scored, self.kl.coefficient, self.config)
        kinds = [rollout.prompts[t.prompt_id].kind for t in trajectories]
        self.safety.weigh(batch, scored, kinds, self.config.gamma)
        self._check(drift, step)
        watch.lap("advantages")
        mini_batches = self._mini_batches(len(batch), step)
        updates = self.roles.update(batch, mini_batches, self.kl.coefficient, learn_policy=step >= self.warmup)
        self._count_skipped(updates, step)
        watch.lap("update")
        sync = self.fleet.publish(self.roles.weights(self.versions.next()))
        watch.lap("sync")
        costs = costs_by_kind(batch.prompts, kinds, scored)
        safety = self.safety.figures(costs)
        reward = self.record.write(
            step, rollout, safety, batch=batch, scored=scored, drift=drift, updates=updates, sync=sync, watch=watch
        )
        self.kl.update(drift.kl, len(batch))
        self.safety.update(costs, learnt=step > self.warmup)  # what step `warmup` learns from was held before it learnt
        return reward, drift.kl

    def _consult(self, step: int) -> Rollout:
        """Hold the consultations of a step; with `ppo.max_staleness` beside the updates of the steps before."""
        samples = self.config.samples
        prompts = self.prompts.take(step, self.config.consultations // samples)
        consultations = self.fleet.rollout(
            [(prompt, number * samples + k) for number, prompt in enumerate(prompts) for k in range(samples)],
            # The version tells it from a rollout that a lost role left behind.
            key=f"step-{step}/v{self.versions.current}",
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
        """Raises ZjError where engines and trainer disagree, or the policy is too far from the reference."""
        if drift.mismatch_mean > self.config.mismatch_bound:
            mean, largest = f"{drift.mismatch_mean:.2g}", f"{drift.mismatch_max:.2g}"
            what = f"step {step}: engine and trainer log-probs differ by {mean} on average (max {largest})"
            remedy = "use the same dtype in both (model.dtype), or raise ppo.mismatch_bound"
            raise ZjError(what, where="ppo", remedy=remedy)
        if drift.kl > self.config.kl_bound:
            distance, bound = f"{drift.kl:.2g} nats per token", self.config.kl_bound
            what = f"step {step}: the policy is {distance} from the reference, {bound} are allowed"
            remedy = "lower ppo.learning_rate, raise ppo.kl_coefficient, or raise ppo.kl_bound"
            raise ZjError(what, where="ppo", remedy=remedy)

    def _count_skipped(self, updates: RoleUpdates, step: int) -> None:
        """Raises ZjError once more than `ppo.skipped_steps` optimizer steps of the run were dropped."""
        self.skipped += sum(stats.skipped for stats in (updates.critic, updates.policy) if stats)
        if self.skipped > self.config.skipped_steps:
            what = f"step {step}: {self.skipped} optimizer steps were dropped because a loss or gradient was not finite"
            remedy = "lower the learning rates; `zj run` again resumes from the last checkpoint"
            raise ZjError(what, where="ppo", remedy=remedy)

    def _checkpoint(self, step: int) -> None:
        """Begin the checkpoint after `step` steps; it is written while the next ones go on."""
        rows, version = self.record.rows, self.versions.current
        learnt = {"kl_coefficient": self.kl.coefficient, "skipped": self.skipped}
        state = {**learnt, "safety": self.safety.state(), "weight_version": version, "record": rows}
        # A copy: the turns of the steps ahead grow meanwhile, on other threads.
        ahead = {number: dict(turns) for number, turns in list(self.spoken.items())}
        score = fmean(row["reward"] for row in rows[-self.config.checkpoint_every :])
        self.saving.begin(step, state, score, partial(save_spoken, steps=ahead, version=version))

    def _resume(self) -> int:
        """Go back to the newest checkpoint, if there is one; returns the step to go on with."""
        step, newest = 0, self.checkpoints.latest()
        if newest is not None:
            step, folder, state = newest
            self.roles.load(folder)
            self.kl.coefficient, self.skipped = state["kl_coefficient"], state["skipped"]
            self.safety.restore(state.get("safety", self.safety.state()))  # an earlier version's checkpoint has none
            self.record.rows = list(state["record"])
            self.versions.current = max(self.versions.current, state["weight_version"])
        self.record.truncate_after(step)
        self.fleet.publish(self.roles.weights(self.versions.next()))
        if newest is not None:
            self.spoken = load_spoken(folder, self.versions.current)
        return step
