"""The process that works on a run, as its user starts it, and its sudden end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil


def zj(*words: str | Path, log: Path) -> subprocess.Popen[bytes]:
    """A `zj` command in a process of its own; what it says goes to `log`."""
    with log.open("w") as out:
        command = [sys.executable, "-m", "zj_ray", *map(str, words)]
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=log.parent, start_new_session=True)


def zj_until_killed(fault: tuple[str, int, float], *words: str | Path, log: Path, limit: float) -> dict[str, Any]:
    """A `zj` command that ends itself in a call (`mortal.py` says what a fault is); the witness that it left."""
    witness = log.with_name("witness.json")
    witness.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.helpers.mortal", *map(str, (witness, *fault, *words))]
    with log.open("w") as out:
        status = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, timeout=limit).returncode
    assert status == -signal.SIGKILL, f"ended with {status}, not by a kill in {fault}:\n{log.read_text()[-3000:]}"
    seen = json.loads(witness.read_text(encoding="utf-8"))
    end_orphans([process for process in psutil.process_iter() if process.pid in seen["left"]], patience=3.0)
    return seen


def kill_driver(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL. Ray ends its own processes when the driver is gone, some of them only after a minute."""
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    end_orphans(children, patience=20.0)


def end_orphans(processes: list[psutil.Process], patience: float) -> None:
    """What Ray has not ended by itself after `patience` seconds."""
    for process in psutil.wait_procs(processes, timeout=patience)[1]:
        process.kill()
