"""A weight sync of a 135M model to two engines, against the least that it can be. `python -m bench.sync`

The least: one plain copy of the same bytes into shared memory, and vLLM's own reload of the same weights from a
safetensors file there, in both engines at once. Ours is what a PPO step does: the policy's rank packs, checksums and
puts its weights into the object store; both engines pull, verify and load them, and drop their prefix caches. Remote
calls are counted.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import ray
import torch
from ray.actor import ActorMethod
from transformers import LlamaForCausalLM

from bench.ceilings import measure, table
from bench.subject import SMOLLM2_135M
from zj_ray.cluster.connect import connect
from zj_ray.config.schema import FleetConfig, ModelConfig, PolicyRoleConfig, RayConfig
from zj_ray.data.tokenizer import train_tokenizer
from zj_ray.fleet.control.fleet import Fleet
from zj_ray.fleet.engine import RolloutEngine
from zj_ray.roles.group import RoleGroup
from zj_ray.roles.placement import Places
from zj_ray.roles.policy import PolicyObjective, PolicyRank
from zj_ray.training.zero_engine import EngineSpec

SHARED = Path("/dev/shm")


class MeasuredEngine(RolloutEngine):
    """An engine that can also reload by vLLM's own means."""

    async def reload(self, path: str) -> float:
        import asyncio

        def work() -> float:
            started = time.perf_counter()
            self.core.engine.collective_rpc(lambda worker: worker.model_runner.reload_weights(weights_path=path))
            return time.perf_counter() - started

        return await asyncio.wrap_future(self.core.submit(work))


class Counter:
    """The remote calls that this process makes while it watches, by name."""

    def __init__(self) -> None:
        self.names: list[str] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        original = ActorMethod._remote

        def counting(method: Any, *arguments: Any, **keywords: Any) -> Any:
            self.names.append(method._method_name)
            return original(method, *arguments, **keywords)

        with patch.object(ActorMethod, "_remote", counting):
            yield


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stage", type=int, default=2, help="the policy's ZeRO stage")
    options = parser.parse_args()
    print(f"{measure(os.cpu_count() or 1)}\n")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(dir=SHARED) as folder:
        LlamaForCausalLM(SMOLLM2_135M).save_pretrained(folder)
        train_tokenizer(["vLLM asks for one"], 300, 512).save_pretrained(folder)
        engine = patch("zj_ray.fleet.engine.RolloutEngine", MeasuredEngine)
        with connect(RayConfig(object_store_mb=2048), log_folder=Path(folder)), engine:
            _measure(folder, options.rounds, options.stage)


def _measure(folder: str, rounds: int, stage: int) -> None:
    model = ModelConfig(max_length=512)
    fleet = Fleet(folder, model, replace(FleetConfig(), initial=2, kv_cache_mb=256), start_timeout=300)
    fleet.launch()
    role = PolicyRoleConfig(ranks=1, threads=2)
    arguments = model, 0, 300.0, PolicyObjective(1.0, 0.2, 0.2)
    policy = RoleGroup("policy", PolicyRank, role, Places({"policy": role}), 300.0, arguments=arguments)
    policy.wait(policy.start(folder, EngineSpec(1e-4, 1.0, stage)), what="start")
    fleet.wait_ready()
    names = ("pack and put", "pull, verify and load", "plain copy", "vLLM's own load")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    counter, size, buckets = Counter(), 0, 0

    def pack(version: int) -> Any:
        return policy.wait(policy.call("weights", version, False), what="publish")[0]

    for version in range(1, rounds + 2):
        with counter.watching():
            packing, published = timed(lambda version=version: pack(version))
            loading, report = timed(lambda published=published: fleet.publish(published))
        size, buckets, calls = report.bytes, len(published.buckets), counter.names[:]
        counter.names.clear()
        copying, reloading = _least(size, fleet, folder)
        if version > 1:  # the first round warms up
            for name, value in zip(seconds, (packing, loading, copying, reloading), strict=True):
                seconds[name].append(value)
    middle = {name: float(np.median(times)) for name, times in seconds.items()}
    ours = [a + b for a, b in zip(*list(seconds.values())[:2], strict=True)]
    least = [a + b for a, b in zip(*list(seconds.values())[2:], strict=True)]
    ratios = [a / b for a, b in zip(ours, least, strict=True)]
    tensors = len(published.manifest.entries)
    print(f"{size / 1e6:.0f} MB in {tensors} tensors and {buckets} buckets, ZeRO {stage}, ", end="")
    print(f"to {len(report.confirmed)} engines: {len(calls)} remote calls ({', '.join(calls)})\n")
    rows = [*middle.items(), ("ours, whole", float(np.median(ours))), ("the least, whole", float(np.median(least)))]
    print(table(("seconds (median)", ""), rows))
    by_round = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"\nOurs takes **{np.median(ratios):.2f}** times the least (rounds: {by_round}; target 2).")
    policy.close()
    fleet.close()


def _least(size: int, fleet: Fleet, folder: str) -> tuple[float, float]:
    """Seconds of a plain copy into shared memory, and of vLLM's reload from there by all engines at once."""
    source = np.ones(size, np.uint8)
    with tempfile.NamedTemporaryFile(dir=SHARED) as file:
        file.truncate(size)
        target = np.memmap(file.name, np.uint8, "r+", shape=(size,))
        np.copyto(target, source)  # the object store's pages have been touched before, too
        copying, _ = timed(lambda: np.copyto(target, source))
    reloading, _ = timed(lambda: ray.get([actor.reload.remote(folder) for actor in fleet.actors.values()], timeout=300))
    return copying, reloading


if __name__ == "__main__":
    main()
