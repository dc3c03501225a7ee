"""A whole tiny run by the `zj` command, and what two runs must have in common to be one and the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from bench.memory import PeakMemory
from tests.helpers.driver import zj
from zj_ray.files import read_jsonl
from zj_ray.runs.metrics import read_metrics

NAME = "exact"
CONFIG = f"""
name: {NAME}
stages: [pretrain, sft, feedback, reward, ppo, evaluate]
data: {{clinic: {{consultations: 60, single_turn: 40, passages: 40, cases: 40}}}}
model:
  max_length: 320
  deterministic: true
  tiny: {{vocab_size: 2500, hidden_size: 64, layers: 2, heads: 1, intermediate_size: 128}}
pretrain: {{ranks: 1, max_steps: 3, batch_tokens: 1024, micro_batch_tokens: 512}}
sft:
  {{max_steps: 50, epochs: 20, batch_tokens: 1024, micro_batch_tokens: 512, optimizer: muon, zero_stage: 0,
    save_every: 5}}
feedback: {{prompts: 24, held_out: 0.3, temperatures: [0.1, 0.3, 0.5, 0.7]}}
reward: {{ranks: 1, epochs: 80, batch_tokens: 2048, save_every: 5, patience: 99}}
fleet: {{initial: 1, kv_cache_mb: 64, max_in_flight: 1}}
consultation: {{turn_tokens: 24, max_turns: 3}}
ppo: {{steps: 8, consultations: 6, checkpoint_every: 2, critic_warmup: 0}}
evaluate: {{cases: 6, safety_prompts: 6, controls: 6, safety_samples: 1, bootstrap: 200}}
"""
TRAINED = ("pretrain", "sft", "reward", "ppo")
LIMIT = 900.0  # of a whole run [s]
# What a clock or a count of publications says; everything else in the metrics must be equal.
CLOCKED = ("time", "weight_version", "tokens_per_second", "rollout_seconds")


@dataclass(frozen=True)
class FinishedRun:
    """A run that nobody disturbed, of every stage but the last, which serves (tests/serving)."""

    runs: Path  # the folder of runs
    output: str
    peak_gib: float  # resident memory of all its processes

    @property
    def folder(self) -> Path:
        return self.runs / NAME


def finish_run(root: Path) -> FinishedRun:
    config, log = root / "exact.yaml", root / "zj.log"
    config.write_text(CONFIG, encoding="utf-8")
    with PeakMemory() as memory:
        status = zj("run", config, "--runs", root / "runs", log=log).wait(LIMIT)
    output = log.read_text(encoding="utf-8")
    assert status == 0, output[-3000:]
    return FinishedRun(root / "runs", output, memory.peak_gib)


def assert_same(ours: Path, theirs: Path) -> None:
    """Weights, metrics, rankings, consultations and results of two run folders are equal, bit for bit."""
    for stage in TRAINED:
        assert metrics(ours, stage) == metrics(theirs, stage), stage
        one, other = (load_file(folder / stage / "model" / "model.safetensors") for folder in (ours, theirs))
        assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one), stage
    assert _rankings(ours) == _rankings(theirs)
    for consultations in ("ppo/rollouts.jsonl", "evaluate/consultations.jsonl"):
        assert _consultations(ours / consultations) == _consultations(theirs / consultations), consultations
    one, other = (json.loads((folder / "evaluate" / "results.json").read_text()) for folder in (ours, theirs))
    assert one == other


def metrics(folder: Path, stage: str) -> list[dict[str, Any]]:
    """Of every step, less what a clock says."""
    rows = read_metrics(folder / stage / "metrics.jsonl")
    return [{n: v for n, v in row.items() if n not in CLOCKED and not n.startswith("seconds_")} for row in rows]


def _consultations(path: Path) -> list[dict[str, Any]]:
    rows = [row for _, row in read_jsonl(path)]
    for row in rows:
        for turn in row.get("turns", []):
            del turn["engine"], turn["weight_version"]
    return rows


def _rankings(folder: Path) -> list[dict[str, Any]]:
    rows = [row for _, row in read_jsonl(folder / "feedback" / "rankings.jsonl")]
    for row in rows:
        for annotator in row["annotators"]:
            del annotator["created"]
    return rows
