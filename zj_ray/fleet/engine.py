"""One vLLM engine as a Ray actor.

The engine lives in a thread of its own (`EngineThread`) that alternates between commands and `step()`: requests, weight
loads and questions about its state are commands, so that weights can never change in the middle of a step. vLLM runs in
this process (no engine-core process): half the start-up time and memory.
"""

from __future__ import annotations

import asyncio
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import ray

from zj_ray.config.schema import FleetConfig, ModelConfig
from zj_ray.errors import WaitTimeout
from zj_ray.fleet.turns import SyncReceipt, TurnOutput, TurnRequest
from zj_ray.fleet.vllm_settings import engine_arguments, engine_environment
from zj_ray.weights.adapter import save_adapter
from zj_ray.weights.bucket import PublishedWeights, WeightManifest, corrupted, unpack_weights

TURN_POLL_SECONDS = 0.01
GRACE = 5.0  # beyond the limit of a turn, so that its own error comes first [s]


class EngineThread:
    """vLLM's synchronous engine and the loop that drives it."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.commands: queue.SimpleQueue[tuple[Callable[[], Any], Future]] = queue.SimpleQueue()
        self.pending: dict[str, Future] = {}
        self.version = self.base_version = -1
        self.asleep: set[str] = set()
        self.adapter: Any = None  # vLLM's LoRARequest that goes with every turn
        self.tokens = 0
        self.last_progress = time.monotonic()
        self.ready: Future = Future()
        self.thread = threading.Thread(target=self._run, args=(arguments,), name="engine", daemon=True)
        self.thread.start()

    def submit(self, command: Callable[[], Any]) -> Future:
        """A future of what `command` returns, which runs between two steps."""
        done: Future = Future()
        if not self.pending and self.commands.empty():
            self.last_progress = time.monotonic()  # it had nothing to do until now
        self.commands.put((command, done))
        return done

    def generate(self, request: TurnRequest) -> Future:
        """A future of the request's TurnOutput."""
        result: Future = Future()

        def add() -> None:
            from vllm import SamplingParams

            self.pending[request.key] = result
            parameters = SamplingParams(
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                seed=request.seed,
                logprobs=0,
                stop_token_ids=[request.stop_id],
                ignore_eos=True,  # a base's other end tokens are no turn's end: the template asks for its own
                detokenize=False,
            )
            self.engine.add_request(
                request.key, {"prompt_token_ids": request.token_ids}, parameters, lora_request=self.adapter
            )

        self.submit(add).add_done_callback(lambda added: self._fail(request.key, added.exception()))
        return result

    def _fail(self, key: str, error: BaseException | None) -> None:
        waiting = self.pending.pop(key, None) if error is not None else None
        if waiting is not None and error is not None:
            waiting.set_exception(error)

    def abort(self, key: str) -> Future:
        """Forget a request: its future will have no result."""

        def drop() -> None:
            self.pending.pop(key, None)
            self.engine.abort_request([key])

        return self.submit(drop)

    def _run(self, arguments: dict[str, Any]) -> None:
        try:
            from vllm import EngineArgs, LLMEngine

            if arguments.get("weight_transfer_config") == {"backend": "gloo"}:
                from zj_ray.weights.direct.gloo import register

                register()
            self.engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
        except BaseException as error:
            self.ready.set_exception(error)
            raise
        self.ready.set_result(True)
        while True:
            self._obey(block=not self.engine.has_unfinished_requests())
            if self.engine.has_unfinished_requests():
                for output in self.engine.step():
                    if output.finished:
                        self._deliver(output)
                self.last_progress = time.monotonic()

    def _obey(self, block: bool) -> None:
        while block or not self.commands.empty():
            command, done = self.commands.get()
            self.last_progress = time.monotonic()
            block = False
            try:
                done.set_result(command())
            except BaseException as error:  # the caller gets it; the engine goes on
                done.set_exception(error)

    def _deliver(self, output: Any) -> None:
        completion = output.outputs[0]
        token_ids = list(completion.token_ids)
        logprobs = [position[token].logprob for position, token in zip(completion.logprobs, token_ids, strict=True)]
        self.tokens += len(token_ids)
        waiting = self.pending.pop(output.request_id, None)
        if waiting is not None:
            waiting.set_result(TurnOutput(token_ids, logprobs, completion.finish_reason == "stop", self.version))

    def load(self, manifest: WeightManifest, buckets: list[Any]) -> None:
        """Load weights or an adapter from their buckets; called as a command, hence between steps."""
        self._wake("weights")
        if manifest.adapter is None:
            self._drop_adapter()
            self.engine.collective_rpc("receive_weights", args=(manifest, buckets))
            self.base_version = manifest.version
        else:
            self._take_adapter(manifest, buckets)
        self._loaded(manifest.version)

    def transfer(self, method: str, *arguments: Any) -> Any:
        """Do a step of a weight transfer, which is a method of the worker; called as a command."""
        self._wake("weights")
        [result] = self.engine.collective_rpc(method, args=arguments)
        return result

    def transferred(self, version: int) -> None:
        """Note that whole weights of this version have come by transfer."""
        self._drop_adapter()
        self.base_version = version
        self._loaded(version)

    def _loaded(self, version: int) -> None:
        """Serve this version from now on. The prefix cache holds keys of the old weights: it must go."""
        self._wake("kv_cache")
        self.engine.reset_prefix_cache()
        self.version = version

    def sleep(self) -> None:
        """Give the GPU's memory back until weights come.

        At vLLM's level 2 the weights are forgotten too; those that an adapter stands on are kept.
        """
        self.version = -1  # else the same version sent again would be taken for what is here, and not wake it
        if self.adapter is None:
            self.base_version = -1
        self.engine.sleep(2 if self.adapter is None else 1)
        self.asleep = {"weights", "kv_cache"}

    def _wake(self, part: str) -> None:
        """Wake the weights or the KV cache: the cache need not be there beside the trainers' copy of the weights."""
        if part in self.asleep:
            self.engine.wake_up([part])
            self.asleep.remove(part)

    def _take_adapter(self, manifest: WeightManifest, buckets: list[Any]) -> None:
        """Load a LoRA adapter under an id of its own: under the same id vLLM would silently go on with the old one."""
        from vllm.lora.request import LoRARequest

        with tempfile.TemporaryDirectory(prefix="zj-adapter-") as folder:  # vLLM reads it once, in `add_lora`
            save_adapter(Path(folder), manifest.adapter or "", dict(unpack_weights(manifest, buckets)))
            adapter = LoRARequest(f"version-{manifest.version}", manifest.version, folder)
            self._drop_adapter()
            self.engine.add_lora(adapter)
        self.adapter = adapter

    def _drop_adapter(self) -> None:
        if self.adapter is not None:
            self.engine.remove_lora(self.adapter.lora_int_id)
            self.adapter = None


