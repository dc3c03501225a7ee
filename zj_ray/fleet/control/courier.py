"""Carries every turn to the engine that the dispatcher chose for it, and its answer back to whoever asked.

Which engine that is, how often a turn is tried and when it is given up is the dispatcher's decision alone. All of it
runs on the fleet's event loop.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

from ray.exceptions import RayActorError, RayError

from zj_ray.errors import WaitTimeout, ZjError, brief
from zj_ray.fleet.control.publisher import GRACE
from zj_ray.fleet.control.roster import Roster, Seat
from zj_ray.fleet.dispatch import Assignment, GivenUp
from zj_ray.fleet.turns import SpokenTurn, TurnRequest

PATIENT_ANSWERS = 0.002  # within so long a dialogue whose turn was answered asks for its next [s]


class Courier:
    def __init__(self, roster: Roster) -> None:
        self.roster, self.config, self.dispatcher = roster, roster.config, roster.dispatcher
        self._awaited: dict[str, tuple[TurnRequest, asyncio.Future[SpokenTurn]]] = {}  # turns not answered yet, by key
        self._attempts: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._carries_soon = False

    async def ask(self, request: TurnRequest, previous: str | None) -> SpokenTurn:
        """One doctor turn, by whichever engine has room. Raises ZjError naming it when its budget is spent.

        previous: the engine that spoke the dialogue's last turn, which holds its prefix.
        """
        done: asyncio.Future[SpokenTurn] = asyncio.get_running_loop().create_future()
        self._awaited[request.key] = (request, done)
        self.dispatcher.accept(request.key, previous)
        self.carry_soon()
        try:
            return await asyncio.wait_for(done, self._limit)
        except TimeoutError:
            what = f"turn {request.key} was not answered within {self._limit:.0f} s"
            remedy = "see `zj status` for the engines; raise fleet.wait_timeout"
            raise WaitTimeout(what, where="fleet", remedy=remedy) from None
        finally:
            del self._awaited[request.key]
            self.dispatcher.drop(request.key)

    @property
    def _limit(self) -> float:
        """Longest that a turn may take [s]; the dispatcher gives it up before."""
        attempts = self.config.turn_retries + self.config.lost_engines
        return attempts * (self.config.turn_timeout + 2 * GRACE + self.config.wait_timeout)

    def carry_soon(self) -> None:
        """Carry in a moment, within which a dialogue whose turn was answered asks again and takes the room it left."""
        if not self._carries_soon:
            self._carries_soon = True
            asyncio.get_running_loop().call_later(PATIENT_ANSWERS, self.carry)

    def carry(self) -> None:
        """Give out the turns for which there is room, and come back when time alone changes something."""
        self._carries_soon = False
        for assignment in self.dispatcher.assign():
            seat = self.roster.seats[assignment.engine]
            task = asyncio.get_running_loop().create_task(self._attempt(assignment, seat))
            self._attempts.add(task)
            task.add_done_callback(partial(self._ended, assignment.key))
        if self._timer is not None:
            self._timer.cancel()
        moment = self.dispatcher.wake_at()
        delay = None if moment is None else max(moment - self.roster.clock(), 0.0) + 1e-3
        self._timer = None if delay is None else asyncio.get_running_loop().call_later(delay, self.carry)

    async def _attempt(self, assignment: Assignment, seat: Seat) -> None:
        """Ask one engine for one turn, once."""
        actor, limit = seat.actor, self.config.turn_timeout + GRACE
        if assignment.key not in self._awaited or actor is None:
            return  # nobody waits for it any more, or the engine was lost before this began: the dispatcher knows
        request, done = self._awaited[assignment.key]
        attempt = replace(request, key=f"{request.key}/{assignment.attempt}")
        lost: GivenUp | None = None
        try:
            output = await asyncio.wait_for(actor.generate.remote(attempt), limit)
        except RayActorError as error:
            if seat.actor is actor:
                self.roster.lose(seat, error)
        except TimeoutError:
            lost = self.dispatcher.failed(assignment, f"no answer within {limit:.0f} s")
        except (RayError, ZjError) as error:
            lost = self.dispatcher.failed(assignment, brief(error))
        else:
            if self.dispatcher.succeeded(assignment) and not done.done():
                done.set_result(SpokenTurn(output, assignment.engine, assignment.attempt))
        if lost is not None:
            self.give_up(lost)
        self.carry_soon()

    def _ended(self, key: str, task: asyncio.Task[None]) -> None:
        """A fault of ours must not leave the turn waiting."""
        self._attempts.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is not None and key in self._awaited and not self._awaited[key][1].done():
            self._awaited[key][1].set_exception(fault)

    def give_up(self, lost: GivenUp) -> None:
        """Whoever asked for this turn gets a ZjError that says why it has no answer."""
        _, done = self._awaited[lost.key]
        if not done.done():
            what = f"turn {lost.key} was given up after {lost.attempts} attempts: {lost.error}"
            remedy = "see log.txt; raise fleet.turn_retries or fleet.lost_engines to try more often"
            done.set_exception(ZjError(what, where="fleet", remedy=remedy))
