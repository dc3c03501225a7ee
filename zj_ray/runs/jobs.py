"""Runs as Ray jobs, and how far any run is: submit, status, logs, stop.

A submitted run carries this package and its resolved config with it (working_dir), so the cluster runs the version that
submitted it. run.json remembers the job, and `status`, `logs` and `stop` follow it from there; a run without a job
is a process of this machine, known by its lock. What a reader must not get wrong: a process is signalled only if the
lock's owner was born when that process was; a pid alone may have been given to somebody else.
"""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil
from rich.console import RenderableType

from zj_ray.cluster.connect import package_root, passed_on
from zj_ray.config import dump_config
from zj_ray.config.schema import Config
from zj_ray.errors import ConfigError, WaitTimeout, ZjError
from zj_ray.files import write_json
from zj_ray.progress import console
from zj_ray.runs.folder import JOB_ADDRESS, JOB_ID, Run, find_run, load_settings, read_status, want_rollouts
from zj_ray.runs.lock import is_alive
from zj_ray.runs.status import JOB_STATES, overview, render

if TYPE_CHECKING:
    from zj_ray.runs.job_server import JobServer

STOP_SECONDS = 120.0  # longest wait for a run to end once it was told to
POLL_SECONDS = 0.5
PIPELINE = ("-m", "zj_ray", "run")
# Ray kills a stopped job that is still there then; its default of 3 s is too short to close DeepSpeed and vLLM.
JOB_STOP_SECONDS = "60"


def submit(config_path: str | Path, *, address: str, overrides: Sequence[str] = (), runs: Path) -> str:
    """Start a run as a Ray job and return the job's id.

    address: of the cluster's dashboard (http://head:8265). Raises ConfigError for paths that the cluster could not
    find, ZjError when the cluster can't be reached or refuses the job.
    """
    config = load_settings(config_path, overrides)
    server = _job_server(address)
    here = _is_here(address)
    config = _with_absolute_paths(config, Path(config_path), here)
    folder = _run_folder(runs, config.name, here)
    if (owner := _owner(folder)) is not None:
        what = f"process {owner['pid']} on {owner['host']} is working on this run"
        raise ZjError(what, where=str(folder), remedy="end it with: zj stop RUN")
    job_id = f"zj-{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    python = sys.executable if here else "python"
    entrypoint = shlex.join([python, *PIPELINE, "config.yaml", "--runs", str(folder.parent)])
    variables = _job_environment(job_id, address)
    with tempfile.TemporaryDirectory(prefix="zj-submit-") as parcel:
        _pack(Path(parcel), config)
        # Remembered before it is submitted: the job writes run.json too.
        _remember(folder, name=config.name, state="submitted", job_id=job_id, ray_address=address, error=None)
        try:
            server.submit(job_id, entrypoint, working_dir=parcel, variables=variables, metadata={"run": config.name})
        except ZjError as error:
            _remember(folder, state="failed", error=str(error), job_id=None)
            raise
    return job_id


def status(run: str, *, runs: Path) -> RenderableType:
    """How far a run is: its state, its stages, its rollout engines."""
    folder = find_run(run, runs)
    record = read_status(folder)
    return render(folder, record, job=_job_status(record), alive=_owner(folder) is not None)


def listing(*, runs: Path) -> RenderableType:
    """Every run below `runs`: its state, stage, step, age and size. Raises ZjError where there is none."""
    folders = sorted({path.parent for name in ("run.json", "config.yaml") for path in runs.glob(f"*/{name}")})
    if not folders:
        remedy = "start one with: zj run CONFIG, or name their folder with --runs"
        raise ZjError("there are no runs", where=str(runs), remedy=remedy)
    return overview([(folder, read_status(folder), _owner(folder) is not None) for folder in folders])


def logs(run: str, *, runs: Path, follow: bool = False) -> None:
    """Print a run's log: the job's output if it is one, else log.txt; with `follow` until the run ends."""
    folder = find_run(run, runs)
    record = read_status(folder)
    if record.get("job_id"):
        server = _job_server(record["ray_address"])
        if follow:
            server.follow(record["job_id"], _print)
        else:
            _print(server.output(record["job_id"]))
        return
    path = folder / "log.txt"
    if not path.exists():
        raise ZjError("this run has written no log", where=str(path), remedy="start it with: zj run CONFIG")
    with path.open(encoding="utf-8") as file:
        while True:
            running = _owner(folder) is not None  # asked before reading: what is written until it ends is still read
            _print(file.read())
            if not follow or not running:
                return
            time.sleep(POLL_SECONDS)


def stop(run: str, *, runs: Path) -> str:
    """End a run and wait until it has ended; returns what was done. Raises WaitTimeout if it does not end."""
    folder = find_run(run, runs)
    record = read_status(folder)
    ended = _stop_job(record["job_id"], record["ray_address"]) if record.get("job_id") else _stop_process(folder)
    if ended is None:
        return f"nothing to stop: the run is {record.get('state', 'not started')}"
    if read_status(folder).get("state") in ("running", "submitted"):  # it was ended before it could say so
        _remember(folder, state="stopped")
    return f"{ended}; what it finished is kept, and zj run goes on from there"


