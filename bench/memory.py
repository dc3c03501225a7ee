"""The memory that a run takes: sampled from outside, while it works, over its processes and those of its Ray."""

from __future__ import annotations

from threading import Event, Thread
from types import TracebackType

import psutil

SAMPLE_SECONDS = 2.0


class PeakMemory:
    """Samples the memory of this process and of its descendants, while its block runs.

    A Ray that they have started is among them; another one on the same machine is not. `peak_gib` is the largest sum
    of RSS [GiB]. Pages that processes share (the object store, libraries) count once in each, so it is an upper bound
    of what the machine had to give.
    """

    def __init__(self, *, every: float = SAMPLE_SECONDS) -> None:
        self._every = every
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
        self.peak_gib = max(self.peak_gib, resident_gib())


def resident_gib() -> float:
    """RSS [GiB] now of this process and its descendants."""
    here = psutil.Process()
    return sum(map(_resident_bytes, [here, *here.children(recursive=True)])) / 2**30


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it has ended
        return 0
