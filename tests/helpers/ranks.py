"""DeepSpeed ranks as real processes, for tests that look at them without Ray."""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from typing import Any

import torch

from zj_ray.training.zero_engine import TrainEngine, join_process_group


def forks() -> ForkServerContext:
    """Processes that need not import torch and DeepSpeed again, which is 4 s of CPU for each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.preloaded"])
    return context


def run_ranks(world: int, work: Callable[..., None], *arguments: Any, seconds: float = 240) -> None:
    """`work(rank, world, *arguments)` in `world` processes that are one process group.

    Fails when one of them fails or is not done in time.
    """
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    context = forks()
    ranks = [
        context.Process(target=_rank, args=(rank, world, port, work, arguments), daemon=True) for rank in range(world)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=seconds)
    assert [process.exitcode for process in ranks] == [0] * world


def _rank(rank: int, world: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    join_process_group(rank, world, "127.0.0.1", port, timeout=120)
    work(rank, world, *arguments)
    torch.distributed.barrier()
    # gloo's threads end here: an interpreter that goes while they run may abort.
    torch.distributed.destroy_process_group()


def wait_until_saved(engine: TrainEngine, seconds: float = 60) -> None:
    """Until every rank's files are on the disk."""
    deadline = time.monotonic() + seconds
    while not engine.is_saved():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    torch.distributed.barrier()
