"""Join a Ray cluster, or start a Ray on this machine and end it again.

Order of the addresses: the config's, `RAY_ADDRESS` (which Ray sets inside a job), none: a Ray of our own. What a reader
must not get wrong: only a Ray that we started is shut down; leaving a cluster that we joined leaves it running.

Token authentication: a Ray started with a token refuses every client without it, by keeping it waiting. The token is
read where Ray reads it: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token. RAY_AUTH_MODE=disabled opts
out. Address and token are read here and nowhere else, so that `zj doctor` judges what a run would do.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zj_ray.config.schema import RayConfig
from zj_ray.errors import ConfigError, WaitTimeout, ZjError

NAMESPACE = "zj"
CONNECT_SECONDS = 10.0  # for the TCP connection that is tried first: Ray itself keeps trying for 200 s and then exits
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray in the environment of a submitted job's driver
PASSED_ON = ("HF_HUB_OFFLINE", "HF_HOME", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "VLLM_LOGGING_LEVEL")
TOKEN_REMEDY = (
    "put the cluster's token into RAY_AUTH_TOKEN or ~/.ray/auth_token, and check RAY_AUTH_MODE (token or disabled)"
)
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # actors without GPUs keep their environment, and warn of nothing
    "RAY_raylet_start_wait_time_s": "180",  # a loaded machine needs more than the 30 s that Ray allows itself
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cluster:
    """The Ray that this process is attached to."""

    address: str  # host:port of its GCS
    started_here: bool
    start_seconds: float
    nodes: int
    cpus: float
    gpus: float


@contextlib.contextmanager
def connect(config: RayConfig, *, log_folder: Path) -> Iterator[Cluster]:
    """Attach this process to Ray for the length of the block.

    log_folder: gets a link `ray-logs` to the logs of a Ray that we start ourselves.
    Raises ConfigError for an address of the wrong kind, WaitTimeout where nothing listens, ZjError where Ray refuses
    us.
    """
    import ray

    if ray.is_initialized():  # a caller above us, or a test, owns the connection
        yield _describe(started_here=False, seconds=0.0)
        return
    address = cluster_address(config)
    os.environ.update({key: os.environ.get(key, value) for key, value in QUIET.items()})
    began = time.monotonic()
    if address:
        _join(address)
    else:
        _start(config, log_folder)
    try:
        cluster = _describe(started_here=not address, seconds=time.monotonic() - began)
        how = "joined" if address else "started"
        size = f"{cluster.nodes} nodes, {cluster.cpus:g} CPUs, {cluster.gpus:g} GPUs"
        log.info("%s Ray at %s in %.1f s: %s", how, cluster.address, cluster.start_seconds, size)
        yield cluster
    finally:
        ray.shutdown()


def worker_environment() -> dict[str, str]:
    """Environment variables that workers need to find this package (also a source checkout) and the models."""
    variables = passed_on()
    root = str(package_root())
    if "site-packages" not in root:
        variables["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return variables


def passed_on() -> dict[str, str]:
    """The variables of this process that all others of a run get, too: where models are, and how quiet to be."""
    return {key: os.environ[key] for key in PASSED_ON if key in os.environ}


def package_root() -> Path:
    """The folder that holds the package `zj_ray`."""
    return Path(__file__).resolve().parents[2]


def cluster_address(config: RayConfig) -> str | None:
    """The cluster that a run joins: host:port of its GCS, or "auto"; None where the run starts a Ray of its own."""
    return config.address or os.environ.get("RAY_ADDRESS") or None


def reach(address: str) -> None:
    """Fail within seconds where nothing listens: Ray itself would try for minutes. "auto" is left to Ray.

    Raises ConfigError for an address that is not of the form host:port, WaitTimeout where nothing listens.
    """
    if address == "auto":
        return
    if "://" in address:
        remedy = "give host:port of the GCS (6379 by default), or start the run with: zj submit CONFIG --address URL"
        raise ConfigError(f"{address!r} is no address of a Ray cluster to join", where="ray.address", remedy=remedy)
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        remedy = "for example 10.0.0.5:6379"
        raise ConfigError(f"{address!r} is not of the form host:port", where="ray.address", remedy=remedy)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        remedy = (
            f"start Ray there (ray start --head), open port {port} in the firewall, mend ray.address or RAY_ADDRESS, "
            "or unset both to use a Ray of our own"
        )
        raise WaitTimeout(f"no Ray answers at {address} ({error})", where="ray.address", remedy=remedy) from error


def auth_disabled() -> bool:
    """Whether RAY_AUTH_MODE turns token authentication off, in capitals or not, as Ray reads it."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled"


def auth_token() -> str | None:
    """The token that Ray would use, or None if there is none or authentication is disabled.

    Raises ZjError for a token file that can't be read.
    """
    if auth_disabled():
        return None
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"].strip()
    path = token_file()
    if not path.exists() and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        remedy = "set RAY_AUTH_TOKEN or mend RAY_AUTH_TOKEN_PATH"
        raise ZjError(f"Ray's token can't be read: {error}", where=str(path), remedy=remedy) from error


def token_file() -> Path:
    """The file that holds the token where RAY_AUTH_TOKEN does not; it need not exist."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def _start(config: RayConfig, log_folder: Path) -> None:
    import ray

    # One process less in every stage: nobody preempts a laptop.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    started: Any = ray.init(
        address="local",  # without it Ray joins whatever `ray start` left on this machine
        num_cpus=config.local_cpus or os.cpu_count(),
        object_store_memory=config.object_store_mb << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        namespace=NAMESPACE,
        runtime_env={"env_vars": worker_environment()},
    )
    link = log_folder / "ray-logs"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(started.address_info["session_dir"]) / "logs")


def _join(address: str) -> None:
    """Attach to a running cluster. Inside a Ray job the runtime environment is the job's: Ray refuses a second one."""
    import ray
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

    reach(address)
    if address != "auto" and auth_token() is not None:  # for "auto" Ray does it; a cluster without tokens doesn't mind
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    options: dict[str, Any] = {} if IN_A_JOB in os.environ else {"runtime_env": {"env_vars": worker_environment()}}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, namespace=NAMESPACE, **options)
    except ConnectionError as error:
        if address == "auto":
            remedy = "start one with: ray start --head, or leave ray.address out"
            raise ZjError("no Ray runs on this machine", where="ray.address", remedy=remedy) from error
        what = f"the service at {address} does not accept us as a Ray client"
        raise ZjError(what, where="ray.address", remedy=TOKEN_REMEDY) from error
    except ray.exceptions.AuthenticationError as error:
        what = f"Ray at {address} refuses us: {str(error).splitlines()[0]}"
        raise ZjError(what, where="ray.address", remedy=TOKEN_REMEDY) from error


def _describe(*, started_here: bool, seconds: float) -> Cluster:
    import ray

    resources = ray.cluster_resources()
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    return Cluster(
        address=ray.get_runtime_context().gcs_address,
        started_here=started_here,
        start_seconds=seconds,
        nodes=nodes,
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
    )
