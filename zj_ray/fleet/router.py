"""Which engine gets the next turn: pure bookkeeping with an injected clock and randomness, no Ray, no torch.

Least in flight, but only among engines that serve: one that fails fast is always idle, and least-in-flight alone would
send it everything. A failure streak puts an engine on trial (one turn at a time, after a pause that doubles), and a
newcomer starts slowly: its limit grows by one with every answer. Ties go to the engine with the dialogue's prefix.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Collection

from zj_ray.fleet.states import EngineLife, EngineState

FIRST_TURNS = 4  # in flight at most at an engine that has answered nothing yet
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # before an engine on trial gets its next turn [s]


class Router:
    """`in_flight` counts turns by engine name; choosing costs microseconds for hundreds of engines."""

    def __init__(self, capacity: int, clock: Callable[[], float], draw: random.Random, slack: int = 2) -> None:
        """capacity: turns in flight at one engine at most.

        slack: so many more than the least loaded may the engine that holds the prefix have, and still be chosen.
        """
        self.capacity, self.clock, self.draw, self.slack = capacity, clock, draw, slack
        self.in_flight: Counter[str] = Counter()
        self.lives: dict[str, EngineLife] = {}
        self._limit: dict[str, int] = {}  # turns in flight allowed now, of engines that serve or are on trial
        self._room: dict[str, int] = {}  # turns in flight, of engines that may have another
        # Heap of (turns in flight, number, name), with entries that are out of date.
        self._order: list[tuple[int, int, str]] = []
        self._numbers = itertools.count()
        self._pausing: dict[str, float] = {}  # until when, before it may have a turn on trial

    def add(self, life: EngineLife) -> None:
        self.lives[life.name] = life
        life.watch = self._changed
        self._changed(life)

    def remove(self, name: str) -> None:
        for book in (self.lives, self._limit, self._room, self._pausing, self.in_flight):
            book.pop(name, None)

    def choose(self, previous: str | None = None, avoid: Collection[str] = ()) -> str | None:
        """An engine's name, or None while none has room.

        avoid: engines that failed this very turn, chosen only if no other serves.
        """
        if not self.has_room:
            return None
        room = self._room
        if avoid and any(life.state is EngineState.SERVING and name not in avoid for name, life in self.lives.items()):
            room = {name: load for name, load in room.items() if name not in avoid}
        if not room:
            return None
        least = self._least() if room is self._room else min(room, key=room.__getitem__)
        if previous in room and room[previous] <= room[least] + self.slack:
            return previous
        return least

    @property
    def has_room(self) -> bool:
        if self._pausing:
            self._let_try()
        return bool(self._room)

    def started(self, name: str) -> None:
        self.in_flight[name] += 1
        self._refresh(name)

    def finished(self, name: str, succeeded: bool) -> None:
        if name not in self.lives:
            return
        self.in_flight[name] -= 1
        if succeeded and name in self._limit:
            self._limit[name] = min(self._limit[name] + 1, self.capacity)
        self._refresh(name)

    def paused_until(self) -> float | None:
        """The moment at which the next suspect engine may have a turn, if there is one."""
        return min(self._pausing.values(), default=None)

    def _changed(self, life: EngineLife) -> None:
        name = life.name
        if life.state is EngineState.SUSPECT:
            self._suspend(life)
            return
        self._pausing.pop(name, None)
        if life.state is EngineState.SERVING:
            self._limit[name] = max(self._limit.get(name, 0), min(FIRST_TURNS, self.capacity))
        elif life.state is not EngineState.STALE:  # who is only out of date keeps the limit that it has earned
            self._limit.pop(name, None)
        self._refresh(name)

    def _suspend(self, life: EngineLife) -> None:
        """Pause an engine that failed too often, or on trial.

        What it had in flight before the pause began counts as the same failure.
        """
        name = life.name
        if life.unheard:
            self._pausing.pop(name, None)
        elif self._limit.get(name, 0) > 0 or name not in self._pausing:
            life.ejections += 1
            pause = min(FIRST_PAUSE * 2 ** (life.ejections - 1), LONGEST_PAUSE)
            self._pausing[name] = self.clock() + pause * self.draw.uniform(1.0, 1.5)  # not all at the same moment
        self._limit[name] = 0
        self._refresh(name)

    def _let_try(self) -> None:
        now = self.clock()
        for name in [name for name, moment in self._pausing.items() if moment <= now]:
            del self._pausing[name]
            self._limit[name] = 1
            self._refresh(name)

    def _refresh(self, name: str) -> None:
        life, load = self.lives[name], self.in_flight[name]
        works = life.state in (EngineState.SERVING, EngineState.SUSPECT)
        if works and load < self._limit.get(name, 0):
            self._room[name] = load
            heapq.heappush(self._order, (load, next(self._numbers), name))
        else:
            self._room.pop(name, None)

    def _least(self) -> str:
        """The engine with the fewest turns in flight of those that have room.

        Entries that are out of date are dropped when they come up, or all at once when they are many.
        """
        if len(self._order) > 4 * len(self._room) + 64:
            self._order = [(load, next(self._numbers), name) for name, load in self._room.items()]
            heapq.heapify(self._order)
        while self._room.get(self._order[0][2]) != self._order[0][0]:
            heapq.heappop(self._order)
        return self._order[0][2]