def scale(run: str, rollouts: int | None, *, runs: Path) -> str:
    """Ask for so many rollout engines while the run goes on; returns what was done.

    rollouts: None for as many as the config says. Raises ConfigError for a number outside fleet.min and fleet.max.
    """
    work = Run.load(find_run(run, runs))
    want_rollouts(work, rollouts)
    wish = "as many rollout engines as its config says" if rollouts is None else f"{rollouts} rollout engines"
    going_on = _owner(work.folder) is not None
    when = f"; follow it with: zj status {run}" if going_on else ", from when it goes on"
    return f"{work.config.name} is to have {wish}{when}"


def _stop_job(job_id: str, address: str) -> str | None:
    server = _job_server(address)
    if server.state(job_id) in JOB_STATES:
        return None
    server.stop(job_id, seconds=STOP_SECONDS)
    return f"stopped job {job_id}"


def _stop_process(folder: Path) -> str | None:
    owner = _owner(folder)
    if owner is None:
        return None
    if owner["host"] != socket.gethostname():
        what, remedy = f"the run is a process of {owner['host']}", f"run zj stop {folder.name} there"
        raise ZjError(what, where=str(folder), remedy=remedy)
    process = psutil.Process(owner["pid"])
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_SECONDS)
    except psutil.TimeoutExpired as error:
        what = f"process {owner['pid']} did not end within {STOP_SECONDS:g} s"
        remedy = f"it may be in the middle of a long step: wait, or end it with: kill -9 {owner['pid']}"
        raise WaitTimeout(what, where=str(folder), remedy=remedy) from error
    return f"stopped process {owner['pid']}"


def _owner(folder: Path) -> dict[str, Any] | None:
    """The live process that works on the run, if any."""
    lock = folder / "run.lock"
    try:
        owner, age = json.loads(lock.read_text(encoding="utf-8")), time.time() - lock.stat().st_mtime
    except FileNotFoundError:
        return None
    return owner if is_alive(owner, age) else None


def _job_status(record: dict[str, Any]) -> str | None:
    """Ray's word on the run's job, or why there is none; None if the run is no job."""
    if not record.get("job_id"):
        return None
    try:
        return _job_server(record["ray_address"]).state(record["job_id"])
    except ZjError as error:
        return f"unknown: {error.what}"


def _job_server(address: str) -> JobServer:
    from zj_ray.runs.job_server import JobServer  # imports Ray, which a run without a job does not need

    return JobServer(address)


# --- what travels ----------------------------------------------------------------------------------------------------


def _pack(parcel: Path, config: Config) -> None:
    """Put into the folder `parcel` what a job's working directory holds: this package and the config."""
    package = package_root() / "zj_ray"
    shutil.copytree(package, parcel / "zj_ray", ignore=shutil.ignore_patterns("__pycache__"))
    (parcel / "config.yaml").write_text(dump_config(config), encoding="utf-8")


def _job_environment(job_id: str, address: str) -> dict[str, str]:
    job = {JOB_ID: job_id, JOB_ADDRESS: address}
    return passed_on() | job | {"PYTHONUNBUFFERED": "1", "RAY_JOB_STOP_WAIT_TIME_S": JOB_STOP_SECONDS}


def _is_here(address: str) -> bool:
    """Whether the dashboard is a process of this machine: a forwarded port (kubectl port-forward) only looks local."""
    port = f"--port={urlsplit(address).port or 80}"
    commands = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    dashboards = (words for words in commands if any(word.endswith("dashboard/dashboard.py") for word in words))
    return any(port in words for words in dashboards) and _is_local_host(urlsplit(address).hostname or "")


def _is_local_host(host: str) -> bool:
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except socket.gaierror:
        return False
    return bool(addresses & {a.address for each in psutil.net_if_addrs().values() for a in each})


def _with_absolute_paths(config: Config, config_path: Path, here: bool) -> Config:
    """The config with the folders that it names made findable from the job's own working directory."""
    root, base = config.data.root, config.model.base
    if root is not None and not Path(root).is_absolute():
        config = replace(config, data=replace(config.data, root=_absolute(root, "data.root", config_path, here)))
    if base is not None and not Path(base).is_absolute() and Path(base).is_dir():  # else it is a hub id
        config = replace(config, model=replace(config.model, base=_absolute(base, "model.base", config_path, here)))
    return config


def _absolute(path: str, key: str, config_path: Path, here: bool) -> str:
    if not here:
        what = f"{key} {path!r} is relative, and the cluster is another machine"
        remedy = "give the absolute path on a file system that every node of the cluster sees"
        raise ConfigError(what, where=str(config_path), remedy=remedy)
    return str(Path(path).resolve())


def _run_folder(runs: Path, name: str, here: bool) -> Path:
    if not here and not runs.is_absolute():
        what = f"the folder of the runs, {str(runs)!r}, is relative, and the cluster is another machine"
        remedy = "give --runs (or ZJ_RUNS) as an absolute path on a file system that every node of the cluster sees"
        raise ConfigError(what, where="--runs", remedy=remedy)
    folder = runs.resolve() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what, remedy = f"can't make the run's folder: {error}", "mount the shared file system here too"
        raise ConfigError(what, where=str(folder), remedy=remedy) from error
    return folder


def _remember(folder: Path, **fields: Any) -> None:
    merged = {**read_status(folder), **fields, "updated": time.time()}
    write_json(folder / "run.json", merged)


def _print(text: str) -> None:
    if text:
        console.print(text, end="", markup=False, soft_wrap=True)
