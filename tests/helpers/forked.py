"""Ray's workers as forks of one process that has torch, DeepSpeed and transformers imported: that takes 7 s of CPU.

Ray starts a worker with `runtime_env["py_executable"]`. Inside `forked_workers` that is this file, run as a client: it
hands the worker's arguments, environment, folder and streams to a server, which forks; the fork does what Ray's own
command would have done. The client lives as long as the fork, and the fork as long as the client. `zj` commands that
tests start are left as their users start them.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

SERVER = "ZJ_TEST_FORK_SERVER"  # the path of its socket
READY = 120.0  # until the server has imported everything [s]
ASKING = 30.0  # for a client's message [s]


@contextmanager
def forked_workers() -> Iterator[None]:
    """Inside, a Ray that this process starts or joins has such workers."""
    variables = {SERVER: _server(), "RAY_RUNTIME_ENV_HOOK": f"{__name__}.with_client"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def with_client(runtime_env: dict[str, Any] | None) -> dict[str, Any]:
    """The runtime environment whose Python is the client; Ray's hook for `ray.init`."""
    runtime_env = runtime_env or {}
    variables = {**runtime_env.get("env_vars", {}), SERVER: os.environ[SERVER]}
    return {**runtime_env, "env_vars": variables, "py_executable": f"{sys.executable} -S {__file__}"}


@cache
def _server() -> str:
    """Start the server, which ends with this process; the path of its socket."""
    path = str(Path(tempfile.mkdtemp(prefix="zj-fork-")) / "socket")
    command = [sys.executable, "-c", f"from {__name__} import serve; serve({path!r})"]
    root = str(Path(__file__).resolve().parents[2])
    server = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE)  # whose end says that this process has ended
    deadline = time.monotonic() + READY
    while not Path(path).exists():
        assert server.poll() is None and time.monotonic() < deadline, "the fork server did not come up"
        time.sleep(0.05)
    return path


# --- the server ---


def serve(path: str) -> None:
    """Fork whenever a client asks, until standard input ends."""
    import tests.helpers.heavy  # noqa: F401

    wake, alarm = socket.socketpair()
    alarm.setblocking(False)
    signal.set_wakeup_fd(alarm.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler of ours, or nothing is written
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen(64)
    os.rename(path + ".new", path)
    clients: dict[int, socket.socket] = {}  # by the pid of their fork
    while True:
        for readable in select.select([0, wake, listener, *clients.values()], [], [])[0]:
            if readable == 0:
                for pid in clients:
                    os.kill(pid, signal.SIGKILL)
                shutil.rmtree(Path(path).parent)
                os._exit(0)
            if readable is wake:
                wake.recv(4096)
                _tell_of_ended(clients)
            elif readable is listener:
                client, _ = listener.accept()
                client.settimeout(ASKING)
                with suppress(TimeoutError):  # a client that is silent for so long has lost its worker, not the others'
                    if (pid := _fork(client, (wake, alarm, listener, *clients.values()))) is not None:
                        clients[pid] = client
            else:  # a client has nothing to say: it has ended
                for pid in [pid for pid, client in clients.items() if client is readable]:
                    os.kill(pid, signal.SIGKILL)


def _tell_of_ended(clients: dict[int, socket.socket]) -> None:
    for pid in list(clients):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with clients.pop(pid) as client, suppress(BrokenPipeError):  # the client was killed, its fork therefore
                client.sendall(json.dumps(os.waitstatus_to_exitcode(status)).encode())


def _fork(client: socket.socket, others: tuple[socket.socket, ...]) -> int | None:
    """The pid of the fork, or None for a client that has ended, or says nothing, before it has asked."""
    message, streams, _, _ = socket.recv_fds(client, 1 << 20, 3)
    while more := b"" if message.endswith(b"\n") else client.recv(1 << 20):
        message += more
    pid = os.fork() if message.endswith(b"\n") else None
    if pid != 0:
        for stream in streams:
            os.close(stream)
        if pid is None:
            client.close()
        return pid
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for each in (client, *others):
        each.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    _become(**json.loads(message))
    raise AssertionError("a worker ends its process itself")


def _become(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Be the Python process that would have run this script."""
    import runpy

    import numpy as np
    import torch

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = arguments
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    np.random.seed()
    # Ray tells OpenMP how many CPUs the actor has, in these tests one at most; torch listened when it was imported.
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", 1)))
    status = 0
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


# --- the client ---


def ask() -> int:
    """Let the server fork for this process; returns the fork's exit status once it has ended."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ[SERVER])
        wish = {"arguments": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}
        message = json.dumps(wish).encode() + b"\n"
        sent = socket.send_fds(server, [message], [0, 1, 2])
        server.sendall(message[sent:])
        status = server.recv(64)
    return json.loads(status) if status else 1


if __name__ == "__main__":
    sys.exit(ask())
