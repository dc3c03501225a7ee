"""The rollout fleet as the stages see it: consultations in, trajectories out, new weights from time to time.

Everything happens on one event loop in a thread of its own, so that consultations go on while the trainers work, and no
state has two writers. What is decided without Ray stands in `dispatch`, `router`, `scaling` and `states`; what is done
about it in `roster` (the engines), `courier` (their turns), `publisher` (their weights) and `supervisor` (their number
and health).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zj_ray.config.schema import FleetConfig, ModelConfig
from zj_ray.data.case import Prompt
from zj_ray.data.chat import ChatFormat
from zj_ray.data.trajectory import Trajectory
from zj_ray.errors import WaitTimeout, ZjError
from zj_ray.fleet.control.courier import Courier
from zj_ray.fleet.control.publisher import GRACE, Publisher, SyncReport
from zj_ray.fleet.control.roster import Roster
from zj_ray.fleet.control.supervisor import Supervisor
from zj_ray.fleet.dialogue import DialogueSettings, consult
from zj_ray.fleet.engine import start_engine
from zj_ray.fleet.loop import Loop
from zj_ray.fleet.scaling import Bounds, Scaler
from zj_ray.fleet.states import EngineLife, EngineState
from zj_ray.fleet.turns import SpokenTurn, SpokenTurns, TurnRequest
from zj_ray.weights.bucket import PublishedWeights

logger = logging.getLogger(__name__)

SERVES_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Consultations:
    """What a rollout brought. lost: names of the consultations in which a turn was given up.

    All consultations of such a prompt are dropped, never scored 0.
    """

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
        on_change: Callable[[list[dict[str, Any]]], object] = lambda _: None,
        wish: Callable[[], int | None] = lambda: None,
    ) -> None:
        """lora_rank: of the adapters that may be published; 0: none.

        place: Ray's scheduling strategy for engine i where roles share theirs; None: each has a placement group of its
        own. on_change: gets `table()` every second while the fleet is supervised. wish: says as often how many engines
        somebody wants, within `fleet.min` and `fleet.max`; None leaves it to the config and the autoscaler.
        """
        self.config, self.start_timeout = config, start_timeout

        def start(name: str, strategy: Any) -> Any:
            return start_engine(
                name, model_path=model_path, model=model, fleet=config, lora_rank=lora_rank, strategy=strategy
            )

        self.roster = Roster(config, start, start_timeout, place, lambda lost: self.courier.give_up(lost))
        self.courier = Courier(self.roster)
        self.publisher = Publisher(self.roster, self.courier.carry_soon)
        scalable = place is None
        least, most = (config.min, config.max) if scalable else (config.initial, config.initial)
        bounds, autoscale = Bounds(least, most, config.idle_seconds), config.autoscale and scalable
        scaler = Scaler(bounds, config.initial, autoscale, config.max_in_flight, self.roster.clock)
        self.supervisor = Supervisor(self.roster, self.publisher, scaler, wish, self._changed)
        self._on_change, self._supervised = on_change, False
        self._loop = Loop("fleet")

    # --- what it consists of ------------------------------------------------------------------------------------------

    @property
    def lives(self) -> dict[str, EngineLife]:
        return {name: seat.life for name, seat in list(self.roster.seats.items())}

    @property
    def actors(self) -> dict[str, Any]:
        return {name: seat.actor for name, seat in list(self.roster.seats.items()) if seat.actor is not None}

    @property
    def checksum_failures(self) -> int:
        return self.publisher.checksum_failures

    def table(self) -> list[dict[str, Any]]:
        """One row an engine, for `zj status`."""
        return self.roster.table()

    # --- its size and health ------------------------------------------------------------------------------------------

    def launch(self) -> None:
        """Start the engines' actors; returns at once, so that other processes can start beside them."""

        async def start() -> None:
            self.supervisor.start()

        self._loop.run(start(), self.start_timeout)

    def wait_ready(self) -> None:
        """Block until the engines have loaded their model.

        Raises ZjError with the first reason if fewer than `fleet.min` have.
        """
        self._loop.run(self._wait_ready(), 2 * self.start_timeout + GRACE)

    async def _wait_ready(self) -> None:
        await self.supervisor.started(2 * self.start_timeout)
        dead = self.roster.among([EngineState.DEAD])
        if len(self.roster.seats) - len(dead) < min(self.config.min, self.config.initial):
            remedy = "see log.txt; zj doctor tells what this cluster has"
            raise ZjError(dead[0].life.last_error, where=f"engine {dead[0].name}", remedy=remedy)

    def supervise(self) -> None:
        """From now on dead engines are replaced, hanging ones are noticed, and their number follows what is wanted."""
        if not self._supervised:
            self._supervised = True
            self._loop.start(self.supervisor.run())

    def _changed(self) -> None:
        hopeless = self._supervised and self.supervisor.hopeless
        dispatcher = self.roster.dispatcher
        for lost in dispatcher.abandoned() if hopeless else dispatcher.expired():
            self.courier.give_up(lost)
        self.courier.carry()
        self._on_change(self.table())

    # --- weights ------------------------------------------------------------------------------------------------------

    def publish(self, weights: PublishedWeights) -> SyncReport:
        """Bring every living engine to `weights`; those that don't confirm in time are out.

        Turns that are being spoken are finished first, with the weights that they began with; new ones wait for an
        engine that has confirmed. A LoRA adapter stands on the whole weights that were published last. While the fleet
        is supervised, newcomers are waited for. Raises ZjError when no engine is left.
        """
        limit = self.publisher.limit + (2 * self.start_timeout + self.publisher.sync_limit if self._supervised else 0.0)
        return self._loop.run(self._publish(weights, limit), limit + GRACE)

    async def _publish(self, weights: PublishedWeights, limit: float) -> SyncReport:
        deadline = self.roster.clock() + limit
        report = await self.publisher.publish(weights)
        while not self.roster.among([EngineState.SERVING]):
            if not self._supervised or self.supervisor.hopeless or self.roster.clock() > deadline:
                reasons = "; ".join(f"{life.name}: {life.last_error}" for life in self.lives.values())
                what = f"no engine took the weights of version {report.version} ({reasons})"
                raise ZjError(what, where="fleet", remedy="see log.txt; raise fleet.sync_timeout")
            await asyncio.sleep(SERVES_POLL_SECONDS)
        return replace(report, confirmed=tuple(seat.name for seat in self.roster.among([EngineState.SERVING])))

    def sleep(self) -> None:
        """Let the engines give back their GPU memory; the next publication wakes them. Until then none serves."""
        self._loop.run(self.publisher.sleep(), self.publisher.sync_limit + GRACE)

    # --- turns --------------------------------------------------------------------------------------------------------

    def rollout(
        self,
        prompts: Sequence[tuple[Prompt, int]],
        *,
        key: str,
        seed: int,
        chat: ChatFormat,
        settings: DialogueSettings,
        timeout: float,
        spoken: SpokenTurns | None = None,
        on_done: Callable[[], None] = lambda: None,
    ) -> Consultations:
        """Hold one consultation for each (prompt, sample number); in the order of `prompts`, less the lost ones.

        Where one of a prompt's consultations is lost, its others are dropped too: they could not be compared fairly.
        spoken: takes down every turn; those that are in it already are not asked for.
        Raises ZjError when all are lost, WaitTimeout after `timeout` seconds.
        """
        started = time.monotonic()
        turns: SpokenTurns = {} if spoken is None else spoken

        async def ask(request: TurnRequest, previous: str | None) -> SpokenTurn:
            name = request.key.removeprefix(f"{key}/")
            if name not in turns:
                turns[name] = await self.courier.ask(request, previous)
            return turns[name]

        def one(prompt: Prompt, sample: int) -> Awaitable[Trajectory]:
            return consult(prompt, sample, key=key, seed=seed, chat=chat, settings=settings, ask=ask)

        results = self._gather([one(prompt, sample) for prompt, sample in prompts], key, timeout, on_done)
        pairs = list(zip(prompts, results, strict=True))
        faults = {(prompt.id, sample): fault for (prompt, sample), fault in pairs if isinstance(fault, BaseException)}
        dropped = {prompt for prompt, _ in faults}
        trajectories = [trajectory for (prompt, _), trajectory in pairs if prompt.id not in dropped]
        if not trajectories:
            what = f"every consultation of {key} was lost, the first: {next(iter(faults.values()))}"
            raise ZjError(what, where="fleet", remedy="see log.txt for the engines' errors")
        lost = [f"{prompt}#{sample}" for prompt, sample in faults]
        return Consultations(trajectories, lost, time.monotonic() - started)

    def generate(
        self, requests: Sequence[TurnRequest], *, timeout: float, on_done: Callable[[], None] = lambda: None
    ) -> list[SpokenTurn]:
        """Single continuations, in the order of `requests`. Raises the first failure: none may be missing."""
        results = self._gather([self.courier.ask(request, None) for request in requests], "generate", timeout, on_done)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    def _gather(
        self, work: Sequence[Awaitable[Any]], key: str, timeout: float, on_done: Callable[[], None]
    ) -> list[Any]:
        """The results of `work`, done side by side, in its order; in place of one that failed stands its ZjError."""

        async def one(job: Awaitable[Any]) -> Any:
            try:
                return await job
            except ZjError as error:
                logger.warning("%s", error)
                return error
            finally:
                on_done()

        async def everything() -> list[Any]:
            return list(await asyncio.wait_for(asyncio.gather(*map(one, work)), timeout))

        try:
            return self._loop.run(everything(), timeout + GRACE)
        except TimeoutError:
            dispatcher = self.roster.dispatcher
            turns = f"{dispatcher.in_flight} turns in flight, {dispatcher.waiting} waiting"
            what = f"{key} was not finished after {timeout:.0f} s ({turns})"
            remedy = "raise consultation.timeout, or add engines"
            raise WaitTimeout(what, where="fleet", remedy=remedy) from None

    def close(self) -> None:
        self._loop.stop()
        self.roster.close()
