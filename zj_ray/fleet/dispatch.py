"""Every turn that was accepted is answered exactly once or reported by name: pure bookkeeping, no Ray, no torch.

Turns wait here until an engine has room, those of dialogues that have begun first, else the oldest: a dialogue that
goes on takes the room that its own last turn left, where its prefix is. A turn that failed waits out a pause and goes
elsewhere. Failures come in two kinds with a budget each: the turn's own (an engine answered with an error, or not in
time) and the engines' (the one that had it is gone). An answer to an attempt that was taken away meanwhile counts for
nothing.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from zj_ray.fleet.router import Router

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0  # before a turn is tried again [s]


class Fault(Enum):
    TURN = "turn"  # an engine that lives did not answer it
    ENGINE = "engine"  # its engine is gone


@dataclass(frozen=True)
class Limits:
    """What is borne. faults: of each kind, by one turn; tolerated: failures in a row before an engine is on trial.

    wait: longest that a turn waits while nothing can be given out [s].
    """

    faults: dict[Fault, int]
    tolerated: int
    wait: float


@dataclass(frozen=True, slots=True)
class Assignment:
    """One attempt at a turn; attempts count from 1."""

    key: str
    attempt: int
    engine: str


@dataclass(frozen=True)
class GivenUp:
    """A turn whose budget is spent."""

    key: str
    attempts: int
    error: str


@dataclass(slots=True)
class _Turn:
    number: int  # the order in which turns were accepted
    previous: str | None
    waiting_since: float
    attempts: int = 0
    faults: tuple[Fault, ...] = ()
    failed_at: tuple[str, ...] = ()
    error: str = "no engine serves"
    now: Assignment | None = None


class Dispatcher:
    def __init__(self, router: Router, limits: Limits, clock: Callable[[], float]) -> None:
        self.router, self.limits, self.clock = router, limits, clock
        self._given_at = clock()  # when a turn was given out last
        self._turns: dict[str, _Turn] = {}
        self._fresh: deque[tuple[int, str]] = deque()  # first turns that were not given out yet, in their order
        self._ready: list[tuple[int, str]] = []  # heap of those that were, and of later turns
        self._pausing: list[tuple[float, int, str]] = []
        self._at: dict[str, dict[str, Assignment]] = {}  # by engine and key
        self._numbers = itertools.count()

    @property
    def in_flight(self) -> int:
        return sum(map(len, self._at.values()))

    @property
    def waiting(self) -> int:
        return len(self._turns) - self.in_flight

    def accept(self, key: str, previous: str | None = None) -> None:
        """previous: the engine that had the dialogue's last turn."""
        assert key not in self._turns, f"turn {key} was accepted twice"
        number = next(self._numbers)
        self._turns[key] = _Turn(number, previous, self.clock())
        if previous is None:
            self._fresh.append((number, key))
        else:
            heapq.heappush(self._ready, (number, key))

    def drop(self, key: str) -> None:
        """Forget a turn that nobody waits for any more."""
        turn = self._turns.pop(key, None)
        if turn is not None and turn.now is not None:
            self._take_back(turn.now, succeeded=False)

    def assign(self) -> list[Assignment]:
        """Give out every turn for which there is room now."""
        now = self.clock()
        while self._pausing and self._pausing[0][0] <= now:
            _, number, key = heapq.heappop(self._pausing)
            heapq.heappush(self._ready, (number, key))
        given: list[Assignment] = []
        passed_over: list[tuple[int, str]] = []
        while (self._ready or self._fresh) and self.router.has_room:
            number, key = self._first()
            turn = self._turns.get(key)
            if turn is None or turn.number != number:
                continue
            engine = self.router.choose(turn.previous, turn.failed_at)
            if engine is None:
                passed_over.append((number, key))  # only those that it failed at have room
                continue
            given.append(self._give(key, turn, engine))
        for entry in passed_over:
            heapq.heappush(self._ready, entry)
        return given

    def _first(self) -> tuple[int, str]:
        return heapq.heappop(self._ready) if self._ready else self._fresh.popleft()

    def _give(self, key: str, turn: _Turn, engine: str) -> Assignment:
        turn.attempts += 1
        self._given_at = self.clock()
        turn.now = Assignment(key, turn.attempts, engine)
        self._at.setdefault(engine, {})[key] = turn.now
        self.router.started(engine)
        return turn.now

    def succeeded(self, assignment: Assignment) -> bool:
        """Whether this answer counts; the turn is then done."""
        if not self._is_current(assignment):
            return False
        self._take_back(assignment, succeeded=True)
        self.router.lives[assignment.engine].succeeded()
        del self._turns[assignment.key]
        return True

    def failed(self, assignment: Assignment, error: str) -> GivenUp | None:
        """Note that the engine lives but did not answer; returns the turn if its budget is spent."""
        if not self._is_current(assignment):
            return None
        self._take_back(assignment, succeeded=False)
        self.router.lives[assignment.engine].failed(error, self.limits.tolerated)
        return self._again(assignment, Fault.TURN, error)

    def engine_left(self, engine: str, error: str, blameless: bool = False) -> list[GivenUp]:
        """Take an engine's turns away from it; returns those whose budget is spent, the others go elsewhere.

        blameless: it left on purpose, which costs no budget.
        """
        given_up = []
        for assignment in list(self._at.pop(engine, {}).values()):
            self.router.finished(engine, succeeded=False)
            given_up.append(self._again(assignment, None if blameless else Fault.ENGINE, error))
        return [lost for lost in given_up if lost is not None]

    def expired(self) -> list[GivenUp]:
        """Give up turns that have waited too long. While others are given out, a turn has only to wait longer."""
        oldest = self.clock() - self.limits.wait
        if self._given_at >= oldest:
            return []
        late = [key for key, turn in self._turns.items() if turn.now is None and turn.waiting_since < oldest]
        what = f"no engine had room for any turn within {self.limits.wait:.0f} s"
        return [self._give_up(key, f"{what}; last: {self._turns[key].error}") for key in late]

    def abandoned(self) -> list[GivenUp]:
        """Give up all turns that wait, as there will be no engine any more."""
        return [
            self._give_up(key, f"no engine is left; last: {turn.error}")
            for key, turn in list(self._turns.items())
            if turn.now is None
        ]

    def wake_at(self) -> float | None:
        """The next moment at which something changes by time alone, if there is one."""
        moments = [self._pausing[0][0]] if self._pausing else []
        trial = self.router.paused_until()
        if trial is not None and (self._ready or self._fresh):
            moments.append(trial)
        return min(moments, default=None)

    def _is_current(self, assignment: Assignment) -> bool:
        turn = self._turns.get(assignment.key)
        return turn is not None and turn.now is assignment

    def _take_back(self, assignment: Assignment, succeeded: bool) -> None:
        self._at[assignment.engine].pop(assignment.key)
        self.router.finished(assignment.engine, succeeded)

    def _again(self, assignment: Assignment, fault: Fault | None, error: str) -> GivenUp | None:
        key, turn, now = assignment.key, self._turns[assignment.key], self.clock()
        turn.now, turn.error, turn.waiting_since = None, f"{assignment.engine}: {error}", now
        if fault is None:
            heapq.heappush(self._ready, (turn.number, key))
            return None
        turn.faults += (fault,)
        met = turn.faults.count(fault)
        if met >= self.limits.faults[fault]:
            return self._give_up(key, turn.error)
        turn.failed_at += (assignment.engine,)
        pause = 0.0 if fault is Fault.ENGINE else min(FIRST_PAUSE * 2 ** (met - 1), LONGEST_PAUSE)
        heapq.heappush(self._pausing, (now + pause, turn.number, key))
        return None

    def _give_up(self, key: str, error: str) -> GivenUp:
        return GivenUp(key, self._turns.pop(key).attempts, error)
