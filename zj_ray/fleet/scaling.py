"""How many engines there should be: pure, with an injected clock.

A number that people asked for (`zj scale`) stands until they ask for another; without one the autoscaler, if it is on,
follows the queue: more as soon as turns have waited for a while without room, fewer once the engines have had little to
do for a good while longer. Both stay within the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

BUSY_SECONDS = 5.0  # turns must have waited for so long before engines are added
LOAD = 0.8  # share of the fleet's capacity that the autoscaler aims at


@dataclass(frozen=True)
class Bounds:
    """The least and the most engines that there may be.

    idle: so long must fewer engines have been enough before some leave [s]; longer than the time between two rollouts.
    """

    least: int
    most: int
    idle: float


class Scaler:
    def __init__(
        self, bounds: Bounds, initial: int, autoscale: bool, capacity: int, clock: Callable[[], float]
    ) -> None:
        """capacity: turns in flight at one engine."""
        self.bounds, self.autoscale, self.capacity, self.clock = bounds, autoscale, capacity, clock
        self.asked: int | None = None
        self._size = self._initial = self._within(initial)
        self._began = clock()
        self._crowded_since: float | None = None
        self._needed: list[tuple[float, int]] = []  # (moment, engines needed): what the last `idle` seconds needed

    def ask(self, engines: int | None) -> None:
        """Note how many engines somebody wants, kept within the bounds.

        None leaves it to the config: to the autoscaler, or `initial`.
        """
        self.asked = engines if engines is None else self._within(engines)

    def desired(self, waiting: int, in_flight: int) -> int:
        """Engines that there should be now. waiting: turns without an engine; in_flight: turns that have one."""
        if self.asked is not None:
            self._size = self.asked
        elif self.autoscale:
            self._size = self._follow(waiting, in_flight)
        else:
            self._size = self._initial
        return self._size

    def _follow(self, waiting: int, in_flight: int) -> int:
        now, needed = self.clock(), self._within(math.ceil((waiting + in_flight) / (LOAD * self.capacity)))
        self._crowded_since = None if waiting == 0 else now if self._crowded_since is None else self._crowded_since
        self._needed = [(moment, n) for moment, n in self._needed if moment > now - self.bounds.idle and n > needed] + [
            (now, needed)
        ]
        if needed > self._size and self._crowded_since is not None and now - self._crowded_since >= BUSY_SECONDS:
            return needed
        if now - self._began < self.bounds.idle:
            return self._size
        return min(self._size, self._needed[0][1])  # the most that was needed lately: older entries are larger

    def _within(self, engines: int) -> int:
        return min(max(engines, self.bounds.least), self.bounds.most)
