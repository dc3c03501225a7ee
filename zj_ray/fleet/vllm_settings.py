"""Everything that vLLM is told by switches, for the rollout engines and for the endpoint alike.

Environment variables must be set before the process imports vLLM; arguments are those of its `EngineArgs`.
"""

from __future__ import annotations

import os
from typing import Any

from zj_ray.config.schema import FleetConfig, ModelConfig

IN_ONE_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
LORA_SIZES = (8, 16, 32, 64, 128, 256, 512)  # ranks that vLLM makes room for


def vllm_environment(on_gpu: bool, threads: int) -> dict[str, str]:
    """The variables that any process with vLLM is started with. threads: of a model on CPUs."""
    anywhere = {
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "VLLM_NO_USAGE_STATS": "1",
    }
    on_cpu = IN_ONE_PROCESS | {
        "OMP_NUM_THREADS": str(threads),  # two engines of two threads each are five times slower on two cores
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "TORCHDYNAMO_DISABLE": "1",  # else the first request with logprobs compiles for seconds
    }
    return anywhere if on_gpu else anywhere | on_cpu


def vllm_arguments(
    folder: str, dtype: str, max_length: int, *, sequences: int, kv_cache_mb: int | None
) -> dict[str, Any]:
    """The arguments of any vLLM. sequences: decoded at once; kv_cache_mb: of a model on CPUs, None for one on GPUs."""
    arguments: dict[str, Any] = {
        "model": folder,
        "dtype": dtype,
        "max_model_len": max_length,
        "max_num_seqs": sequences,
        "disable_log_stats": True,
        "generation_config": "vllm",  # never the model folder's own sampling defaults
    }
    if kv_cache_mb is not None:
        arguments |= {"enforce_eager": True, "block_size": 32, "kv_cache_memory_bytes": kv_cache_mb << 20}
    return arguments


def engine_environment(fleet: FleetConfig) -> dict[str, str]:
    """The variables that a rollout engine's process is started with.

    It is one process on GPUs too: weights are handed to the worker as they are, another would want them serialized.
    """
    return vllm_environment(fleet.engine_gpus > 0, fleet.threads) | IN_ONE_PROCESS


def engine_arguments(model_path: str, model: ModelConfig, fleet: FleetConfig, lora_rank: int) -> dict[str, Any]:
    """The arguments of a rollout engine. lora_rank: of the adapters that the engine will be sent; 0: none."""
    on_gpu = fleet.engine_gpus > 0
    arguments = vllm_arguments(
        model_path,
        model.dtype,
        model.max_length,
        sequences=fleet.max_in_flight,
        kv_cache_mb=None if on_gpu else fleet.kv_cache_mb,
    )
    arguments |= {
        "worker_extension_cls": "zj_ray.weights.worker.WeightReceiver",
        "logprobs_mode": "processed_logprobs",  # at the sampling temperature: what the trainer compares with
        "enable_prefix_caching": not model.deterministic,  # what was computed with other turns differs in the last bits
    }
    if on_gpu:
        arguments |= {"gpu_memory_utilization": fleet.gpu_memory_utilization, "enable_sleep_mode": fleet.sleep}
    if fleet.tensor_parallel > 1:
        arguments |= {"tensor_parallel_size": fleet.tensor_parallel, "distributed_executor_backend": "mp"}
    if fleet.transport != "object_store":
        arguments["weight_transfer_config"] = {"backend": fleet.transport}
    if lora_rank:
        size = next(size for size in LORA_SIZES if size >= lora_rank)
        arguments |= {"enable_lora": True, "max_lora_rank": size, "max_loras": 1, "max_cpu_loras": 1}
    return arguments
