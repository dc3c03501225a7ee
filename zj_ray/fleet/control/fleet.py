"""The rollout fleet as the stages see it: consultations in, trajectories out, new weights from time to time.

Everything happens on one event loop in a thread of its own, so that consultations go on while the trainers work, and no
state has two writers. What is decided without Ray stands in `dispatch`, `router`, `scaling` and `states`; what is done
about it in `roster` (the engines), `publisher` (their weights) and `supervisor` (their number and health).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ray.exceptions import RayActorError, RayError

from zj_ray.config.schema import FleetConfig, ModelConfig
from zj_ray.data.case import Prompt
from zj_ray.data.chat import ChatFormat
from zj_ray.data.trajectory import Trajectory
from zj_ray.errors import WaitTimeout, ZjError, brief
from zj_ray.fleet.control.publisher import GRACE, Publisher, SyncReport
from zj_ray.fleet.control.roster import Roster, Seat
from zj_ray.fleet.control.supervisor import Supervisor
from zj_ray.fleet.dialogue import Answered, DialogueSettings, consult
from zj_ray.fleet.dispatch import Assignment, GivenUp
from zj_ray.fleet.engine import TurnRequest, start_engine
from zj_ray.fleet.loop import Loop
from zj_ray.fleet.router import Router
from zj_ray.fleet.scaling import Bounds, Scaler
from zj_ray.fleet.states import EngineLife, EngineState
from zj_ray.weights.bucket import PublishedWeights

logger = logging.getLogger(__name__)

SERVES_POLL_SECONDS = 0.1
PATIENT_ANSWERS = 0.002  # within so long a dialogue whose turn was answered asks for its next [s]


Spoken = dict[str, Answered]  # a rollout's finished turns, by prompt, sample and number of the turn: "case-7/0/2"


@dataclass(frozen=True)
class Consultations:
    """lost: consultations that a turn was given up in, by name; all of the prompt's are dropped then, never scored 0."""

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
        wanted: Callable[[], int | None] = lambda: None,
    ) -> None:
        """lora_rank: of the adapters that may be published; 0: none. place: Ray's scheduling strategy for engine i; None: a place of its own.

        on_change: gets `table()` every second while the fleet is supervised. wanted: asked as often how many engines there should
        be, within `fleet.min` and `fleet.max`; None leaves it to the config and the autoscaler.
        """
        self.model_path, self.config, self.start_timeout = model_path, config, start_timeout

        def start(name: str, strategy: Any) -> Any:
            return start_engine(name, model_path, model, config, lora_rank, strategy)

        self.roster = Roster(config, start, start_timeout, place, self._report_given_up)
        self.dispatcher = self.roster.dispatcher
        self.publisher = Publisher(self.roster, self._pump_soon)
        bounds = (
            Bounds(config.min, config.max, config.idle_seconds)
            if place is None
            else Bounds(config.initial, config.initial, 0.0)
        )
        scaler = Scaler(
            bounds, config.initial, config.autoscale and place is None, config.max_in_flight, self.roster.clock
        )
        self.supervisor = Supervisor(self.roster, self.publisher, scaler, wanted, self._changed)
        self._on_change, self._supervised = on_change, False
        self._asked: dict[
            str, tuple[TurnRequest, asyncio.Future[Answered]]
        ] = {}  # turns that somebody waits for, by key
        self._timer: asyncio.TimerHandle | None = None
        self._pumps = False  # soon
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = Loop("fleet")

    # --- what it consists of ------------------------------------------------------------------------------------------

    @property
    def lives(self) -> dict[str, EngineLife]:
        return {name: seat.life for name, seat in list(self.roster.seats.items())}

    @property
    def actors(self) -> dict[str, Any]:
        return {name: seat.actor for name, seat in list(self.roster.seats.items()) if seat.actor is not None}

    @property
    def router(self) -> Router:
        return self.roster.router

    @property
    def published(self) -> tuple[PublishedWeights, ...]:
        return self.publisher.published

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
        """Block until the engines have loaded their model. Raises WaitTimeout or the first reason if fewer than `fleet.min` have."""
        self._loop.run(self._wait_ready(), 2 * self.start_timeout + GRACE)

    async def _wait_ready(self) -> None:
        await self.supervisor.started(2 * self.start_timeout)
        dead = self.roster.among([EngineState.DEAD])
        if len(self.roster.seats) - len(dead) < min(self.config.min, self.config.initial):
            raise ZjError(
                f"{dead[0].life.last_error}",
                where=f"engine {dead[0].name}",
                remedy="see log.txt; zj doctor tells what this cluster has",
            )

    def supervise(self) -> None:
        """From now on dead engines are replaced, hanging ones found, and the number of engines follows what is wanted."""
        if not self._supervised:
            self._supervised = True
            self._loop.start(self.supervisor.run())

    def heal(self) -> list[str]:
        """Replace dead engines now and wait until the new ones have the current weights, as far as those can be had; returns their names."""
        limit = 2 * self.start_timeout + 2 * self.publisher.sync_limit
        return self._loop.run(self.supervisor.heal(limit), limit + GRACE)

    def _changed(self) -> None:
        hopeless = self._supervised and self.supervisor.hopeless
        for lost in self.dispatcher.abandoned() if hopeless else self.dispatcher.expired():
            self._report_given_up(lost)
        self._pump()
        self._on_change(self.table())

    # --- weights ------------------------------------------------------------------------------------------------------

    def publish(self, weights: PublishedWeights) -> SyncReport:
        """Bring every living engine to `weights`; those that don't confirm in time are out. Raises ZjError when none is left.

        Turns that are being spoken are finished first, with the weights that they began with; new ones wait for an engine
        that has confirmed. A LoRA adapter stands on the whole weights that were published last. While the fleet is
        supervised, newcomers are waited for.
        """
        limit = self.publisher.limit + (2 * self.start_timeout + self.publisher.sync_limit if self._supervised else 0.0)
        return self._loop.run(self._publish(weights, limit), limit + GRACE)

    async def _publish(self, weights: PublishedWeights, limit: float) -> SyncReport:
        deadline = self.roster.clock() + limit
        report = await self.publisher.publish(weights)
        while not self.roster.among([EngineState.SERVING]):
            if not self._supervised or self.supervisor.hopeless or self.roster.clock() > deadline:
                reasons = "; ".join(f"{life.name}: {life.last_error}" for life in self.lives.values())
                raise ZjError(
                    f"no engine took the weights of version {report.version} ({reasons})",
                    where="fleet",
                    remedy="see log.txt; raise fleet.sync_timeout",
                )
            await asyncio.sleep(SERVES_POLL_SECONDS)
        return replace(report, confirmed=tuple(seat.name for seat in self.roster.among([EngineState.SERVING])))

    def sleep(self) -> None:
        """Let the engines give back their GPU memory; the next publication wakes them. Until then none serves."""
        self._loop.run(self.publisher.sleep(), self.publisher.sync_limit + GRACE)

    # --- turns --------------------------------------------------------------------------------------------------------

    async def ask(self, request: TurnRequest, previous: str | None) -> Answered:
        """One doctor turn, by whichever engine has room. Raises ZjError naming it when its budget is spent."""
        done: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._asked[request.key] = (request, done)
        self.dispatcher.accept(request.key, previous)
        self._pump_soon()
        try:
            return await asyncio.wait_for(done, self._ask_limit)
        except TimeoutError:
            what = f"turn {request.key} was not answered within {self._ask_limit:.0f} s"
            raise WaitTimeout(
                what, where="fleet", remedy="see `zj status` for the engines; raise fleet.wait_timeout"
            ) from None
        finally:
            del self._asked[request.key]
            self.dispatcher.drop(request.key)

    @property
    def _ask_limit(self) -> float:
        """The dispatcher gives a turn up before [s]."""
        attempts = self.config.turn_retries + self.config.lost_engines
        return attempts * (self.config.turn_timeout + 2 * GRACE + self.config.wait_timeout)

    def _pump_soon(self) -> None:
        """Not at once, so that a dialogue whose turn was just answered asks before the room that it left is given away."""
        if not self._pumps:
            self._pumps = True
            asyncio.get_running_loop().call_later(PATIENT_ANSWERS, self._pump)

    def _pump(self) -> None:
        """Give out the turns for which there is room, and come back when time alone changes something."""
        self._pumps = False
        for assignment in self.dispatcher.assign():
            task = asyncio.get_running_loop().create_task(self._serve(assignment, self.roster.seats[assignment.engine]))
            self._tasks.add(task)
            task.add_done_callback(partial(self._served, assignment.key))
        if self._timer is not None:
            self._timer.cancel()
        moment = self.dispatcher.wake_at()
        delay = None if moment is None else max(moment - self.roster.clock(), 0.0) + 1e-3
        self._timer = None if delay is None else asyncio.get_running_loop().call_later(delay, self._pump)

    async def _serve(self, assignment: Assignment, seat: Seat) -> None:
        """One attempt at a turn."""
        actor, limit = seat.actor, self.config.turn_timeout + GRACE
        if assignment.key not in self._asked or actor is None:
            return  # nobody waits for it any more, or the engine was lost before this began: the dispatcher knows
        request, done = self._asked[assignment.key]
        lost: GivenUp | None = None
        try:
            output = await asyncio.wait_for(
                actor.generate.remote(replace(request, key=f"{request.key}/{assignment.attempt}")), limit
            )
        except RayActorError as error:
            if seat.actor is actor:
                self.roster.lose(seat, error)
        except TimeoutError:
            lost = self.dispatcher.failed(assignment, f"no answer within {limit:.0f} s")
        except (RayError, ZjError) as error:
            lost = self.dispatcher.failed(assignment, brief(error))
        else:
            if self.dispatcher.succeeded(assignment) and not done.done():
                done.set_result(Answered(output, assignment.engine, assignment.attempt))
        if lost is not None:
            self._report_given_up(lost)
        self._pump_soon()

    def _served(self, key: str, task: asyncio.Task[None]) -> None:
        """A fault of ours must not leave the turn waiting."""
        self._tasks.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is not None and key in self._asked and not self._asked[key][1].done():
            self._asked[key][1].set_exception(fault)

    def _report_given_up(self, lost: GivenUp) -> None:
        _, done = self._asked[lost.key]
        if not done.done():
            what = f"turn {lost.key} was given up after {lost.attempts} attempts: {lost.error}"
            done.set_exception(
                ZjError(
                    what,
                    where="fleet",
                    remedy="see log.txt; raise fleet.turn_retries or fleet.lost_engines to try more often",
                )
            )

    def rollout(
        self,
        prompts: Sequence[tuple[Prompt, int]],
        *,
        key: str,
        seed: int,
        chat: ChatFormat,
        settings: DialogueSettings,
        timeout: float,
        spoken: Spoken | None = None,
        on_done: Callable[[], None] = lambda: None,
    ) -> Consultations:
        """Hold one consultation for each (prompt, sample number). Order of the result is that of `prompts`, less the lost ones.

        Where one of a prompt's consultations is lost, its others are dropped too: they could not be compared fairly any more.
        spoken: takes down every turn; those that are in it already are not asked for.
        """
        started = time.monotonic()
        known: Spoken = {} if spoken is None else spoken

        async def ask(request: TurnRequest, previous: str | None) -> Answered:
            name = request.key.removeprefix(f"{key}/")
            if name not in known:
                known[name] = await self.ask(request, previous)
            return known[name]

        def one(prompt: Prompt, sample: int) -> Awaitable[Trajectory]:
            return consult(prompt, sample, key, seed, chat, settings, ask)

        results = self._gather([one(prompt, sample) for prompt, sample in prompts], key, timeout, on_done)
        failed = {
            prompt.id for (prompt, _), result in zip(prompts, results, strict=True) if isinstance(result, BaseException)
        }
        kept = [result for (prompt, _), result in zip(prompts, results, strict=True) if prompt.id not in failed]
        lost = [
            f"{prompt.id}#{sample}"
            for (prompt, sample), result in zip(prompts, results, strict=True)
            if isinstance(result, BaseException)
        ]
        if not kept:
            first = next(result for result in results if isinstance(result, BaseException))
            raise ZjError(
                f"every consultation of {key} was lost, the first: {first}",
                where="fleet",
                remedy="see log.txt for the engines' errors",
            )
        return Consultations(kept, lost, time.monotonic() - started)

    def generate(
        self, requests: Sequence[TurnRequest], *, timeout: float, on_done: Callable[[], None] = lambda: None
    ) -> list[Answered]:
        """Single continuations, in the order of `requests`. Raises the first failure: none may be missing."""
        results = self._gather([self.ask(request, None) for request in requests], "generate", timeout, on_done)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    def _gather(
        self, work: Sequence[Awaitable[Any]], key: str, timeout: float, on_done: Callable[[], None]
    ) -> list[Any]:
        async def counted(job: Awaitable[Any]) -> Any:
            try:
                return await job
            except ZjError as error:
                logger.warning("%s", error)
                return error
            finally:
                on_done()

        async def everything() -> list[Any]:
            return list(await asyncio.wait_for(asyncio.gather(*map(counted, work)), timeout))

        try:
            return self._loop.run(everything(), timeout + GRACE)
        except TimeoutError:
            turns = f"{self.dispatcher.in_flight} turns in flight, {self.dispatcher.waiting} waiting"
            remedy = "raise ppo.rollout_timeout, or add engines"
            raise WaitTimeout(
                f"{key} was not finished after {timeout:.0f} s ({turns})", where="fleet", remedy=remedy
            ) from None

    def close(self) -> None:
        self._loop.stop()
        self.roster.close()
