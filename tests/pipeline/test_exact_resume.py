"""A run with `model.deterministic` that is killed in any phase of its work ends bit for bit as one that was not."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.helpers.driver import zj, zj_until_killed
from tests.helpers.pipeline import CONFIG, LIMIT, NAME, FinishedRun, assert_same
from zj_ray.runs.metrics import read_metrics

pytestmark = [pytest.mark.resume, pytest.mark.timeout(2 * LIMIT)]

# The phase → the function whose call is fatal, which call of the process that may be, how long it may go on [s].
PLACES = {
    "SFT": ("zj_ray.training.supervised.fit:read_metrics@/sft/", (1, 3), 0.0),  # called while there are new steps
    "sampling answers": ("zj_ray.stages.feedback:answer", (1, 1), 1.5),
    "between stages": ("zj_ray.pipeline:_run_stage", (1, 1), 1e6),
    "reward training": ("zj_ray.training.supervised.fit:read_metrics@/reward/", (1, 3), 0.0),
    "rollout": ("zj_ray.fleet.control.fleet:Fleet.rollout", (1, 2), 0.3),
    "scoring": ("zj_ray.roles.roles:Roles.score", (1, 2), 0.1),
    "update": ("zj_ray.roles.roles:Roles.update", (1, 2), 0.12),
    "weight sync": ("zj_ray.fleet.control.fleet:Fleet.publish", (3, 4), 0.015),  # two before the first step
    "checkpoint copy": ("zj_ray.roles.roles:Roles.save", (1, 2), 0.015),
    "checkpoint write": ("zj_ray.training.checkpoint:CheckpointStore.commit", (1, 2), 0.01),
    "evaluation": ("zj_ray.stages.evaluate:_examine", (1, 2), 0.5),
    "evaluation's scores": ("zj_ray.stages.evaluate:_score", (1, 2), 0.05),
}
BEFORE_PPO, IN_PPO, IN_EVALUATION = list(PLACES)[:4], list(PLACES)[4:10], list(PLACES)[10:]
STAGE = {"SFT": "sft", "sampling answers": "feedback", "between stages": "reward", "reward training": "reward"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "exact.yaml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


def _kill(root: Path, phase: str, call: int, draw: random.Random, *words: str) -> None:
    """Run until the fatal call, which may be the call's end or any moment within `longest` of its beginning."""
    place, _, longest = PLACES[phase]
    fault = (place, call, draw.uniform(0.0, longest))
    command = ("run", root / "exact.yaml", "--runs", root / "runs", *words)
    seen = zj_until_killed(fault, *command, log=root / "killed.log", limit=LIMIT)
    print(f"killed in call {call} of {phase} after {seen['seconds']:.3f} s{' at its end' if seen['finished'] else ''}")


def _go_on(root: Path, *words: str) -> str:
    """Run to the end; what the command said."""
    log = root / "zj.log"
    status = zj("run", root / "exact.yaml", "--runs", root / "runs", *words, log=log).wait(LIMIT)
    assert status == 0, log.read_text()[-3000:]
    return log.read_text(encoding="utf-8")


def _drawn() -> random.Random:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    return random.Random(seed)


def test_three_kills_leave_no_trace_in_weights_or_metrics(finished: FinishedRun, root: Path) -> None:
    """One before PPO, one in PPO when work after the last checkpoint is lost with it, one in the evaluation.

    Of the stages before PPO only the one of the kill is done again; the others are there, as nobody disturbed them.
    """
    draw, run = _drawn(), root / "runs" / NAME
    early, in_ppo, late = draw.choice(BEFORE_PPO), draw.choice(IN_PPO), draw.choice(IN_EVALUATION)
    shutil.copytree(finished.runs, root / "runs", symlinks=True)
    for stage in (STAGE[early], "ppo", "evaluate"):
        shutil.rmtree(run / stage)
    _kill(root, early, draw.randint(*PLACES[early][1]), draw)
    _kill(root, in_ppo, _call_in_the_fourth_step(in_ppo, run), draw)
    kept = [path.name for path in (run / "ppo" / "checkpoints").glob("step-*")]
    assert kept == ["step-000002"] and len(read_metrics(run / "ppo" / "metrics.jsonl")) >= 3  # the witness
    _kill(root, late, draw.randint(*PLACES[late][1]), draw)
    said = _go_on(root)
    for stage in ("pretrain", "sft", "feedback", "reward", "ppo"):
        assert f"{stage}: done already" in said
    assert_same(finished.folder, run)


@pytest.mark.slow
def test_twelve_kills_leave_no_trace_in_weights_or_metrics(finished: FinishedRun, root: Path) -> None:
    """One in every phase, in the pipeline's order. A checkpoint after every step, so that each starts from another."""
    draw, often = _drawn(), ("--set", "ppo.checkpoint_every=1")
    in_ppo, late = draw.sample(IN_PPO, len(IN_PPO)), draw.sample(IN_EVALUATION, len(IN_EVALUATION))
    for phase in (*BEFORE_PPO, *in_ppo, *late):
        _kill(root, phase, draw.randint(*PLACES[phase][1]), draw, *often)
    _go_on(root, *often)
    assert_same(finished.folder, root / "runs" / NAME)


def _call_in_the_fourth_step(phase: str, run: Path) -> int:
    """Which call of this process that will be. By then the third step is recorded, and in no checkpoint."""
    if phase.startswith("checkpoint"):
        return 2  # one after every second step
    if phase == "weight sync":
        sampled = not (run / "feedback" / "manifest.json").exists()  # the feedback stage publishes what it samples with
        return 4 + 2 + sampled  # before the first step the model's own weights, then the policy's
    return 4
