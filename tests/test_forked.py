"""Ray's workers in tests are forks: each begins, lives and ends as a process that Ray has started would."""

from __future__ import annotations

import os
import sys
import time

import psutil
import ray
import torch


class Worker:
    def describe(self) -> dict[str, object]:
        return {
            "pid": os.getpid(),
            "worker": ray.get_runtime_context().get_worker_id(),
            "parent": psutil.Process().parent().cmdline(),
            "threads": torch.get_num_threads(),
            "mark": os.environ.get("MARK"),
            "arguments": sys.argv[0].rpartition("/")[2],
        }

    def leave(self) -> None:
        os._exit(3)


def _is_client_of(process: psutil.Process, worker: object) -> bool:
    words = " ".join(process.info["cmdline"] or [])
    return "forked.py" in words and str(worker) in words


def _started(**options: object) -> tuple[object, dict[str, object]]:
    actor = ray.remote(Worker).options(num_cpus=0.1, **options).remote()
    return actor, ray.get(actor.describe.remote(), timeout=60)


def _ends(pid: object) -> bool:
    deadline = time.monotonic() + 20
    while psutil.pid_exists(int(str(pid))) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not psutil.pid_exists(int(str(pid)))


def test_a_fork_has_its_own_pid_environment_threads_and_arguments(ray_session: None) -> None:
    (_, first), (_, second) = _started(runtime_env={"env_vars": {"MARK": "1"}}), _started()
    assert first["pid"] != second["pid"] and "serve(" in " ".join(first["parent"])
    assert (first["mark"], second["mark"]) == ("1", None)
    assert first["threads"] == 1 and first["arguments"] == "default_worker.py"


def test_a_fork_that_ray_kills_that_leaves_or_whose_client_dies_is_gone(ray_session: None) -> None:
    (killed, of_killed), (leaving, of_leaving), (_, of_orphan) = _started(), _started(), _started()
    ray.kill(killed)
    leaving.leave.remote()
    assert _ends(of_killed["pid"]) and _ends(of_leaving["pid"])
    [client] = [p for p in psutil.process_iter(["cmdline"]) if _is_client_of(p, of_orphan["worker"])]
    client.kill()
    assert _ends(of_orphan["pid"])
