"""The fleet: how many engines, what each has, and how long is waited for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zj_ray.config.sections.setting import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, Bound, setting


@dataclass(frozen=True)
class FleetConfig:
    initial: int = setting(2, "vLLM rollout engines to start with", AT_LEAST_ONE)
    min: int = setting(1, "fewest engines: `zj scale` and the autoscaler keep at least so many", AT_LEAST_ONE)
    max: int = setting(8, "most engines", AT_LEAST_ONE)
    autoscale: bool = setting(
        False, "follow the queue of turns between min and max, until `zj scale` asks for a number"
    )
    idle_seconds: float = setting(
        300.0, "fewer engines must have been enough for so long before the autoscaler lets some go [s]", NOT_NEGATIVE
    )
    engine_cpus: float = setting(0.25, "logical CPUs each engine reserves", POSITIVE)
    engine_gpus: float = setting(0.0, "GPUs each engine reserves; 0 runs vLLM on the CPU", NOT_NEGATIVE)
    tensor_parallel: int = setting(
        1, "GPUs (or processes, on CPUs) over which one engine's model is cut; all on one node", AT_LEAST_ONE
    )
    threads: int = setting(1, "CPU threads of each engine (CPU engines only)", AT_LEAST_ONE)
    kv_cache_mb: int = setting(256, "KV cache of a CPU engine [MiB]", Bound(16))
    gpu_memory_utilization: float = setting(
        0.85, "share of its GPU an engine may fill (GPU engines only)", Bound(0, 1, open_low=True)
    )
    max_in_flight: int = setting(64, "sequences an engine decodes at once", AT_LEAST_ONE)
    transport: Literal["object_store", "nccl", "ipc", "gloo"] = setting(
        "object_store",
        "how the policy's weights reach the engines. object_store: any layout; through vLLM's weight-transfer API: "
        "nccl between GPUs, ipc where each engine shares its GPU with a policy rank, gloo between CPUs",
    )
    sleep: bool = setting(
        False, "engines give back their GPU memory while the trainers work: for engines that share GPUs with roles"
    )
    turn_timeout: float = setting(120.0, "longest wait for one doctor turn [s]", POSITIVE)
    sync_timeout: float = setting(120.0, "longest wait for an engine to take new weights [s]", POSITIVE)
    slow_after: float = setting(
        10.0, "an engine that has made no progress for so long is suspect: its turns go elsewhere [s]", POSITIVE
    )
    stall_timeout: float = setting(
        60.0,
        "an engine that has turns but makes no progress for so long, or does not say how it is, is replaced [s]",
        POSITIVE,
    )
    wait_timeout: float = setting(900.0, "longest that turns wait while no engine has room for any [s]", POSITIVE)
    turn_retries: int = setting(
        3,
        "times that engines may fail at one doctor turn before its prompt is given up and reported by name",
        AT_LEAST_ONE,
    )
    lost_engines: int = setting(
        10,
        "times that one doctor turn may lose its engine before its prompt is given up and reported by name",
        AT_LEAST_ONE,
    )
    restarts: int = setting(
        5,
        "times in a row that an engine may die without having answered a turn; then it is tried again only where "
        "others serve, else the run stops",
        NOT_NEGATIVE,
    )
