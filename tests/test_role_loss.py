"""A rank of a role dies in the middle of PPO: the roles are built anew inside the run, and it ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import LlamaConfig

from bench.subject import config, room, settle, speaker
from zj_ray.errors import RoleLost
from zj_ray.metrics import read_metrics
from zj_ray.raycluster import connect
from zj_ray.run import Run
from zj_ray.stages.ppo import ppo
from zj_ray.stages.workshop import Workshop

pytestmark = pytest.mark.chaos

SHAPE = LlamaConfig(vocab_size=600, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=1)
STEPS = 4


def _run(folder: Path, **ppo: Any) -> Run:
    settings = config(SHAPE, 1, 1, max_length=384, ranks=2, consultations=8, turn_tokens=12, max_turns=3, steps=STEPS, **ppo)
    run, tokenizer = room(folder, replace(settings, fleet=replace(settings.fleet, kv_cache_mb=64), ppo=replace(settings.ppo, checkpoint_every=1)))
    settle(run, speaker(SHAPE, tokenizer, stop=0.1), tokenizer)
    return run


def _learn(run: Run) -> None:
    shop = Workshop(run)
    try:
        ppo(shop)
    finally:
        shop.release_fleet()


def _kill(kind: str) -> int:
    """SIGKILL for one rank of a role; returns its pid."""
    victim = max(p.pid for p in psutil.Process().children(recursive=True) if any(kind in word for word in p.cmdline()[:1]))
    os.kill(victim, signal.SIGKILL)
    return victim


def _steps(run: Run) -> list[dict[str, Any]]:
    path = run.folder / "ppo" / "metrics.jsonl"
    return read_metrics(path) if path.exists() else []


def _asked(run: Run) -> list[tuple[int, str]]:
    rows = [json.loads(line) for line in (run.folder / "ppo" / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(row["step"], row["prompt_id"]) for row in rows]


def test_lost_ranks_are_replaced_from_the_last_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    quiet, disturbed = _run(tmp_path / "quiet"), _run(tmp_path / "disturbed")
    killed: list[int] = []

    def kill_some() -> None:
        deadline = time.monotonic() + 400
        for kind, step in (("PolicyRank", 1), ("RewardRank", 2)):
            while len(_steps(disturbed)) < step or not (disturbed.folder / "ppo" / "checkpoints" / f"step-{step:06d}").exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            killed.append(_kill(kind))

    with connect(quiet.config.ray, log_folder=tmp_path):
        _learn(quiet)
        murderer = threading.Thread(target=kill_some, daemon=True)
        murderer.start()
        started = time.monotonic()
        with caplog.at_level("WARNING"):
            _learn(disturbed)
        seconds = time.monotonic() - started
        murderer.join(timeout=10)
    assert len(killed) == 2 and not any(map(psutil.pid_exists, killed))  # the witness that the faults took place
    losses = [record.getMessage() for record in caplog.records if "are built anew" in record.getMessage()]
    assert len(losses) == 2 and "role" in losses[0], losses
    assert _asked(disturbed) == _asked(quiet)  # the same prompts in the same steps, each once
    rewards = [[row["reward"] for row in _steps(run)] for run in (quiet, disturbed)]
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-4)
    print(f"two ranks killed in {STEPS} steps: {seconds:.0f} s; rewards {rewards[1]}")


def test_a_role_that_keeps_dying_ends_the_run_with_its_name(tmp_path: Path) -> None:
    run = _run(tmp_path, role_restarts=0)

    def kill_soon() -> None:
        while not _steps(run):
            time.sleep(0.02)
        _kill("CriticRank")

    with connect(run.config.ray, log_folder=tmp_path):
        threading.Thread(target=kill_soon, daemon=True).start()
        with pytest.raises(RoleLost, match="role critic: a rank died"):
            _learn(run)
