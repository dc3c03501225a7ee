"""The memory of a run, as the test of the whole pipeline samples it."""

from __future__ import annotations

import subprocess
import sys

from bench.memory import PeakMemory, resident_gib


def test_memory_counts_this_process_and_its_children() -> None:
    program = "block = bytearray(200 << 20); print('up', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline()
    with PeakMemory(every=0.05) as memory:
        inside = resident_gib()
    child.communicate(b"\n", timeout=20)
    assert memory.peak_gib >= inside * 0.9
    assert inside - resident_gib() > 0.19
