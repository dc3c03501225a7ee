"""The run's own process is killed in the middle of a scale-in and of a rebuild of its roles; `zj run` goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.soak import kill, prompts_by_step, small_run, steps_done
from tests.helpers.driver import kill_driver, zj
from zj_ray.config import dump_config
from zj_ray.files import write_atomic
from zj_ray.runs.folder import Run, read_status, wanted_rollouts

STEPS, LIMIT = 40, 400.0

pytestmark = [pytest.mark.slow, pytest.mark.resume, pytest.mark.timeout(4 * LIMIT)]


def _prepared(root: Path) -> Run:
    """A run folder with everything before PPO, and a config that asks for PPO alone."""
    run = small_run(root / "bench", STEPS, engines=2)
    run.config = replace(run.config, stages=("ppo",), ray=replace(run.config.ray, local_cpus=4))
    for path in (run.folder / "config.yaml", root / "bench.yaml"):
        write_atomic(path, dump_config(run.config))
    return run


def _serving(run: Run) -> int:
    return sum(row["state"] == "serving" for row in read_status(run.folder).get("fleet") or [])


def _log(run: Run) -> str:
    return (run.folder / "log.txt").read_text(encoding="utf-8")


def _until(condition: Callable[[], bool], what: str, log: Path) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"waited {LIMIT:.0f} s until {what}:\n{log.read_text()[-3000:]}"
        time.sleep(0.005)


def test_a_driver_killed_in_a_scale_in_and_in_a_rebuild_is_resumed_as_if_nothing_had_happened(tmp_path: Path) -> None:
    quiet, run = _prepared(tmp_path / "quiet"), _prepared(tmp_path / "disturbed")
    log = tmp_path / "quiet" / "zj.log"
    assert zj("run", "bench.yaml", "--runs", ".", log=log).wait(LIMIT) == 0, log.read_text()[-3000:]

    log = tmp_path / "disturbed" / "first.log"
    first = zj("run", "bench.yaml", "--runs", ".", log=log)
    _until(lambda: len(steps_done(run)) >= 3 and _serving(run) == 2, "two engines serve", log)
    said = tmp_path / "disturbed" / "scale.log"
    assert zj("scale", "bench", "--rollouts", "1", "--runs", ".", log=said).wait(60) == 0, said.read_text()
    _until(lambda: "leaves: 1 engines are wanted" in _log(run), "an engine leaves", log)
    kill_driver(first)
    assert read_status(run.folder)["state"] == "running"  # it had no time to say otherwise
    killed_at = len(steps_done(run))

    log = tmp_path / "disturbed" / "second.log"
    second = zj("run", "bench.yaml", "--runs", ".", log=log)
    _until(lambda: len(steps_done(run)) >= killed_at + 3, "the resumed run goes on", log)
    assert _serving(run) == wanted_rollouts(run.folder) == 1  # what was asked for before the kill
    kill("CriticRank")
    _until(lambda: "are built anew" in _log(run), "the roles are built anew", log)
    time.sleep(1.0)
    kill_driver(second)
    assert killed_at + 3 <= len(steps_done(run)) < STEPS

    log = tmp_path / "disturbed" / "third.log"
    third = zj("run", "bench.yaml", "--runs", ".", log=log)
    _until(lambda: read_status(run.folder)["pid"] == third.pid and _serving(run) == 1, "the resumed run serves", log)
    assert zj("scale", "bench", "--rollouts", "2", "--runs", ".", log=said).wait(60) == 0, said.read_text()
    _until(lambda: _serving(run) == 2 or third.poll() is not None, "two engines serve again", log)
    assert third.poll() is None, "the run ended before the second engine served"
    assert third.wait(LIMIT) == 0, log.read_text()[-3000:]

    assert prompts_by_step(run) == prompts_by_step(quiet)  # the same prompts in the same steps, each once
    assert [row["reward"] for row in steps_done(run)] == pytest.approx(
        [row["reward"] for row in steps_done(quiet)], abs=1e-4
    )
    assert {int(row["engines"]) for row in steps_done(run)} == {1, 2}
