"""The memory of a run, as the benchmarks and the test of the whole pipeline sample it."""

from __future__ import annotations

import subprocess
import sys

from bench.memory import PeakMemory, is_ray_process, resident_gib


def test_ray_processes_are_known_by_their_command_line() -> None:
    assert is_ray_process(["ray::PolicyRank.update()"])
    assert is_ray_process(["/site-packages/ray/core/src/ray/raylet/raylet", "--x"])
    assert not is_ray_process(["python", "train.py"])


def test_memory_counts_children_and_processes_that_the_predicate_names() -> None:
    program = "block = bytearray(200 << 20); print('up', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline()
    with PeakMemory(lambda command: False, every=0.05) as memory:
        inside = resident_gib(lambda command: False)
    child.communicate(b"\n", timeout=20)
    assert memory.peak_gib >= inside * 0.9
    assert inside - resident_gib(lambda command: False) > 0.19
