"""The rollout fleet: starts engines, keeps them at the current weights, spreads the consultations over them.

An engine serves only after it has confirmed the current version. One that dies or hangs is taken out at once; its turns
are asked elsewhere; `heal` puts a new engine in its place. Everything happens on one event loop in a thread of its own, so
that consultations go on while the trainers work, and no state has two writers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from zj_ray.config.schema import FleetConfig, ModelConfig
from zj_ray.data.case import Prompt
from zj_ray.data.chat import ChatFormat
from zj_ray.data.trajectory import Trajectory
from zj_ray.errors import WaitTimeout, ZjError, brief
from zj_ray.fleet.dialogue import Answered, DialogueSettings, consult
from zj_ray.fleet.engine import TurnRequest, start_engine
from zj_ray.fleet.loop import Loop
from zj_ray.fleet.router import Router
from zj_ray.fleet.states import EngineLife, EngineState
from zj_ray.weights.bucket import PublishedWeights
from zj_ray.weights.transfer import STEPS, Sent

logger = logging.getLogger(__name__)

GRACE = 30.0  # beyond the limit of what is waited for, so that its own error comes first [s]
LOST = object()  # in place of an engine's answer
FAILURES_TOLERATED = 2  # in a row, before an engine gets no more work until its next sync


@dataclass(frozen=True)
class SyncReport:
    """bytes: of one copy of the weights; seconds: until the last engine had confirmed or left."""

    version: int
    bytes: int
    seconds: float
    confirmed: tuple[str, ...]
    checksum_failures: int


@dataclass(frozen=True)
class Consultations:
    """lost: prompts whose turn failed on every attempt, by name; their consultations are dropped whole, never scored 0."""

    trajectories: list[Trajectory]
    lost: list[str]
    seconds: float


class Fleet:
    def __init__(
        self,
        model_path: str,
        model: ModelConfig,
        config: FleetConfig,
        start_timeout: float,
        lora_rank: int = 0,
        place: Callable[[int], Any] | None = None,
    ) -> None:
        """lora_rank: of the adapters that may be published; 0: none. place: Ray's scheduling strategy for engine i; None: it may sit anywhere."""
        self.model_path, self.model, self.config, self.start_timeout, self.lora_rank = model_path, model, config, start_timeout, lora_rank
        self.strategies = {f"engine-{i}": place(i) if place else None for i in range(config.engines)}
        self.lives = {f"engine-{i}": EngineLife(f"engine-{i}") for i in range(config.engines)}
        self.actors: dict[str, Any] = {}
        self.router = Router()
        self.published: tuple[PublishedWeights, ...] = ()  # whole weights, and the adapter that stands on them if there is one
        self.checksum_failures = 0
        self._loop = Loop("fleet")
        self._at_rest = asyncio.Event()  # cleared while weights are on their way to the engines
        self._at_rest.set()

    def launch(self) -> None:
        """Start the engines' actors; returns at once, so that other processes can start beside them."""
        for life in self.lives.values():
            self._launch(life)

    def _launch(self, life: EngineLife) -> None:
        self.actors[life.name] = start_engine(life.name, self.model_path, self.model, self.config, self.lora_rank, self.strategies[life.name])
        life.placed()

    def wait_ready(self) -> None:
        """Block until every engine has loaded its model. Raises WaitTimeout naming those that have not."""
        self._loop.run(self._wait_ready(), self.start_timeout + GRACE)

    async def _wait_ready(self) -> None:
        waiting = [life for life in self.lives.values() if life.state is EngineState.LOADING]
        loading = [asyncio.wait_for(self.actors[life.name].wait_ready.remote(), self.start_timeout) for life in waiting]
        outcomes = await asyncio.gather(*loading, return_exceptions=True)
        late = [life.name for life, outcome in zip(waiting, outcomes, strict=True) if isinstance(outcome, TimeoutError)]
        if late:
            raise WaitTimeout(
                f"{', '.join(late)} not ready after {self.start_timeout:.0f} s",
                where="fleet",
                remedy="see whether the cluster has the CPUs or GPUs for fleet.engines (zj doctor), or raise ray.start_timeout",
            )
        for life, outcome in zip(waiting, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                raise outcome
            life.loaded()

    def publish(self, weights: PublishedWeights) -> SyncReport:
        """Bring every living engine to `weights`; those that don't confirm in time are out. Raises ZjError when none is left.

        Turns that are being spoken are finished first, with the weights that they began with; new ones wait. A LoRA adapter
        stands on the whole weights that were published last.
        """
        return self._loop.run(self._publish(weights), self._publish_limit + GRACE)

    async def _publish(self, weights: PublishedWeights) -> SyncReport:
        self.published = (self.published[0], weights) if weights.manifest.adapter else (weights,)
        for life in self.lives.values():
            life.outdated()
        self._at_rest.clear()
        try:
            return await (self._transfer(weights) if weights.senders else self._sync(self._out_of_date()))
        finally:
            self._at_rest.set()

    def _out_of_date(self) -> list[EngineLife]:
        return [life for life in self.lives.values() if life.state in (EngineState.STALE, EngineState.SUSPECT)]

    @property
    def _sync_limit(self) -> float:
        """Longest that one engine may take to confirm [s]: the turns in flight, the pull and the load."""
        return self.config.turn_timeout + 2 * self.config.sync_timeout

    @property
    def _transfer_limit(self) -> float:
        """Longest that the policy may take to send; its own waits for the engines end before [s]."""
        return (STEPS + 1) * self.config.sync_timeout + GRACE

    @property
    def _publish_limit(self) -> float:
        """Longest that a publication may take: with a transfer the last turns, the transfer, and packing and pulling if it broke [s]."""
        return self._sync_limit if self.config.transport == "object_store" else 3 * self._sync_limit + self._transfer_limit

    async def _sync(self, lives: Sequence[EngineLife]) -> SyncReport:
        started, manifest = time.monotonic(), self.published[-1].manifest
        return self._report(started, manifest.nbytes, await self._pull(lives))

    def _report(self, started: float, nbytes: int, damaged: int) -> SyncReport:
        """Who has confirmed what is published. Raises ZjError if nobody has."""
        version = self.published[-1].manifest.version
        self.checksum_failures += damaged
        confirmed = tuple(life.name for life in self.lives.values() if life.state is EngineState.SERVING)
        if not confirmed:
            reasons = "; ".join(f"{life.name}: {life.last_error}" for life in self.lives.values())
            raise ZjError(
                f"no engine took the weights of version {version} ({reasons})", where="fleet", remedy="see log.txt; raise fleet.sync_timeout"
            )
        return SyncReport(version, nbytes, time.monotonic() - started, confirmed, damaged)

    async def _transfer(self, weights: PublishedWeights) -> SyncReport:
        """The policy's ranks send to all engines at once. Who was left with nothing, but lives, pulls a packed copy."""
        started = time.monotonic()
        lives = await self._settled(self._out_of_date())
        if not lives:
            return self._report(started, 0, 0)
        sent = await self._sent(weights, {life.name: self.actors[life.name] for life in lives})
        for name, why in sent.failed.items():
            logger.warning("%s got nothing of version %d by %s: %s", name, weights.manifest.version, self.config.transport, why)
            self.lives[name].last_error = why
        damaged = sum(await asyncio.gather(*[self._confirm(life, sent, weights.manifest.version) for life in lives if life.name in sent.received]))
        damaged += await self._pull([life for life in lives if life.name in sent.failed])
        return self._report(started, sent.nbytes, damaged)

    async def _settled(self, lives: Sequence[EngineLife]) -> list[EngineLife]:
        """Those that have spoken their last turn. The dead leave here: a transfer would wait for them."""

        async def settled(life: EngineLife) -> bool:
            return await self._answer(life, "finish_turns", self._sync_limit, what="finish its turns") is not LOST

        answers = await asyncio.gather(*map(settled, lives))
        return [life for life, answer in zip(lives, answers, strict=True) if answer]

    async def _answer(self, life: EngineLife, method: str, limit: float, *arguments: Any, what: str) -> Any:
        """What the engine answers, or LOST if it does not in time or fails: then it is out."""
        try:
            return await asyncio.wait_for(getattr(self.actors[life.name], method).remote(*arguments), limit)
        except TimeoutError:
            self._lose(life, WaitTimeout(f"did not {what} within {limit:.0f} s", where=f"engine {life.name}"))
        except (RayActorError, RayTaskError, ZjError) as error:
            self._lose(life, error)
        return LOST

    async def _sent(self, weights: PublishedWeights, engines: dict[str, Any]) -> Sent:
        """Raises ZjError when it is the policy that failed."""
        version, limit = weights.manifest.version, self._transfer_limit
        sends = [sender.send_weights.remote(version, engines, self.config.transport, self.config.sync_timeout) for sender in weights.senders]
        return (await self._of_policy(sends, limit, f"send weights of version {version} to {', '.join(engines)}"))[0]

    async def _of_policy(self, work: Sequence[Any], limit: float, what: str) -> list[Any]:
        """The answers of all its ranks."""
        try:
            return await asyncio.wait_for(asyncio.gather(*work), limit)
        except TimeoutError:
            raise WaitTimeout(f"did not {what} within {limit:.0f} s", where="role policy", remedy="raise fleet.sync_timeout") from None
        except (RayActorError, RayTaskError) as error:
            remedy = "`zj run` again resumes from the last checkpoint; see log.txt"
            raise ZjError(f"could not {what}: {brief(error)}", where="role policy", remedy=remedy) from error

    async def _pull(self, lives: Sequence[EngineLife]) -> int:
        """Through the object store; returns how many engines or buckets were damaged. What was sent is packed first.

        Where the policy has moved on meanwhile, or is gone, there is nothing to pack: those engines wait for the next publication.
        """
        last = self.published[-1]
        if last.senders and lives:
            version = last.manifest.version
            try:
                packs = [sender.packed_weights.remote(version) for sender in last.senders]
                packed = (await self._of_policy(packs, self._sync_limit, f"pack weights of version {version}"))[0]
            except WaitTimeout:
                raise
            except ZjError:
                packed = None
            if packed is None:
                return 0
            self.published = (packed,)
        return sum(await asyncio.gather(*map(self._bring_up_to_date, lives)))

    async def _confirm(self, life: EngineLife, sent: Sent, version: int) -> int:
        """One engine serves if it got what was sent, or is out; returns 1 if it got something else."""
        if sent.received[life.name] != sent.fingerprint:
            self._lose(life, ZjError(f"weights of version {version} arrived damaged"))
            return 1
        if await self._answer(life, "confirm", self.config.sync_timeout, version, what=f"confirm version {version}") is not LOST:
            life.synced(version, version)
        return 0

    async def _bring_up_to_date(self, life: EngineLife) -> int:
        """One engine confirms what is published, or is out; returns how many buckets arrived damaged."""
        version = self.published[-1].manifest.version
        receipt = await self._answer(life, "apply", self._sync_limit, *self.published, what=f"confirm weights of version {version}")
        if receipt is LOST:
            return 0
        if receipt.corrupted_buckets:
            self._lose(life, ZjError(f"{receipt.corrupted_buckets} buckets of version {version} arrived damaged"))
        else:
            life.synced(receipt.version, version)
        return receipt.corrupted_buckets

    def _lose(self, life: EngineLife, error: BaseException) -> None:
        if life.state is not EngineState.DEAD:
            life.died(brief(error))
            ray.kill(self.actors.pop(life.name), no_restart=True)

    def sleep(self) -> None:
        """Let the engines give back their GPU memory; the next publication wakes them. Until then none serves."""
        self._loop.run(self._sleep(), self._sync_limit + GRACE)

    async def _sleep(self) -> None:
        async def one(life: EngineLife) -> None:
            life.outdated()
            await self._answer(life, "sleep", self._sync_limit, what="go to sleep")

        alive = (EngineState.SERVING, EngineState.SUSPECT, EngineState.STALE)  # one without work holds as much memory as the others
        await asyncio.gather(*[one(life) for life in self.lives.values() if life.state in alive])

    def heal(self) -> list[str]:
        """Replace dead engines and bring the new ones to the current weights, as far as those can be had; returns their names."""
        return self._loop.run(self._heal(), self.start_timeout + 2 * self._sync_limit + GRACE)

    async def _heal(self) -> list[str]:
        dead = [life for life in self.lives.values() if life.state is EngineState.DEAD]
        for life in dead:
            life.replaced()
            self._launch(life)
        if dead:
            await self._wait_ready()
        out_of_date = self._out_of_date()
        if self.published and out_of_date and not self.config.sleep:  # sleepers wait for the next publication
            self.checksum_failures += await self._pull(out_of_date)
        return [life.name for life in dead]

    async def ask(self, request: TurnRequest, previous: str | None) -> Answered:
        """One doctor turn, on another engine after each failure. Raises ZjError when its attempts are spent or none serves."""
        avoid: frozenset[str] = frozenset()
        error: BaseException | None = None
        for attempt in range(1, self.config.turn_retries + 1):
            await self._rested(request)
            name = self.router.choose(self.lives.values(), previous, avoid)
            if name is None:
                break
            life = self.lives[name]
            self.router.started(name)
            try:
                output = await asyncio.wait_for(
                    self.actors[name].generate.remote(replace(request, key=f"{request.key}/{attempt}")), self.config.turn_timeout + 30
                )
                life.succeeded()
                return Answered(output, name, attempt)
            except RayActorError as lost:
                error = lost
                self._lose(life, lost)
            except (RayTaskError, ZjError, TimeoutError) as fault:
                error = fault
                life.failed(brief(fault), FAILURES_TOLERATED)
            finally:
                self.router.finished(name)
            avoid |= {name}
        raise ZjError(f"turn {request.key} was given up: {brief(error) if error else 'no engine serves'}", where="fleet")

    async def _rested(self, request: TurnRequest) -> None:
        """Weights that are on their way have arrived. A publication has the first limit itself."""
        limit = self._publish_limit + GRACE
        try:
            await asyncio.wait_for(self._at_rest.wait(), limit)
        except TimeoutError:
            version = self.published[-1].manifest.version
            raise WaitTimeout(f"turn {request.key} waited {limit:.0f} s for the weights of version {version}", where="fleet") from None

    def rollout(
        self,
        prompts: Sequence[tuple[Prompt, int]],
        *,
        key: str,
        seed: int,
        chat: ChatFormat,
        settings: DialogueSettings,
        timeout: float,
        on_done: Callable[[], None] = lambda: None,
    ) -> Consultations:
        """Hold one consultation for each (prompt, sample number). Order of the result is that of `prompts`, less the lost ones."""
        started = time.monotonic()

        def one(prompt: Prompt, sample: int) -> Awaitable[Trajectory]:
            return consult(prompt, sample, key, seed, chat, settings, self.ask)

        results = self._gather([one(prompt, sample) for prompt, sample in prompts], key, timeout, on_done)
        kept = [result for result in results if isinstance(result, Trajectory)]
        lost = [f"{prompt.id}#{sample}" for (prompt, sample), result in zip(prompts, results, strict=True) if not isinstance(result, Trajectory)]
        if not kept:
            raise ZjError(
                f"every consultation of {key} was lost, the first: {results[0]}", where="fleet", remedy="see log.txt for the engines' errors"
            )
        return Consultations(kept, lost, time.monotonic() - started)

    def generate(self, requests: Sequence[TurnRequest], *, timeout: float, on_done: Callable[[], None] = lambda: None) -> list[Answered]:
        """Single continuations, in the order of `requests`. Raises the first failure: none may be missing."""
        results = self._gather([self.ask(request, None) for request in requests], "generate", timeout, on_done)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    def _gather(self, work: Sequence[Awaitable[Any]], key: str, timeout: float, on_done: Callable[[], None]) -> list[Any]:
        async def counted(job: Awaitable[Any]) -> Any:
            try:
                return await job
            except ZjError as error:
                return error
            finally:
                on_done()

        async def everything() -> list[Any]:
            return list(await asyncio.wait_for(asyncio.gather(*map(counted, work)), timeout))

        try:
            return self._loop.run(everything(), timeout + GRACE)
        except TimeoutError:
            raise WaitTimeout(
                f"{key} was not finished after {timeout:.0f} s ({sum(self.router.in_flight.values())} turns in flight)",
                where="fleet",
                remedy="raise ppo.rollout_timeout, or add engines",
            ) from None

    def table(self) -> list[dict[str, Any]]:
        """One row an engine, for `zj status`."""
        return [
            {
                "engine": life.name,
                "state": life.state.value,
                "version": life.version,
                "in_flight": self.router.in_flight[life.name],
                "restarts": life.restarts,
                "last_error": life.last_error,
            }
            for life in self.lives.values()
        ]

    def close(self) -> None:
        self._loop.stop()
        for actor in self.actors.values():
            ray.kill(actor, no_restart=True)
        self.actors.clear()
        for life in self.lives.values():
            if life.state is not EngineState.DEAD:
                life.died("closed")
