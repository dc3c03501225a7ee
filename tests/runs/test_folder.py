"""The run folder: frozen config, manifests, status, lock."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from zj_ray.config.schema import Config, RayConfig
from zj_ray.errors import CheckpointError, ConfigError, ZjError
from zj_ray.runs.folder import JOB_ID, Run, find_run, read_status
from zj_ray.runs.lock import STALE_AFTER, RunLock

OTHER_HOST = "another-host.invalid"


def test_a_loaded_run_has_the_config_it_was_started_with(tmp_path: Path) -> None:
    config = replace(Config(), name="a", seed=7, ppo=replace(Config().ppo, steps=3))
    Run.open(tmp_path / "a", config)
    assert Run.load(tmp_path / "a").config == config


def test_reopening_with_another_config_names_the_first_differing_key(tmp_path: Path) -> None:
    config = Config()
    Run.open(tmp_path / "a", config)
    changed = replace(config, sft=replace(config.sft, epochs=3.0), ppo=replace(config.ppo, steps=99))
    with pytest.raises(ConfigError, match=r"sft\.epochs is 3\.0, but .* 1\.0 .*--set name=.*--set sft\.epochs=1\.0"):
        Run.open(tmp_path / "a", changed)
    assert Run.load(tmp_path / "a").config == config


def test_a_run_may_go_on_with_other_stages_and_on_another_cluster(tmp_path: Path) -> None:
    Run.open(tmp_path / "a", replace(Config(), stages=("pretrain", "sft")))
    moved = replace(Config(), ray=RayConfig(address="10.0.0.1:6379"))
    reopened = Run.open(tmp_path / "a", moved)
    assert Run.load(tmp_path / "a").config != moved, "only the run's owner writes its config"
    with reopened.running():
        pass
    assert Run.load(tmp_path / "a").config == moved


def test_what_is_allowed_by_name_may_change_and_nothing_else(tmp_path: Path) -> None:
    config = Config()
    Run.open(tmp_path / "a", config)
    changed = replace(config, seed=8, ppo=replace(config.ppo, steps=99, samples=2))
    with pytest.raises(ConfigError, match=r"seed is 8, .*--allow-change seed"):
        Run.open(tmp_path / "a", changed, allowed=["ppo"])  # a section
    with pytest.raises(ConfigError, match=r"ppo\.samples"):
        Run.open(tmp_path / "a", changed, allowed=["seed", "ppo.steps", "ppo.sample"])  # no part of a word
    with Run.open(tmp_path / "a", changed, allowed=["seed", "ppo.steps", "ppo.samples"]).running():
        pass
    assert Run.load(tmp_path / "a").config == changed


def test_a_folder_without_a_run_is_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="zj run"):
        Run.load(tmp_path)


def test_a_stage_has_a_manifest_only_once_it_is_finished(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "a", Config())
    assert run.stage("sft").is_dir() and run.manifest("sft") is None
    run.finish("sft", {"loss": 1.5, "名": "值"})
    assert run.manifest("sft") == {"loss": 1.5, "名": "值"}
    assert [p.name for p in run.stage("sft").iterdir()] == ["manifest.json"], "no temporary file is left"


def test_status_keeps_the_fields_that_are_not_named(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "a", Config())
    run.status(stage="ppo", step=1, total=12)
    run.status(step=2)
    status = read_status(run.folder)
    assert (status["stage"], status["step"], status["total"]) == ("ppo", 2, 12)
    assert abs(status["updated"] - time.time()) < 5


def test_a_run_ends_as_finished_stopped_or_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JOB_ID, "zj-a-1")
    run = Run.open(tmp_path / "a", Config())
    with run.running():
        status = read_status(run.folder)
        assert (status["state"], status["pid"], status["job_id"]) == ("running", os.getpid(), "zj-a-1")
    assert read_status(run.folder)["state"] == "finished"
    with pytest.raises(KeyboardInterrupt), run.running():
        raise KeyboardInterrupt
    assert read_status(run.folder)["state"] == "stopped"
    with pytest.raises(ValueError), run.running():
        raise ValueError("a bad thing")
    assert read_status(run.folder)["error"] == "ValueError: a bad thing"
    assert "a bad thing" in (run.folder / "log.txt").read_text(encoding="utf-8")
    monkeypatch.delenv(JOB_ID)
    with run.running():
        assert read_status(run.folder)["error"] is None and read_status(run.folder)["job_id"] is None


def test_what_is_logged_while_running_is_in_log_txt(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "a", Config())
    with run.running():
        logging.getLogger("zj_ray.stages").info("第 3 步")
    logging.getLogger("zj_ray.stages").info("afterwards")
    text = (run.folder / "log.txt").read_text(encoding="utf-8")
    assert "第 3 步" in text and "afterwards" not in text


def test_a_second_process_is_refused_and_told_who_works_on_the_run(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "a", Config())
    with (
        run.running(),
        pytest.raises(ZjError, match=f"process {os.getpid()} on {socket.gethostname()} is working"),
        run.running(),
    ):
        pass
    assert not (run.folder / "run.lock").exists()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    code = "import os, sys, pathlib; from zj_ray.runs.lock import RunLock; "
    code += "RunLock(pathlib.Path(sys.argv[1])).__enter__(); os._exit(9)"
    command = [sys.executable, "-c", code, str(tmp_path / "run.lock")]
    subprocess.run(command, timeout=60, cwd=Path(__file__).parents[2], check=False)
    assert (tmp_path / "run.lock").exists()
    with RunLock(tmp_path / "run.lock"):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("age", "taken"), [(STALE_AFTER - 30, False), (STALE_AFTER + 30, True)])
def test_another_hosts_lock_is_taken_over_only_without_a_sign_of_life(tmp_path: Path, age: float, taken: bool) -> None:
    lock = tmp_path / "run.lock"
    lock.write_text(json.dumps({"pid": 1, "host": OTHER_HOST, "born": 0.0}))
    os.utime(lock, (time.time() - age, time.time() - age))
    if taken:
        with RunLock(lock):
            pass
    else:
        with pytest.raises(ZjError, match=OTHER_HOST), RunLock(lock):
            pass


def test_a_reused_pid_does_not_keep_a_lock_alive(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    lock.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "born": 1.0}))
    with RunLock(lock):
        pass


def test_find_run_takes_a_name_or_a_path_and_names_the_nearest(tmp_path: Path) -> None:
    Run.open(tmp_path / "runs" / "demo", Config())
    assert find_run("demo", tmp_path / "runs") == tmp_path / "runs" / "demo"
    assert find_run(str(tmp_path / "runs" / "demo"), tmp_path) == tmp_path / "runs" / "demo"
    with pytest.raises(ZjError, match="did you mean demo"):
        find_run("dmeo", tmp_path / "runs")
    with pytest.raises(ZjError, match="zj run CONFIG"):
        find_run("demo", tmp_path / "empty")
