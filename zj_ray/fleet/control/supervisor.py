"""Keeps the fleet as large as it should be and every engine at work: starts, watches, replaces, drains.

One pass a second compares what there should be with what there is. What takes long (a start, a drain) goes on in a
task of its own, so that neither the consultations nor the step wait for an engine that they can do without.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from zj_ray.config.schema import FleetConfig
from zj_ray.errors import WaitTimeout, ZjError, brief
from zj_ray.fleet.control.publisher import Publisher
from zj_ray.fleet.control.roster import ALIVE, LOST, Roster, Seat
from zj_ray.fleet.scaling import Scaler
from zj_ray.fleet.states import EngineState

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
EJECTIONS_TOLERATED = 4  # failure streak and failed trials, without a success between, before an engine is replaced
STARTING = (EngineState.PROVISIONING, EngineState.LOADING)
LEAVES_FIRST = (EngineState.DEAD, *STARTING, EngineState.STALE, EngineState.SUSPECT, EngineState.SERVING)


class Supervisor:
    def __init__(
        self,
        roster: Roster,
        publisher: Publisher,
        scaler: Scaler,
        wish: Callable[[], int | None],
        on_change: Callable[[], None],
    ) -> None:
        """wish: how many engines somebody asked for.

        on_change: called after every pass, and whenever an engine has come to serve or has left.
        """
        self.roster, self.publisher, self.scaler = roster, publisher, scaler
        self.wish, self.on_change = wish, on_change
        self.config: FleetConfig = roster.config
        self._tasks: dict[str, asyncio.Task[None]] = {}  # what is being done about each engine

    async def run(self) -> None:
        """Look after the fleet until cancelled. An engine that is slow to say how it is does not hold up the rest."""
        await asyncio.gather(self._again(self._adjust), self._again(self._examine))

    async def _again(self, look: Callable[[], Awaitable[None]]) -> None:
        """Look every second; a pass that fails is logged, and the next one tries again."""
        while True:
            try:
                await look()
            except Exception:
                logger.exception("a pass over the rollout fleet failed; the next one tries again")
            await asyncio.sleep(TICK_SECONDS)

    async def _adjust(self) -> None:
        self._replace(self.roster.clock())
        self._sync_late()
        self.on_change()
        self._resize()  # last: a wish that can't be read must not keep dead engines from being replaced

    @property
    def hopeless(self) -> bool:
        """Every engine has died too often to be tried again."""
        seats = self.roster.seats.values()
        return bool(seats) and all(
            seat.deaths > self.config.restarts and seat.life.state is EngineState.DEAD for seat in seats
        )

    def start(self) -> None:
        """Start the engines that the run begins with."""
        for _ in range(self.scaler.desired(0, 0)):
            self._begin(self.roster.hire())

    async def started(self, limit: float) -> None:
        """Wait until all engines that are starting have loaded or died, at most `limit` seconds."""
        waiting = [self._tasks[seat.name] for seat in self.roster.among(STARTING) if seat.name in self._tasks]
        if waiting:
            await asyncio.wait(waiting, timeout=limit)

    def _resize(self) -> None:
        dispatcher = self.roster.dispatcher
        self.scaler.ask(self.wish())
        desired = self.scaler.desired(dispatcher.waiting, dispatcher.in_flight)
        present = self.roster.among(LEAVES_FIRST)
        for _ in range(desired - len(present)):
            seat = self.roster.hire()
            logger.info("%s is added: %d engines are wanted", seat.name, desired)
            self._begin(seat)
        in_flight = self.roster.router.in_flight
        present.sort(key=lambda seat: (LEAVES_FIRST.index(seat.life.state), in_flight[seat.name], -seat.number))
        for seat in present[: max(len(present) - desired, 0)]:
            logger.info("%s leaves: %d engines are wanted", seat.name, desired)
            self._let_go(seat)

    def _begin(self, seat: Seat) -> None:
        self.roster.open(seat)
        self._do(seat, self._bring_up(seat))

    async def _bring_up(self, seat: Seat) -> None:
        await self.roster.settle(seat)
        await self._admit(seat)

    def _let_go(self, seat: Seat) -> None:
        self._forget(seat)
        if seat.life.state in ALIVE:
            seat.life.drain()
            self._do(seat, self._drain(seat))
        else:
            self.roster.dismiss(seat)

    async def _drain(self, seat: Seat) -> None:
        """Let the engine finish its turns, for no longer than a turn may take, and dismiss it; what is left moves."""
        deadline = self.roster.clock() + self.config.turn_timeout
        while self.roster.router.in_flight[seat.name] and self.roster.clock() < deadline:
            await asyncio.sleep(TICK_SECONDS / 10)
        if seat.life.state is EngineState.DRAINING:  # it may have died
            self.roster.dismiss(seat)
        self.on_change()

    def _replace(self, now: float) -> None:
        """Begin anew with the dead whose pause is over; those that die again and again only while others serve."""
        others_serve = bool(self.roster.among([EngineState.SERVING]))
        for seat in self.roster.among([EngineState.DEAD]):
            if seat.replace_at > now or (seat.deaths > self.config.restarts and not others_serve):
                continue
            seat.life.replaced()
            self._forget(seat)
            self._begin(seat)

    def _sync_late(self) -> None:
        """Bring engines that are alive but have missed a publication up to date."""
        if self.publisher.busy:
            return
        for seat in self.roster.among([EngineState.STALE]):
            if seat.name not in self._tasks and not seat.busy.locked():
                self._do(seat, self._admit(seat))

    async def _admit(self, seat: Seat) -> None:
        await self.publisher.admit(seat)
        self.on_change()

    async def _examine(self) -> None:
        """Take out engines that do not say how they are, make no progress with their turns, or fail at every turn."""
        await asyncio.gather(*map(self._examine_one, self.roster.among((*ALIVE, EngineState.DRAINING))))
        for seat in self.roster.among([EngineState.SUSPECT]):
            if seat.life.ejections > EJECTIONS_TOLERATED:
                what = f"failed at every turn; last: {seat.life.last_error}"
                self.roster.lose(seat, ZjError(what, where=f"engine {seat.name}", remedy="see log.txt"))

    async def _examine_one(self, seat: Seat) -> None:
        limit, actor = self.config.stall_timeout, seat.actor
        loop, why = asyncio.get_running_loop(), "does not say how it is"
        overdue = loop.call_later(self.config.slow_after, self._doubt, seat, why)
        health = await self.roster.answer(seat, "health", limit, what="say how it is")
        overdue.cancel()
        if health is LOST or seat.actor is not actor:
            return
        now = self.roster.clock()
        seat.tokens_per_second = (health["tokens"] - seat.tokens) / max(now - seat.asked_at, 1e-6)
        if health["tokens"] > seat.tokens:
            seat.deaths = 0
        seat.tokens, seat.asked_at = health["tokens"], now
        idle = health["seconds_since_progress"] if health["in_flight"] else 0.0
        what = f"made no progress for {idle:.0f} s with {health['in_flight']} turns at version {health['version']}"
        if not health["alive"]:
            ended = "its vLLM thread has ended"
            self.roster.lose(seat, ZjError(ended, where=f"engine {seat.name}", remedy="see the engine's log"))
        elif idle > limit:
            remedy = "raise fleet.stall_timeout if it may take this long"
            self.roster.lose(seat, WaitTimeout(what, where=f"engine {seat.name}", remedy=remedy))
        elif idle > self.config.slow_after:
            self._doubt(seat, what)
        else:
            seat.life.heard()

    def _doubt(self, seat: Seat, why: str) -> None:
        self.roster.suspect(seat, why)
        self.on_change()

    def _do(self, seat: Seat, work: Coroutine[Any, Any, None]) -> None:
        """Begin `work` in a task of the engine's own; an engine with which it fails is lost."""

        async def whole() -> None:
            try:
                await work
            except (ZjError, TimeoutError) as error:
                logger.warning("%s is lost: %s", seat.name, brief(error))
                self.roster.lose(seat, error)
            finally:
                if self._tasks.get(seat.name) is asyncio.current_task():
                    del self._tasks[seat.name]

        self._tasks[seat.name] = asyncio.get_running_loop().create_task(whole(), name=seat.name)

    def _forget(self, seat: Seat) -> None:
        task = self._tasks.pop(seat.name, None)
        if task is not None:
            task.cancel()