class RolloutEngine:
    """The Ray actor. It never restarts by itself: the fleet replaces it, so that a new engine always lacks weights."""

    def __init__(self, name: str, model_path: str, model: ModelConfig, fleet: FleetConfig, lora_rank: int) -> None:
        if fleet.engine_gpus == 0:
            import torch

            torch.set_num_threads(fleet.threads)
        self.name = name
        self.fleet = fleet
        self.core = EngineThread(engine_arguments(model_path, model, fleet, lora_rank))

    async def wait_ready(self) -> int:
        """The process id, once the engine has loaded its model."""
        await asyncio.wrap_future(self.core.ready)
        return os.getpid()

    async def generate(self, request: TurnRequest) -> TurnOutput:
        """Sample one continuation.

        After `fleet.turn_timeout` seconds it aborts the request, so that it can't be answered twice, and raises
        WaitTimeout.
        """
        limit = self.fleet.turn_timeout
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self.core.generate(request)), limit)
        except TimeoutError:
            self.core.abort(request.key)
            raise self._too_slow(f"no answer to {request.key} within {limit:.0f} s") from None

    async def apply(self, *published: PublishedWeights) -> SyncReceipt:
        """Take new weights: pull, verify, load, drop the prefix cache. A damaged bucket changes nothing.

        published: whole weights, and after them the LoRA adapter that stands on them, if there is one. What the engine
        has already is not pulled again.
        """
        started = time.monotonic()
        for number, weights in enumerate(published, 1):
            is_base = number < len(published)
            if weights.manifest.version == (self.core.base_version if is_base else self.core.version):
                continue
            buckets = await asyncio.wait_for(asyncio.gather(*weights.buckets), self.fleet.sync_timeout)
            bad = corrupted(weights.manifest, buckets)
            if bad:
                return SyncReceipt(self.core.version, time.monotonic() - started, len(bad))
            await self.finish_turns()
            load = partial(self.core.load, weights.manifest, buckets)
            await self._command(load, f"load version {weights.manifest.version}")
        return SyncReceipt(self.core.version, time.monotonic() - started, 0)

    async def sleep(self) -> None:
        """Finish the turns and let the engine sleep until the next weights come, which wake it."""
        await self.finish_turns()
        await self._command(self.core.sleep, "go to sleep")

    async def transfer(self, method: str, *arguments: Any) -> Any:
        """Do a step of a weight transfer that the policy drives (`weights/direct/transfer.py`).

        A model in the middle of a transfer speaks no turns.
        """
        await self.finish_turns()
        return await self._command(partial(self.core.transfer, method, *arguments), method)

    async def confirm(self, version: int) -> int:
        """Note that what was transferred is whole and of this version; returns the version."""
        await self._command(partial(self.core.transferred, version), f"confirm version {version}")
        return version

    async def _command(self, command: Callable[[], Any], what: str) -> Any:
        """The result of `command`. Raises WaitTimeout after `fleet.sync_timeout` seconds."""
        limit = self.fleet.sync_timeout
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self.core.submit(command)), limit)
        except TimeoutError:
            late = f"did not {what} within {limit:.0f} s"
            raise WaitTimeout(late, where=f"engine {self.name}", remedy="raise fleet.sync_timeout") from None

    async def finish_turns(self) -> None:
        """Wait until no turn is in flight, as none may be spoken by two policies. The fleet sends no new ones now.

        Raises WaitTimeout; a turn's own limit comes first.
        """
        limit = self.fleet.turn_timeout + GRACE
        deadline = time.monotonic() + limit
        while self.core.pending:
            if time.monotonic() > deadline:
                raise self._too_slow(f"did not finish its {len(self.core.pending)} turns within {limit:.0f} s")
            await asyncio.sleep(TURN_POLL_SECONDS)

    def _too_slow(self, what: str) -> WaitTimeout:
        what = f"{what} at weight version {self.core.version}"
        remedy = "raise fleet.turn_timeout if its answers are this slow"
        return WaitTimeout(what, where=f"engine {self.name}", remedy=remedy)

    async def health(self) -> dict[str, Any]:
        """How the engine fares. seconds_since_progress: since the last command or decoding step."""
        core = self.core
        return {
            "version": core.version,
            "in_flight": len(core.pending) + core.commands.qsize(),
            "tokens": core.tokens,
            "seconds_since_progress": time.monotonic() - core.last_progress,
            "alive": core.thread.is_alive(),
        }


def start_engine(
    name: str, model_path: str, model: ModelConfig, fleet: FleetConfig, lora_rank: int, strategy: Any = None
) -> Any:
    """A RolloutEngine actor, whose `wait_ready` tells when the model is loaded. strategy: Ray's, for where it sits."""
    actor = ray.remote(RolloutEngine).options(
        num_cpus=fleet.engine_cpus,
        num_gpus=fleet.engine_gpus,
        max_concurrency=4 * fleet.max_in_flight,
        max_restarts=0,
        scheduling_strategy=strategy,
        runtime_env={"env_vars": engine_environment(fleet)},
    )
    return actor.remote(name, model_path, model, fleet, lora_rank)
