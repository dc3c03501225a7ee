"""Put a run's model behind an OpenAI-compatible endpoint, for as long as a block or until Ctrl-C.

`serving` owns the Ray Serve instance that it starts, and so refuses a cluster on which Serve already runs: shutting
ours down would take the others' applications with it. There, deploy with a RayService or a Serve config instead
(cluster/kuberay/rayservice.yaml).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from zj_ray.cluster.connect import connect
from zj_ray.cluster.ports import listen
from zj_ray.config.schema import ModelConfig, ServeConfig
from zj_ray.errors import CheckpointError, WaitTimeout, ZjError
from zj_ray.progress import console
from zj_ray.runs.folder import Run
from zj_ray.serving.client import ask

APPLICATION = "zj-doctor"
SERVED_STAGES = ("ppo", "sft")  # the first that is finished is served
REQUEST_SECONDS = 600  # the proxy ends a request after that, with status 408
POLL_SECONDS = 0.5
ANSWER_SECONDS = 10.0  # that the controller has for an answer even when the time is nearly up

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Endpoint:
    url: str  # without /v1
    model: str
    start_seconds: float

    def curl(self, question: str) -> str:
        """A command line that asks the endpoint."""
        body = f'{{"model": "{self.model}", "messages": [{{"role": "user", "content": "{question}"}}]}}'
        return f"curl {self.url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"


def served_model(run: Run) -> Path:
    """The model folder to serve: PPO's if that stage is finished, else SFT's. Raises CheckpointError if neither is."""
    for stage in SERVED_STAGES:
        folder = run.folder / stage / "model"
        if run.manifest(stage) is not None:
            if not (folder / "config.json").is_file():
                what = f"stage {stage} is finished, but its model is gone"
                remedy = f"run the stage again: zj run {run.folder / 'config.yaml'} --from {stage}"
                raise CheckpointError(what, where=str(folder), remedy=remedy)
            return folder
    what = "neither ppo nor sft is finished, so there is no model to serve"
    raise CheckpointError(what, where=str(run.folder), remedy="let zj run finish them")


def serve(run_folder: Path, *, host: str, port: int) -> None:
    """Serve a run's model until Ctrl-C."""
    run = Run.load(run_folder)
    folder = served_model(run)
    config = replace(run.config.serve, host=host, port=port)
    console.print(f"serving {folder} …", markup=False, soft_wrap=True)
    with (
        connect(run.config.ray, log_folder=run.stage("serve")),
        serving(folder, config, run.config.model, name=run.config.name) as endpoint,
    ):
        lines = (
            f"\nchat page {endpoint.url}   OpenAI base URL {endpoint.url}/v1   model {endpoint.model}",
            endpoint.curl(config.question),
            "For research only; not medical advice. 仅供研究，不构成医疗建议。 Ctrl-C ends it.",
        )
        for line in lines:
            console.print(line, markup=False, soft_wrap=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


@contextlib.contextmanager
def serving(
    model_folder: Path, config: ServeConfig, model: ModelConfig, *, name: str = "zhongjing"
) -> Iterator[Endpoint]:
    """Serve a model folder on the Ray that this process is attached to, for the length of the block.

    Raises ZjError when Serve already runs, the port is taken or a replica fails, WaitTimeout after `start_timeout`.
    """
    from ray import serve as ray_serve

    from zj_ray.serving.app import ServedModel, application

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    began = time.monotonic()
    deadline = began + config.start_timeout
    if _answer(ray_serve.status, deadline).proxies:
        remedy = "deploy there with a RayService or `serve deploy` (cluster/kuberay/rayservice.yaml)"
        raise ZjError("Ray Serve already runs on this cluster", where="ray.address", remedy=remedy)
    with listen(config.host, config.port, where="serve.port") as probe:
        port = probe.getsockname()[1]
    threads = max(1, (os.cpu_count() or 1) // config.replicas)
    served = ServedModel(
        folder=str(Path(model_folder).resolve()),
        name=name,
        dtype=model.dtype,
        max_length=model.max_length,
        replicas=config.replicas,
        gpus=config.replica_gpus,
        threads=threads,
    )
    options = {"host": config.host, "port": port, "request_timeout_s": REQUEST_SECONDS}
    url = f"http://{'127.0.0.1' if config.host in ('0.0.0.0', '::') else config.host}:{port}"
    try:
        _answer(partial(ray_serve.start, http_options=options), deadline)
        target = ray_serve.RunTarget(application(asdict(served)), name=APPLICATION, route_prefix="/")
        at_once: Any = {"wait_for_ingress_deployment_creation": False, "wait_for_applications_running": False}
        _answer(partial(ray_serve.run_many, [target], **at_once), deadline)
        _wait_running(deadline, config.start_timeout)
        _wait_answering(url, deadline, config.start_timeout)
        endpoint = Endpoint(url, name, time.monotonic() - began)
        log.info("%s serves %s after %.1f s", url, served.folder, endpoint.start_seconds)
        yield endpoint
    finally:
        _shutdown()


def prove(endpoint: Endpoint, config: ServeConfig) -> str:
    """The endpoint's answer to the configured question. Raises ZjError if it says nothing."""
    answer = ask(endpoint.url, endpoint.model, config.question, timeout=config.start_timeout)
    if not answer.strip():
        remedy = "the model is hardly trained: give sft more steps"
        raise ZjError("the endpoint answers with nothing", where=endpoint.url, remedy=remedy)
    return answer


def _shutdown() -> None:
    """End Serve. Ray reports a fault meanwhile, as the controller ends itself in the middle of the call: log it."""
    from ray import serve as ray_serve

    words = io.StringIO()
    with contextlib.redirect_stdout(words):
        ray_serve.shutdown()
        time.sleep(POLL_SECONDS)  # the report comes from a thread of Ray's
    log.debug("Ray Serve is shut down: %s", words.getvalue())


def _answer(call: Callable[[], Any], deadline: float) -> Any:
    """What `call` returns. A call to Serve has no limit of its own: one that is late is left to its thread.

    Raises WaitTimeout after the deadline, but not before ANSWER_SECONDS.
    """
    answer: Future[Any] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except Exception as fault:
            answer.set_exception(fault)

    threading.Thread(target=work, name="ask-serve", daemon=True).start()
    wait([answer], timeout=max(deadline - time.monotonic(), ANSWER_SECONDS))
    if not answer.done():
        remedy = "see ray-logs/serve in the run's folder; raise serve.start_timeout on a slow machine"
        raise WaitTimeout("Ray Serve's controller does not answer", where="serve", remedy=remedy)
    return answer.result(timeout=0)


def _wait_running(deadline: float, limit: float) -> None:
    """Wait until the application runs.

    Raises ZjError with Serve's own words when a replica fails, WaitTimeout when it is still not up at the deadline.
    """
    from ray import serve as ray_serve

    while True:
        ours = _answer(ray_serve.status, deadline).applications.get(APPLICATION)
        state = ours.status.value if ours else "NOT_STARTED"
        if state == "RUNNING":
            return
        details = _last_lines("; ".join(d.message for d in ours.deployments.values() if d.message) if ours else "")
        if state in ("DEPLOY_FAILED", "UNHEALTHY"):
            what = f"the model can't be served: {details}"
            raise ZjError(what, where="serve", remedy="see ray-logs/serve in the run's folder")
        if time.monotonic() > deadline:
            what = f"the endpoint is still {state} after {limit:g} s: {details}"
            remedy = "raise serve.start_timeout, or free the CPUs or GPUs that serve.replicas × serve.replica_gpus need"
            raise WaitTimeout(what, where="serve", remedy=remedy)
        time.sleep(POLL_SECONDS)


def _wait_answering(url: str, deadline: float, limit: float) -> None:
    """Wait until the proxy answers: it learns its routes a moment after the application runs. Raises WaitTimeout."""
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=10):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            if time.monotonic() > deadline:
                what = f"the endpoint does not answer after {limit:g} s: {error}"
                raise WaitTimeout(what, where=url, remedy="see ray-logs/serve") from error
        time.sleep(POLL_SECONDS)


def _last_lines(text: str) -> str:
    """The end of a message or traceback, on one line: that is where the reason stands."""
    return " ".join(" ".join(text.strip().splitlines()[-3:]).split())[-600:]
