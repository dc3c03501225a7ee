"""What PPO writes down: metrics of every step, every consultation, and the figures of the summary."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from zj_ray.data.case import Prompt
from zj_ray.data.trajectory import Trajectory
from zj_ray.files import write_jsonl
from zj_ray.fleet.control.publisher import SyncReport
from zj_ray.ppo.advantages import PolicyDrift
from zj_ray.ppo.ahead import Rollout
from zj_ray.rewards.mix import ScoredTurns
from zj_ray.roles.batch import RolloutBatch
from zj_ray.roles.roles import RoleUpdates
from zj_ray.runs.metrics import MetricLog, read_metrics


class Stopwatch:
    """Seconds of each phase of a step, in the order in which they end."""

    def __init__(self) -> None:
        self.started = self._last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        now = time.monotonic()
        self.laps[f"seconds_{phase}"] = now - self._last
        self._last = now


class StepLog:
    """rows: the metrics of every step so far, which checkpoints take along."""

    def __init__(self, folder: Path, tensorboard: Path) -> None:
        self.rollouts = folder / "rollouts.jsonl"
        self.metrics = MetricLog(folder, tensorboard, "ppo")
        self.rows: list[dict[str, float]] = []

    def write(
        self,
        step: int,
        rollout: Rollout,
        safety: Mapping[str, float],
        *,
        batch: RolloutBatch,
        scored: Sequence[ScoredTurns],
        drift: PolicyDrift,
        updates: RoleUpdates,
        sync: SyncReport,
        watch: Stopwatch,
    ) -> float:
        """Record one step; returns the mean reward of a consultation. safety: figures of SafetyConstraint."""
        trajectories, policy, critic = rollout.consultations.trajectories, updates.policy, updates.critic
        self._append_rollouts(step, rollout, scored)
        turns = [turn for t in trajectories for turn in t.turns]
        cases = [t for t in trajectories if rollout.prompts[t.prompt_id].kind == "case"]
        generated = sum(batch.generated)
        row = {
            "reward": float(np.mean([s.total for s in scored])),
            "kl": drift.kl,
            "kl_coefficient": drift.kl_coefficient,
            "mismatch_mean": drift.mismatch_mean,
            "mismatch_max": drift.mismatch_max,
            "staleness": drift.staleness,
            "importance": drift.importance,
            "length": generated / len(turns),
            "turns": len(turns) / len(trajectories),
            "new_facts": float(np.mean([sum(len(turn.new_facts) for turn in t.turns) for t in cases])),
            "finished": float(np.mean([turn.finished for turn in turns])),
            "lost": float(len(rollout.consultations.lost)),
            "retried_turns": float(sum(turn.attempts > 1 for turn in turns)),
            "sync_bytes": float(sync.bytes),
            "checksum_failures": float(sync.checksum_failures),
            "engines": float(len(sync.confirmed)),
            "weight_version": float(sync.version),
            "generated_tokens": float(generated),
            "tokens_per_second": sum(batch.lengths) / sum(watch.laps.values()),
            **({"value_loss": critic.loss, "value_explained": drift.value_explained} if critic else {}),
            **({f"policy_{k}": v for k, v in asdict(policy).items()} if policy else {}),
            **({"clip_fraction": policy.clip_fraction, "entropy": policy.entropy} if policy else {}),
            **safety,
            **_mean_parts(scored),
            **watch.laps,
            "rollout_seconds": rollout.consultations.seconds,
        }
        self.metrics.write(step + 1, row)
        self.rows.append(row)
        return row["reward"]

    def _append_rollouts(self, step: int, rollout: Rollout, scored: Sequence[ScoredTurns]) -> None:
        with self.rollouts.open("a", encoding="utf-8") as file:
            for trajectory, score in zip(rollout.consultations.trajectories, scored, strict=True):
                prompt = rollout.prompts[trajectory.prompt_id]
                file.write(json.dumps(rollout_row(step + 1, trajectory, prompt, score), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def truncate_after(self, step: int) -> None:
        """Forget the steps after a checkpoint: they will be done again."""
        self.metrics.truncate_after(step)
        if self.rollouts.exists():
            write_jsonl(self.rollouts, [row for row in read_metrics(self.rollouts) if row["step"] <= step])

    def summary(self, checksum_failures: int) -> dict[str, Any]:
        """The parts of summary.json that PPO answers for."""
        rows = self.rows
        seconds = [sum(value for name, value in row.items() if name.startswith("seconds_")) for row in rows]
        tokens = sum(row["tokens_per_second"] * spent for row, spent in zip(rows, seconds, strict=True))
        return {
            "ppo": {
                "steps": len(rows),
                "reward_first": rows[0]["reward"],
                "reward_last": rows[-1]["reward"],
                "kl_last": rows[-1]["kl"],
                "tokens_per_second": tokens / sum(seconds),
            },
            "weight_sync": {
                "bytes": int(rows[-1]["sync_bytes"]),
                "seconds": float(np.median([r["seconds_sync"] for r in rows])),
                "checksum_failures": checksum_failures,
            },
            "logprob_mismatch": {
                "mean_abs": float(np.nanmean([r["mismatch_mean"] for r in rows])),
                "max_abs": float(np.nanmax([r["mismatch_max"] for r in rows])),
            },
        }


def _mean_parts(scored: Sequence[ScoredTurns]) -> dict[str, float]:
    """The mean of every part of the reward over the turns that have it, as metrics."""
    parts = [part for s in scored for part in s.parts]
    names = sorted({name for part in parts for name in part})
    return {f"rule_{name}": float(np.mean([part[name] for part in parts if name in part])) for name in names}


def rollout_row(step: int, trajectory: Trajectory, prompt: Prompt, scored: ScoredTurns) -> dict[str, Any]:
    """One consultation as a line of rollouts.jsonl. step: from 1 on, 0 outside of PPO."""
    turns = [
        {
            "engine": turn.engine,
            "weight_version": turn.weight_version,
            "tokens": turn.end - turn.start,
            "finished": turn.finished,
            "new_facts": list(turn.new_facts),
            "repeated": turn.repeated,
            "attempts": turn.attempts,
            "reward": reward,
            "cost": cost,
            "parts": parts,
        }
        for turn, reward, cost, parts in zip(trajectory.turns, scored.rewards, scored.costs, scored.parts, strict=True)
    ]
    return {
        "step": step,
        "prompt_id": trajectory.prompt_id,
        "kind": prompt.kind,
        "sample": trajectory.sample,
        "seed": trajectory.seed,
        "reward": scored.total,
        "messages": [message.as_dict() for message in trajectory.messages],
        "turns": turns,
    }
