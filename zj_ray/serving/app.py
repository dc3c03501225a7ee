"""The Ray Serve application: vLLM's own OpenAI server as the ASGI app of a Serve deployment.

Requests, answers, streaming and errors are vLLM's, Serve gives replicas, restarts and the HTTP proxy. Measured on two
CPU cores with a tiny model, from `ray.init` to the first answer: about 60 s and 2.2 GB in all, where `ray.serve.llm`
took 130 s and 5.1 GB. What a reader must not get wrong: without VLLM_ENABLE_V1_MULTIPROCESSING=0, which
`vllm_environment` sets, a CPU engine starts one more process, which imports everything a third time; the engine core
has a process of its own either way.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import serve

from zj_ray.fleet.vllm_settings import vllm_arguments, vllm_environment

KV_CACHE_MB = 256  # of a CPU replica
MAX_SEQUENCES = 64  # decoded at once by one replica; as many again may wait
ANSWER_SHARE = 2  # an answer may fill at most 1/ANSWER_SHARE of the context: the default and the limit of max_tokens
PAGE = Path(__file__).with_name("chat.html")


@dataclass(frozen=True)
class ServedModel:
    """What a replica serves, and on what."""

    folder: str  # HF folder, readable on every node that may get a replica
    name: str = "zhongjing"  # the `model` of requests
    dtype: str = "float32"
    max_length: int = 512  # context [tokens], cut to what the model was built for
    replicas: int = 1
    gpus: float = 0.0  # of each replica
    threads: int = 1  # of each CPU replica


@serve.deployment(
    name="doctor", max_ongoing_requests=MAX_SEQUENCES, max_queued_requests=MAX_SEQUENCES, max_constructor_retry_count=1
)
@serve.ingress()
class DoctorServer:
    """One replica: a vLLM engine and vLLM's HTTP routes, plus the chat page at /."""

    async def __init__(self, model: ServedModel) -> None:  # type: ignore[misc]  # Serve awaits it
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.arguments = _server_arguments(model)
        self.engine = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(self.arguments))

    async def __serve_build_asgi_app__(self) -> Any:
        """Serve asks for the app once the constructor is through, and then runs its lifespan."""
        from fastapi.responses import FileResponse
        from vllm.entrypoints.openai.api_server import build_app, init_app_state

        tasks = await self.engine.get_supported_tasks()
        app = build_app(self.arguments, tasks)
        await init_app_state(self.engine, app.state, self.arguments, tasks)

        @app.get("/", include_in_schema=False)
        async def page() -> FileResponse:
            return FileResponse(PAGE)

        return app

    async def check_health(self) -> None:
        """Serve replaces the replica when this raises."""
        await self.engine.check_health()

    def __del__(self) -> None:
        if hasattr(self, "engine"):
            self.engine.shutdown()


def application(arguments: dict[str, Any]) -> serve.Application:
    """The Serve application of a model. arguments: the fields of `ServedModel`.

    A Serve config or a RayService names this function as its import_path.
    """
    model = ServedModel(**arguments)
    actor = {
        "num_cpus": 1 if model.gpus else 0.5,
        "num_gpus": model.gpus,
        "runtime_env": {"env_vars": _environment(model)},
    }
    deployment: Any = DoctorServer  # as the decorators leave it
    return deployment.options(num_replicas=model.replicas, ray_actor_options=actor).bind(model)


def _environment(model: ServedModel) -> dict[str, str]:
    variables = vllm_environment(model.gpus > 0, model.threads)
    if "VLLM_API_KEY" in os.environ:  # then /v1 asks for it
        variables["VLLM_API_KEY"] = os.environ["VLLM_API_KEY"]
    return variables


def _server_arguments(model: ServedModel) -> Any:
    """The namespace of `vllm serve`, with vLLM's own defaults for all that is not set here."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    try:
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
    except ImportError:  # vLLM before 0.30 keeps it here
        from vllm.entrypoints.openai.cli_args import make_arg_parser  # type: ignore[no-redef]

    config = json.loads((Path(model.folder) / "config.json").read_text(encoding="utf-8"))
    length = min(model.max_length, config.get("max_position_embeddings", model.max_length))
    kv_cache_mb = None if model.gpus else KV_CACHE_MB
    settings = vllm_arguments(model.folder, model.dtype, length, sequences=MAX_SEQUENCES, kv_cache_mb=kv_cache_mb)
    settings |= {
        "served_model_name": [model.name],
        "override_generation_config": {"max_new_tokens": length // ANSWER_SHARE},
    }
    if model.gpus:
        settings["tensor_parallel_size"] = max(1, int(model.gpus))
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    unknown = [key for key in settings if not hasattr(arguments, key)]
    if unknown:
        raise RuntimeError(f"this vLLM knows no argument {', '.join(unknown)}: adapt {__name__}")
    vars(arguments).update(settings)
    return arguments
