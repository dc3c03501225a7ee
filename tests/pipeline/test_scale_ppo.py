"""`zj scale` while PPO goes on, consultations running ahead of the updates: 2 → 4 → 1 engines."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.soak import LONGEST_STEP, learn, prompts_by_step, small_run, steps_done
from tests.helpers.forked import forked_workers
from zj_ray.cli.main import app
from zj_ray.cluster.connect import connect
from zj_ray.runs.folder import Run, read_status

pytestmark = pytest.mark.slow

STEPS = 240


def _serving(run: Run) -> int:
    return sum(row["state"] == "serving" for row in read_status(run.folder).get("fleet") or [])


def test_a_run_is_scaled_by_command_in_mid_run(tmp_path: Path) -> None:
    run = small_run(tmp_path / "r", STEPS, engines=2, max_staleness=1)
    room = replace(run.config.ray, local_cpus=4)  # logical ones, for four engines and six ranks
    run.config = replace(run.config, ray=room, ppo=replace(run.config.ppo, checkpoint_every=STEPS))
    reached: list[tuple[int, int]] = []  # (engines, steps done by then)
    shown = ""

    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LONGEST_STEP
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def scale() -> None:
        nonlocal shown
        for engines in (2, 4, 1):
            said = CliRunner().invoke(app, ["scale", "r", "--runs", str(tmp_path), "--rollouts", str(engines)])
            assert said.exit_code == 0, said.output
            until(lambda engines=engines: _serving(run) == engines)
            reached.append((engines, len(steps_done(run))))
            until(lambda: len(steps_done(run)) >= reached[-1][1] + 5)  # so many hold their consultations
            shown = shown or CliRunner().invoke(app, ["status", "r", "--runs", str(tmp_path)]).output

    with forked_workers(), connect(run.config.ray, log_folder=tmp_path):
        thread = threading.Thread(target=scale, daemon=True)
        thread.start()
        learn(run)
        thread.join(timeout=10)
    rows = steps_done(run)
    print("engines and steps done by then:", reached, "engines at each step:", [int(row["engines"]) for row in rows])
    assert [engines for engines, _ in reached] == [2, 4, 1] and reached[-1][1] < STEPS  # all of it happened in mid-run
    assert len(rows) == STEPS and all(row["lost"] == 0 for row in rows)
    assert len(prompts_by_step(run)) == STEPS * run.config.ppo.consultations  # no consultation is missing
    assert max(row["staleness"] for row in rows) <= 1  # the stage itself refuses an older turn
    assert {2, 4, 1} <= {int(row["engines"]) for row in rows}
    versions = [
        {turn["weight_version"] for turn in json.loads(line)["turns"]}
        for line in (run.folder / "ppo" / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert all(max(v) - min(v) <= 1 for v in versions)
    assert "engine-0" in shown and "serving" in shown and "restarts" in shown, shown
