"""Runs as Ray jobs and as processes: submit, status, logs, stop, on a cluster of the test's own with a token."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.helpers.rayhead import end, free_port, wait_for_port, wait_until
from zj_ray.config import dump_config, load_config
from zj_ray.config.schema import Config
from zj_ray.errors import ConfigError, ZjError
from zj_ray.runs import job_server, jobs
from zj_ray.runs.folder import Run, read_status
from zj_ray.runs.job_server import JobServer
from zj_ray.runs.status import age, render, state

ROOT = Path(__file__).parents[2]
RAY_VARIABLES = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

# What a job of the tests does instead of the pipeline: the same opening, then it waits to be stopped.
WORKS = """
import sys, time
from pathlib import Path
from zj_ray.config.load import load_config
from zj_ray.cluster.connect import connect
from zj_ray.runs.folder import Run
config = load_config(sys.argv[1])
run = Run.open(Path(sys.argv[3]) / config.name, config)
with run.running():
    with connect(config.ray, log_folder=run.folder) as cluster:
        import ray, zj_ray
        where = ray.get(ray.remote(lambda: __import__("zj_ray").__file__).remote(), timeout=120)
        run.status(stage="sft", step=3, total=9)
        print("joined", not cluster.started_here, "as", config.name, "seed", config.seed, "package", where, flush=True)
        time.sleep(300)
"""
FAILS = "import sys; print('no luck'); sys.exit(3)"
CONNECTS = """
import sys
from pathlib import Path
from zj_ray.cluster.connect import connect
from zj_ray.config.schema import RayConfig
"""
JOINS = f"""{CONNECTS}
with connect(RayConfig(address=sys.argv[1]), log_folder=Path(sys.argv[2])) as c:
    print("joined", c.cpus, c.started_here)
"""
STARTS_ITS_OWN = f"""{CONNECTS}
from ray._private.services import get_ray_address_from_environment
print("found", get_ray_address_from_environment(None, None))
with connect(RayConfig(local_cpus=1), log_folder=Path(sys.argv[1])) as c:
    print("on", c.address, c.started_here)
