"""The memory that a run takes: sampled from outside, while it works, over its processes and those of its Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from threading import Event, Thread
from types import TracebackType

import psutil

DAEMONS = ("raylet", "gcs_server", "ray/dashboard", "_private/log_monitor", "_private/monitor", "runtime_env/agent")
RAY_WORDS = ("ray::", *DAEMONS)
SAMPLE_SECONDS = 2.0


def is_ray_process(command: list[str]) -> bool:
    """Whether a command line belongs to Ray: its daemons, its agents or a worker."""
    line = " ".join(command)
    return any(word in line for word in RAY_WORDS)


class PeakMemory:
    """Samples the memory of this process, of this user's Ray processes and of their descendants, while its block runs.

    `peak_gib` is the largest sum of RSS [GiB]. Pages that processes share (the object store, libraries) count once in
    each, so it is an upper bound of what the machine had to give.
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
    """RSS [GiB] now of this process, of this user's processes whose command line `belongs`, and their descendants."""
    parents: dict[int, int] = {}
    sizes: dict[int, int] = {}
    roots = {os.getpid()}
    for process in psutil.process_iter(["pid", "ppid", "uids", "cmdline", "memory_info"]):
        info = process.info  # a value is None where the process is not ours to look at, or has just ended
        if info["memory_info"] is None:
            continue
        parents[info["pid"]], sizes[info["pid"]] = info["ppid"], info["memory_info"].rss
        if info["uids"] and info["uids"].real == os.getuid() and belongs(info["cmdline"] or []):
            roots.add(info["pid"])
    return sum(size for pid, size in sizes.items() if _descends(pid, parents, roots)) / 2**30


def _descends(pid: int, parents: Mapping[int, int], roots: set[int]) -> bool:
    chain: set[int] = set()  # process ids are reused: a chain read while processes come and go may have a loop
    while pid not in chain:
        if pid in roots:
            return True
        chain.add(pid)
        pid = parents.get(pid, pid)
    return False
