"""A run with `model.deterministic` that is killed twelve times, in every phase of the work, ends bit for bit as one that nobody disturbed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from tests.helpers.driver import end_orphans, zj
from zj_ray.files import read_jsonl
from zj_ray.runs.metrics import read_metrics

pytestmark = [pytest.mark.resume, pytest.mark.timeout(1800)]

CONFIG = """
name: exact
stages: [pretrain, sft, feedback, reward, ppo, evaluate]
data: {clinic: {consultations: 60, single_turn: 40, passages: 40, cases: 40}}
model:
  max_length: 320
  deterministic: true
  tiny: {vocab_size: 600, hidden_size: 64, layers: 2, heads: 1, intermediate_size: 128}
pretrain: {max_steps: 3, batch_tokens: 1024, micro_batch_tokens: 512}
sft: {max_steps: 50, epochs: 20, batch_tokens: 1024, micro_batch_tokens: 512, save_every: 5}
feedback: {prompts: 16}
reward: {epochs: 80, batch_tokens: 2048, save_every: 5, patience: 99}
fleet: {initial: 1, kv_cache_mb: 64, max_in_flight: 1}
consultation: {turn_tokens: 12, max_turns: 3}
ppo: {steps: 8, consultations: 6, checkpoint_every: 1, critic_warmup: 0}
evaluate: {cases: 6, safety_prompts: 4, controls: 4, safety_samples: 1, bootstrap: 200}
"""
TIMEOUT = 600.0
# What a clock or a count of publications says; everything else in the metrics must be equal.
CLOCKED = ("time", "weight_version", "tokens_per_second", "rollout_seconds")
PLACES = {  # the phase → the function whose call is fatal, which call of the process that may be, and how long it may go on [s]
    "SFT": (
        "zj_ray.training.supervised.fit:read_metrics@/sft/",
        (1, 3),
        0.0,
    ),  # called twice a second while there are new steps
    "reward training": ("zj_ray.training.supervised.fit:read_metrics@/reward/", (1, 3), 0.0),
    "sampling answers": ("zj_ray.stages.feedback:answer", (1, 1), 1.5),
    "between stages": ("zj_ray.pipeline:_run_stage", (1, 1), 1e6),
    "rollout": ("zj_ray.fleet.control.fleet:Fleet.rollout", (1, 2), 0.3),
    "scoring": ("zj_ray.roles.roles:Roles.score", (1, 2), 0.1),
    "update": ("zj_ray.roles.roles:Roles.update", (1, 2), 0.12),
    "weight sync": ("zj_ray.fleet.control.fleet:Fleet.publish", (3, 4), 0.015),  # two before the first step
    "checkpoint copy": ("zj_ray.roles.roles:Roles.save", (1, 2), 0.015),
    "checkpoint write": ("zj_ray.training.checkpoint:CheckpointStore.commit", (1, 2), 0.01),
    "evaluation": ("zj_ray.stages.evaluate:_examine", (1, 2), 0.5),
    "evaluation's scores": ("zj_ray.stages.evaluate:_score", (1, 2), 0.05),
}


def _plan(draw: random.Random) -> list[tuple[str, int, float]]:
    """Twelve kills in the order of the pipeline: phase, which call of the process, after how many seconds."""
    in_ppo = ["rollout", "scoring", "update", "weight sync", "checkpoint copy", "checkpoint write"]
    draw.shuffle(in_ppo)
    phases = [
        "SFT",
        "sampling answers",
        "between stages",
        "reward training",
        *in_ppo,
        *draw.sample(["evaluation", "evaluation's scores"], 2),
    ]
    return [(phase, draw.randint(*PLACES[phase][1]), draw.uniform(0.0, PLACES[phase][2])) for phase in phases]


def _killed(root: Path, phase: str, number: int, seconds: float) -> dict[str, Any]:
    """Run until the fatal call; the witness that the process left."""
    witness, log = root / "witness.json", root / "killed.log"
    witness.unlink(missing_ok=True)
    words = [
        "-m",
        "tests.helpers.mortal",
        witness,
        PLACES[phase][0],
        str(number),
        str(seconds),
        "run",
        root / "exact.yaml",
        "--runs",
        root / "runs",
    ]
    with log.open("w") as out:
        status = subprocess.run(
            [sys.executable, *map(str, words)], stdout=out, stderr=subprocess.STDOUT, timeout=TIMEOUT
        ).returncode
    assert status == -9, f"{phase}: ended with {status}, not by a kill:\n{log.read_text()[-3000:]}"
    told = json.loads(witness.read_text(encoding="utf-8"))
    end_orphans([process for process in psutil.process_iter() if process.pid in told["left"]], patience=3.0)
    return told


def _metrics(folder: Path, stage: str) -> list[dict[str, Any]]:
    rows = read_metrics(folder / stage / "metrics.jsonl")
    return [
        {name: value for name, value in row.items() if name not in CLOCKED and not name.startswith("seconds_")}
        for row in rows
    ]


def _consultations(path: Path) -> list[dict[str, Any]]:
    rows = [row for _, row in read_jsonl(path)]
    for row in rows:
        for turn in row.get("turns", []):
            del turn["engine"], turn["weight_version"]
    return rows


def _rankings(path: Path) -> list[dict[str, Any]]:
    rows = [row for _, row in read_jsonl(path)]
    for row in rows:
        for annotator in row["annotators"]:
            del annotator["created"]
    return rows


def test_twelve_kills_leave_no_trace_in_weights_or_metrics(tmp_path: Path) -> None:
    quiet, mended = tmp_path / "quiet", tmp_path / "killed"
    for root in (quiet, mended):
        root.mkdir()
        (root / "exact.yaml").write_text(CONFIG, encoding="utf-8")
    log = quiet / "zj.log"
    assert zj("run", quiet / "exact.yaml", "--runs", quiet / "runs", log=log).wait(TIMEOUT) == 0, log.read_text()[
        -3000:
    ]

    seed = random.randrange(10**6)
    plan = _plan(random.Random(seed))
    print(f"seed {seed}")
    for phase, number, seconds in plan:
        told = _killed(mended, phase, number, seconds)
        print(
            f"killed in call {number} of {phase} after {told['seconds']:.3f} s",
            "at its end" if told["finished"] else "",
        )
    log = mended / "zj.log"
    assert zj("run", mended / "exact.yaml", "--runs", mended / "runs", log=log).wait(TIMEOUT) == 0, log.read_text()[
        -3000:
    ]

    ours, theirs = quiet / "runs" / "exact", mended / "runs" / "exact"
    for stage in ("pretrain", "sft", "reward", "ppo"):
        assert _metrics(ours, stage) == _metrics(theirs, stage), stage
        one, other = (load_file(folder / stage / "model" / "model.safetensors") for folder in (ours, theirs))
        assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one), stage
    assert _consultations(ours / "ppo" / "rollouts.jsonl") == _consultations(theirs / "ppo" / "rollouts.jsonl")
    assert _consultations(ours / "evaluate" / "consultations.jsonl") == _consultations(
        theirs / "evaluate" / "consultations.jsonl"
    )
    assert json.loads((ours / "evaluate" / "results.json").read_text()) == json.loads(
        (theirs / "evaluate" / "results.json").read_text()
    )
    assert _rankings(ours / "feedback" / "rankings.jsonl") == _rankings(theirs / "feedback" / "rankings.jsonl")