"""


def _without_ray() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in RAY_VARIABLES}


def _text(renderable: object) -> str:
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(renderable)
    return console.export_text()


# --- without a cluster -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "job", "alive", "true"),
    [
        ("running", None, True, "running"),
        ("running", None, False, "died"),
        ("running", "RUNNING", False, "running"),
        ("running", "FAILED", False, "failed"),
        ("submitted", "PENDING", False, "submitted"),
        ("running", "unknown: no Ray job server answers", False, "running"),
        ("finished", None, False, "finished"),
    ],
)
def test_a_run_that_ended_without_a_word_is_not_called_running(
    recorded: str, job: str | None, alive: bool, true: str
) -> None:
    assert state({"state": recorded}, job=job, alive=alive) == true


def test_status_shows_stage_step_age_times_and_engines(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "a", replace(Config(), stages=("sft", "ppo")))
    run.finish("sft", {"seconds": 61.7})
    engine = {"engine": "e0", "state": "SERVING", "last_error": "[x]"}
    record = run.status(state="running", stage="ppo", step=3, total=12, pid=1, host="h", fleet=[engine])
    text = _text(render(run.folder, record, job=None, alive=True, now=record["updated"] + 7))
    for expected in ("ppo, step 3 of 12", "7 s ago", "62", "e0", "SERVING", "[x]", "finished", "current"):
        assert expected in text
    assert "pretrain" not in text, "only the run's own stages are listed"


def test_ages_are_given_in_the_unit_that_fits() -> None:
    assert [age(5), age(300), age(7300)] == ["5 s", "5 min", "2.0 h"]


def test_submitting_where_nobody_listens_names_the_address(tmp_path: Path) -> None:
    config = _config(tmp_path, "a")
    with pytest.raises(ZjError, match="no Ray job server answers"):
        jobs.submit(config, address=f"http://127.0.0.1:{free_port()}", runs=tmp_path)
    with pytest.raises(ConfigError, match="no URL of a dashboard"):
        jobs.submit(config, address="127.0.0.1:8265", runs=tmp_path)


@pytest.mark.parametrize("started", [True, False])
def test_a_cluster_that_has_just_started_gets_time_for_its_agent(
    started: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs_sent = []

    class Client:
        def submit_job(self, **job: object) -> None:
            jobs_sent.append(job)
            if not started or len(jobs_sent) < 3:
                raise RuntimeError("Request failed with status code 500: No available agent to submit job, please …")

    server = JobServer.__new__(JobServer)
    server.address, server._client = "http://head:8265", Client()  # type: ignore[assignment]
    monkeypatch.setattr(job_server, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(job_server, "AGENT_SECONDS", 60.0 if started else 0.05)
    if started:
        server.submit("job", "true", working_dir=".", variables={}, metadata={})
        assert len(jobs_sent) == 3
    else:
        with pytest.raises(ZjError, match="refuses the job") as caught:
            server.submit("job", "true", working_dir=".", variables={}, metadata={})
        assert "--dashboard-agent-listen-port" in caught.value.remedy and len(jobs_sent) > 1


def test_a_remote_cluster_gets_no_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = replace(Config(), data=replace(Config().data, source="files", root="clinic"))
    with pytest.raises(ConfigError, match=r"data\.root 'clinic' is relative"):
        jobs._with_absolute_paths(config, Path("a.yaml"), here=False)
    assert jobs._with_absolute_paths(config, Path("a.yaml"), here=True).data.root == str(tmp_path / "clinic")
    with pytest.raises(ConfigError, match="--runs"):
        jobs._run_folder(Path("runs"), "a", here=False)


def test_a_local_run_is_interrupted_even_when_its_shell_told_it_to_ignore_that(tmp_path: Path) -> None:
    config = _config(tmp_path, "a")
    code = WORKS.replace("with connect(config.ray, log_folder=run.folder) as cluster:", "if True:")
    code = code[: code.index("        import ray")] + "        print('up', flush=True); time.sleep(300)\n"
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", ignore + code, config, "--runs", tmp_path], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        assert "running" in _text(jobs.status("a", runs=tmp_path))
        with pytest.raises(ZjError, match=f"process {process.pid} "), Run.load(tmp_path / "a").running():
            pass
        assert f"stopped process {process.pid}" in jobs.stop("a", runs=tmp_path)
    finally:
        process.kill()
    assert read_status(tmp_path / "a")["state"] == "stopped"
    assert jobs.stop("a", runs=tmp_path) == "nothing to stop: the run is stopped"


def test_a_run_killed_without_a_word_is_shown_as_died_and_nothing_is_signalled(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "a", Config())
    run.status(state="running", pid=os.getpid(), host=socket.gethostname())
    (run.folder / "run.lock").write_text(f'{{"pid": {os.getpid()}, "host": "{socket.gethostname()}", "born": 1.0}}')
    assert "died" in _text(jobs.status("a", runs=tmp_path))
    assert "nothing to stop" in jobs.stop("a", runs=tmp_path)


def test_logs_of_a_local_run_are_its_log_txt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run.open(tmp_path / "a", Config())
    with pytest.raises(ZjError, match="no log"):
        jobs.logs("a", runs=tmp_path)
    (run.folder / "log.txt").write_text("一行 [1/3]\n", encoding="utf-8")
    jobs.logs("a", runs=tmp_path, follow=True)
    assert capsys.readouterr().out == "一行 [1/3]\n"


# --- on a cluster ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnCluster:
    dashboard: str
    gcs: str
    token: str


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnCluster]:
    """A Ray of the test's own, with a token; ended by the ids of its own processes."""
    folder = Path("/tmp") / f"zjt{os.getpid()}"  # short: the path of a socket may have 107 characters
    folder.mkdir()
    home = tmp_path_factory.mktemp("home")
    gcs, dashboard, client, agent = (free_port() for _ in range(4))
    token = "0123456789abcdef" * 4
    environment = _without_ray() | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    arguments = "start --head --block --disable-usage-stats --num-cpus 2 --object-store-memory 80000000"
    arguments += f" --port {gcs} --dashboard-host 127.0.0.1 --dashboard-port {dashboard} --temp-dir {folder}"
    arguments += f" --ray-client-server-port {client} --dashboard-agent-listen-port {agent}"
    ray = Path(sys.executable).parent / "ray"
    with (home / "ray.log").open("w") as output:
        process = subprocess.Popen(
            [ray, *arguments.split()], env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_for_port(dashboard, process, home / "ray.log")
        yield OwnCluster(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", token)
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def with_token(cluster: OwnCluster, monkeypatch: pytest.MonkeyPatch) -> OwnCluster:
    for name in RAY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", cluster.token)
    return cluster


def test_a_job_is_submitted_followed_and_stopped(
    with_token: OwnCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PIPELINE", ("-c", WORKS))
    config = _config(tmp_path, "far")
    runs = tmp_path / "runs"
    job = jobs.submit(config, address=with_token.dashboard, overrides=["seed=5"], runs=runs)
    assert read_status(runs / "far")["job_id"] == job
    wait_until(lambda: read_status(runs / "far").get("stage") == "sft", 180, lambda: jobs.logs("far", runs=runs))
    shown = _text(jobs.status("far", runs=runs))
    assert re.search(r"state\s+running", shown) and "sft, step 3 of 9" in shown
    assert f"{job} at {with_token.dashboard}: RUNNING" in shown
    jobs.logs("far", runs=runs)
    output = capsys.readouterr().out
    assert "joined True as far seed 5" in output
    package = output.split("seed 5 package")[1]
    assert "working_dir" in package, "the workers import the package that travelled with the job"
    with pytest.raises(ZjError, match="is working on this run"):
        jobs.submit(config, address=with_token.dashboard, runs=runs)
    assert f"stopped job {job}" in jobs.stop("far", runs=runs)
    assert read_status(runs / "far")["state"] == "stopped"
    assert "STOPPED" in _text(jobs.status("far", runs=runs))
    assert "nothing to stop" in jobs.stop("far", runs=runs)
    assert load_config(runs / "far" / "config.yaml").seed == 5


def test_a_job_that_fails_is_shown_as_failed_with_its_last_words(
    with_token: OwnCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PIPELINE", ("-c", FAILS))
    jobs.submit(_config(tmp_path, "bad"), address=with_token.dashboard, runs=tmp_path)
    jobs.logs("bad", runs=tmp_path, follow=True)
    assert "no luck" in capsys.readouterr().out
    wait_until(lambda: "failed" in _text(jobs.status("bad", runs=tmp_path)), 60, lambda: None)


@pytest.mark.parametrize("token", [None, "f" * 64])
def test_a_missing_or_wrong_token_is_said_to_be_the_fault(
    cluster: OwnCluster, token: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in RAY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if token:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    with pytest.raises(ZjError, match="Authentication .* RAY_AUTH_TOKEN"):
        jobs.submit(_config(tmp_path, "a"), address=cluster.dashboard, runs=tmp_path)


@pytest.mark.parametrize("right", [True, False])
def test_a_running_cluster_is_joined_with_the_right_token_only(
    cluster: OwnCluster, right: bool, tmp_path: Path
) -> None:
    environment = _without_ray() | {"RAY_AUTH_TOKEN": cluster.token if right else "f" * 64}
    result = subprocess.run(
        [sys.executable, "-c", JOINS, cluster.gcs, tmp_path],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if right:
        assert result.stdout.strip() == "joined 2.0 False", result.stderr
    else:
        assert "does not accept us as a Ray client" in result.stderr and "RAY_AUTH_TOKEN" in result.stderr


def test_a_cluster_that_happens_to_run_on_this_machine_is_not_joined_unasked(cluster: OwnCluster) -> None:
    """`ray start` leaves its address in a file, and a plain `ray.init()` goes there."""
    folder = Path("/tmp") / f"zju{os.getpid()}"
    (folder / "ray").mkdir(parents=True)
    (folder / "ray" / "ray_current_cluster").write_text(cluster.gcs)
    environment = _without_ray() | {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": str(folder)}
    command = [sys.executable, "-c", STARTS_ITS_OWN, str(folder)]
    try:
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240, check=True
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert f"found {cluster.gcs}\n" in done.stdout  # the witness: this is where Ray would have gone
    own, started_here = re.findall(r"on (\S+) (\w+)", done.stdout)[0]
    assert own != cluster.gcs and started_here == "True"


def _config(folder: Path, name: str) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(dump_config(replace(Config(), name=name)), encoding="utf-8")
    return str(path)
