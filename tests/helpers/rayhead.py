"""A Ray head of a test's own: free ports, waiting until it is up, ending it by the ids of its own processes."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil


def free_port() -> int:
    """A free port outside 10002–19999, which Ray keeps for its workers."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if not 10002 <= port <= 19999:
            return port


def wait_for_port(port: int, process: subprocess.Popen, log: Path) -> None:
    wait_until(lambda: process.poll() is not None or listens(port), 120, log.read_text)
    assert process.poll() is None, log.read_text()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition, seconds: float, explain) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.2)


def end(process: subprocess.Popen) -> None:
    """SIGTERM to `ray start --block`, then to what it leaves behind: its own descendants, by id."""
    own = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    psutil.wait_procs(own, timeout=3)
    for one in own:
        if one.is_running():
            one.terminate()
    _, left = psutil.wait_procs(own, timeout=10)
    for one in left:
        one.kill()
    process.kill()
    process.wait(10)
