"""New weights into the engines: through the object store, or sent by the policy's ranks to all engines at once.

An engine serves only after it has confirmed, by checksum, what is published *now*. One that does not leaves; the others
go on. A newcomer pulls by itself, whenever it comes (`admit`), and so does an engine that was not heard when the others
took theirs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayActorError, RayError

from zj_ray.config.schema import FleetConfig
from zj_ray.errors import RoleLost, WaitTimeout, ZjError, brief
from zj_ray.fleet.control.roster import ALIVE, LOST, Roster, Seat
from zj_ray.fleet.states import EngineState
from zj_ray.weights.bucket import PublishedWeights
from zj_ray.weights.direct.transfer import STEPS, Sent

logger = logging.getLogger(__name__)

SILENCE_POLL_SECONDS = 0.2
DAMAGED = "it is replaced; if this comes again, suspect the network or the memory of its node"
GRACE = 30.0  # beyond the limit of what is waited for, so that its own error comes first [s]


@dataclass(frozen=True)
class SyncReport:
    """What a publication brought.

    bytes: of one copy of the weights; seconds: until the last engine had confirmed or left.
    """

    version: int
    bytes: int
    seconds: float
    confirmed: tuple[str, ...]
    checksum_failures: int


class Publisher:
    def __init__(self, roster: Roster, on_serving: Callable[[], None]) -> None:
        """on_serving: called whenever an engine has come to serve."""
        self.roster, self.on_serving = roster, on_serving
        self.config: FleetConfig = roster.config
        # Whole weights, and the adapter that stands on them if there is one.
        self.published: tuple[PublishedWeights, ...] = ()
        self.checksum_failures = 0
        self.asleep = self.busy = False
        self._left_behind: set[asyncio.Task[None]] = set()

    @property
    def version(self) -> int:
        return self.published[-1].manifest.version if self.published else -1

    @property
    def sync_limit(self) -> float:
        """Longest that one engine may take to confirm [s]: the turns in flight, the pull and the load."""
        return self.config.turn_timeout + 2 * self.config.sync_timeout

    @property
    def _transfer_limit(self) -> float:
        """Longest that the policy may take to send; its own waits for the engines end before [s]."""
        return (STEPS + 1) * self.config.sync_timeout + GRACE

    @property
    def limit(self) -> float:
        """Longest that a publication may take [s].

        With a transfer: the last turns, the transfer, and packing and pulling if it broke.
        """
        if self.config.transport == "object_store":
            return 2 * self.sync_limit + GRACE
        return 3 * self.sync_limit + self._transfer_limit

    async def publish(self, weights: PublishedWeights) -> SyncReport:
        """Bring every engine that is heard to `weights`. Those that don't confirm them in time are out."""
        self.busy = True
        try:
            return await self._publish(weights)
        finally:
            self.busy = False

    async def _publish(self, weights: PublishedWeights) -> SyncReport:
        started = time.monotonic()
        self.published = (self.published[0], weights) if weights.manifest.adapter else (weights,)
        self.asleep = False
        for seat in self.roster.seats.values():
            seat.life.outdated()
        before, nbytes = self.checksum_failures, weights.manifest.nbytes
        if weights.senders:
            nbytes = await self._transfer(weights)
        late = self._to_serve()
        if late and await self._pack():
            await self._each(late, self._bring_up_to_date)
        confirmed = tuple(seat.name for seat in self.roster.among([EngineState.SERVING]))
        damaged = self.checksum_failures - before
        return SyncReport(weights.manifest.version, nbytes, time.monotonic() - started, confirmed, damaged)

    def _to_serve(self) -> list[Seat]:
        """The engines that are out of date and waited for.

        Those that are loading weights just now, or may hang, are not: `admit` brings them up to date later.
        """
        stale = self.roster.among([EngineState.STALE])
        return [seat for seat in stale if not seat.busy.locked() and not seat.life.unheard]

    async def admit(self, seat: Seat) -> None:
        """Bring one engine to what is published, until it serves or is out. Sleepers wait for the next publication."""
        async with self._alone(seat):
            tried = None
            while seat.life.state is EngineState.STALE and self.published and not self.asleep and tried != self.version:
                tried = self.version  # another may be published meanwhile
                if await self._pack():
                    await self._take(seat)

    async def _transfer(self, weights: PublishedWeights) -> int:
        """Let the policy's ranks send to all engines at once; returns the bytes sent.

        Engines that take no part pull a packed copy, as do those that got nothing but live.
        """
        async with AsyncExitStack() as alone:
            seats = self._to_serve()
            for seat in seats:
                await alone.enter_async_context(self._alone(seat))
            seats = await self._settled([seat for seat in seats if seat.life.state is EngineState.STALE])
            if not seats:
                return 0
            version = weights.manifest.version
            report = await self._send(weights, {seat.name: seat.actor for seat in seats})
            transport = self.config.transport
            for seat in seats:
                if (why := report.failed.get(seat.name)) is not None:
                    logger.warning("%s got nothing of version %d by %s: %s", seat.name, version, transport, why)
                    seat.life.last_error = why
            receivers = [seat for seat in seats if seat.name in report.received]
            await asyncio.gather(*[self._confirm(seat, report, version) for seat in receivers])
            return report.nbytes

    async def _settled(self, seats: Sequence[Seat]) -> list[Seat]:
        """The engines that have finished their turns. The dead are left out: a transfer would wait for them."""

        async def settle(seat: Seat) -> None:
            await self.roster.answer(seat, "finish_turns", self.sync_limit, what="finish its turns")

        return [seat for seat in await self._each(seats, settle) if seat.life.state is EngineState.STALE]

    async def _each(self, seats: Sequence[Seat], do: Callable[[Seat], Coroutine[Any, Any, None]]) -> list[Seat]:
        """Do something with all engines at once; returns those with which it is done.

        An engine that falls silent is not waited for: there it goes on in the background. do: has a limit of its own.
        """
        tasks = {asyncio.get_running_loop().create_task(do(seat)): seat for seat in seats}
        waiting = set(tasks)
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=SILENCE_POLL_SECONDS)
            for task in done:
                if (fault := task.exception()) is not None:
                    raise fault
            for task in [task for task in waiting if tasks[task].life.unheard]:
                logger.warning("%s is not waited for: %s", tasks[task].name, tasks[task].life.last_error)
                waiting.remove(task)
                self._left_behind.add(task)
                task.add_done_callback(self._left_behind.discard)
        return [seat for task, seat in tasks.items() if task.done()]

    async def _send(self, weights: PublishedWeights, engines: dict[str, Any]) -> Sent:
        """Let the policy's ranks send; returns what rank 0 reports. Raises ZjError when the policy itself failed."""
        version, limit = weights.manifest.version, self._transfer_limit
        sends = [
            sender.send_weights.remote(version, engines, self.config.transport, self.config.sync_timeout)
            for sender in weights.senders
        ]
        return (await self._of_policy(sends, limit, f"send weights of version {version} to {', '.join(engines)}"))[0]

    async def _of_policy(self, work: Sequence[Any], limit: float, what: str) -> list[Any]:
        """The answers of all the policy's ranks.

        Raises WaitTimeout when one is late, RoleLost when one died, ZjError when one failed.
        """
        try:
            return await asyncio.wait_for(asyncio.gather(*work), limit)
        except TimeoutError:
            what = f"did not {what} within {limit:.0f} s"
            raise WaitTimeout(what, where="role policy", remedy="raise fleet.sync_timeout") from None
        except RayError as error:
            kind = RoleLost if isinstance(error, RayActorError) else ZjError
            remedy = "`zj run` again resumes from the last checkpoint; see log.txt"
            raise kind(f"could not {what}: {brief(error)}", where="role policy", remedy=remedy) from error

    async def _confirm(self, seat: Seat, report: Sent, version: int) -> None:
        """Let an engine serve if it got what was sent, else take it out."""
        if report.received[seat.name] != report.fingerprint:
            self.checksum_failures += 1
            what = f"weights of version {version} arrived damaged"
            self.roster.lose(seat, ZjError(what, where=f"engine {seat.name}", remedy=DAMAGED))
            return
        what, limit = f"confirm version {version}", self.config.sync_timeout
        if await self.roster.answer(seat, "confirm", limit, version, what=what) is not LOST:
            self._serves(seat, version)

    async def _pack(self) -> bool:
        """Whether what is published can be pulled; what the policy sent is packed for that.

        Where the policy has moved on meanwhile, or is gone, there is nothing to pack: engines wait for the next
        publication.
        """
        last = self.published[-1]
        if not last.senders:
            return True
        version = last.manifest.version
        try:
            packs = [sender.packed_weights.remote(version) for sender in last.senders]
            packed = (await self._of_policy(packs, self.sync_limit, f"pack weights of version {version}"))[0]
        except WaitTimeout:
            raise
        except ZjError:
            packed = None
        if packed is not None and self.version == version:
            self.published = (packed,)
        return packed is not None

    async def _bring_up_to_date(self, seat: Seat) -> None:
        async with self._alone(seat):
            if seat.life.state is EngineState.STALE:
                await self._take(seat)

    @asynccontextmanager
    async def _alone(self, seat: Seat) -> AsyncIterator[None]:
        """For the length of the block nobody else loads weights into this engine.

        Raises WaitTimeout when somebody has not done with it in time.
        """
        limit = 2 * self.sync_limit + GRACE
        try:
            await asyncio.wait_for(seat.busy.acquire(), limit)
        except TimeoutError:
            what = f"was still loading other weights after {limit:.0f} s when version {self.version} was to come"
            raise WaitTimeout(what, where=f"engine {seat.name}", remedy="raise fleet.sync_timeout") from None
        try:
            yield
        finally:
            seat.busy.release()

    async def _take(self, seat: Seat) -> None:
        """Let one engine pull what is published and confirm it, else take it out."""
        version, what = self.version, f"confirm weights of version {self.version}"
        receipt = await self.roster.answer(seat, "apply", self.sync_limit, *self.published, what=what)
        if receipt is LOST or seat.life.state is not EngineState.STALE:
            return
        if receipt.corrupted_buckets:
            self.checksum_failures += receipt.corrupted_buckets
            what = f"{receipt.corrupted_buckets} buckets of version {version} arrived damaged"
            self.roster.lose(seat, ZjError(what, where=f"engine {seat.name}", remedy=DAMAGED))
        else:
            self._serves(seat, receipt.version)

    def _serves(self, seat: Seat, version: int) -> None:
        """Let an engine serve if what it confirmed is still what is published: it need not wait for the others."""
        seat.life.synced(version, self.version)
        self.on_serving()

    async def sleep(self) -> None:
        """Let all engines sleep until the next publication, also those without work, which hold as much memory."""

        async def one(seat: Seat) -> None:
            seat.life.outdated()
            await self.roster.answer(seat, "sleep", self.sync_limit, what="go to sleep")

        self.asleep = True
        await asyncio.gather(*map(one, self.roster.among(ALIVE)))
