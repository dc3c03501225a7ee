"""The fleet's decisions without Ray: who serves, who gets which turn, what becomes of it, how many engines to have."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from zj_ray.fleet.dispatch import Assignment, Dispatcher, Fault, Limits
from zj_ray.fleet.router import FIRST_PAUSE, FIRST_TURNS, LONGEST_PAUSE, Router
from zj_ray.fleet.scaling import BUSY_SECONDS, Bounds, Scaler
from zj_ray.fleet.states import EngineLife, EngineState, IllegalTransition

EVENTS = (
    "placed",
    "loaded",
    "outdated",
    "synced_current",
    "synced_old",
    "succeeded",
    "failed",
    "silent",
    "heard",
    "died",
    "replaced",
    "drain",
    "left",
)
CAPACITY = 8


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def _apply(life: EngineLife, event: str) -> None:
    if event.startswith("synced"):
        life.synced(7 if event == "synced_current" else 6, current=7)
    elif event == "failed":
        life.failed("boom", tolerated=1)
    elif event in ("died", "silent"):
        getattr(life, event)("boom")
    else:
        getattr(life, event)()


@given(st.lists(st.sampled_from(EVENTS), max_size=40))
def test_only_a_confirmed_sync_to_the_current_version_leads_to_serving(events: list[str]) -> None:
    life = EngineLife("e")
    confirmed = False  # by a sync to the current version, and nothing has undone it since
    for event in events:
        before = life.state
        try:
            _apply(life, event)
        except IllegalTransition:
            assert life.state is before
            continue
        confirmed = event == "synced_current" or (
            confirmed and event not in ("outdated", "synced_old", "died", "replaced", "loaded")
        )
        if life.state in (EngineState.SERVING, EngineState.SUSPECT):
            assert confirmed and life.version == 7


def test_dead_never_serves_without_being_replaced_loaded_and_synced() -> None:
    life = EngineLife("e")
    life.placed()
    life.loaded()
    life.synced(7, 7)
    life.died("killed")
    with pytest.raises(IllegalTransition, match="dead"):
        life.synced(7, 7)
    life.replaced()
    life.placed()
    life.loaded()
    assert life.state is EngineState.STALE and life.restarts == 1 and life.version == -1


def _serving(name: str) -> EngineLife:
    return EngineLife(name, EngineState.SERVING, version=1)


def _router(*lives: EngineLife, clock: Clock | None = None, capacity: int = CAPACITY) -> Router:
    router = Router(capacity, clock or Clock(), random.Random(0))
    for life in lives:
        router.add(life)
    return router


def test_the_router_takes_the_least_loaded_serving_engine_and_keeps_a_dialogue_where_its_prefix_is() -> None:
    router = _router(_serving("a"), _serving("b"), EngineLife("c", EngineState.STALE))
    assert router.choose() == "a"
    for _ in range(2):
        router.started("b")
    assert router.choose(previous="b") == "b"
    router.started("b")
    assert router.choose(previous="b") == "a"


def test_an_engine_that_failed_this_turn_is_avoided_while_another_serves() -> None:
    router = _router(_serving("a"), _serving("b"))
    assert router.choose(previous="a", avoid={"a"}) == "b"
    for _ in range(FIRST_TURNS):
        router.started("b")
    assert router.choose(avoid={"a"}) is None  # it waits for the other rather than go back
    router.remove("b")
    assert router.choose(avoid={"a"}) == "a"
    assert _router(EngineLife("a", EngineState.STALE)).choose() is None


def test_an_engine_of_which_nothing_is_heard_gets_no_turn_until_something_is() -> None:
    clock, life = Clock(), _serving("a")
    router = _router(life, clock=clock)
    dispatcher = _dispatcher(router, clock)
    dispatcher.accept("t")
    [late] = dispatcher.assign()
    life.silent("no progress")
    assert dispatcher.engine_left("a", "no progress", blameless=True) == []
    clock.now = 1000.0
    assert dispatcher.assign() == [] and life.state is EngineState.SUSPECT
    assert (
        not dispatcher.succeeded(late) and life.state is EngineState.SUSPECT
    )  # too late: the turn may be elsewhere by now
    life.heard()
    assert dispatcher.assign() == []
    moment = dispatcher.wake_at()
    assert moment is not None and moment <= 1000.0 + 1.5 * FIRST_PAUSE
    clock.now = moment
    [trial] = dispatcher.assign()
    assert dispatcher.succeeded(trial) and life.state is EngineState.SERVING


def test_a_newcomer_starts_slowly_and_earns_its_full_share() -> None:
    router = _router(_serving("a"))
    given_out = 0
    while router.choose() is not None:
        router.started("a")
        given_out += 1
    assert given_out == FIRST_TURNS
    for _ in range(CAPACITY):
        router.finished("a", succeeded=True)
        router.started("a")
    assert router.in_flight["a"] == FIRST_TURNS
    while router.choose() is not None:
        router.started("a")
    assert router.in_flight["a"] == CAPACITY


def test_a_failing_engine_is_put_on_trial_only_after_a_streak_and_its_pauses_grow() -> None:
    clock = Clock()
    life = _serving("a")
    router = _router(life, clock=clock)
    life.failed("x", tolerated=2)
    life.failed("x", tolerated=2)
    life.succeeded()
    life.failed("x", tolerated=2)
    assert life.state is EngineState.SERVING
    for _ in range(10):  # a burst of what was in flight counts as one failure
        life.failed("x", tolerated=2)
    assert life.state is EngineState.SUSPECT and life.ejections == 1 and router.choose() is None
    pauses = []
    for trial in range(1, 9):
        until = router.paused_until()
        assert until is not None
        pauses.append(until - clock.now)
        clock.now = until - 1e-6
        assert router.choose() is None
        clock.now = until
        assert router.choose() == "a"
        router.started("a")
        assert router.choose() is None  # one at a time
        router.finished("a", succeeded=False)
        life.failed("x", tolerated=2)
        assert life.ejections == trial + 1
    assert FIRST_PAUSE <= pauses[0] <= 1.5 * FIRST_PAUSE and LONGEST_PAUSE <= pauses[-1] <= 1.5 * LONGEST_PAUSE
    life.succeeded()
    assert life.state is EngineState.SERVING and life.ejections == 0 and router.choose() == "a"


def _dispatcher(router: Router, clock: Clock, turn: int = 3, engine: int = 4, wait: float = 100.0) -> Dispatcher:
    return Dispatcher(router, Limits({Fault.TURN: turn, Fault.ENGINE: engine}, tolerated=2, wait=wait), clock)


def test_an_engine_that_fails_fast_attracts_no_traffic() -> None:
    """One of four answers every turn at once with an error, the others take a second.

    Least in flight alone would give it nearly everything.
    """
    clock = Clock()
    lives = [_serving(name) for name in "abcd"]
    dispatcher = _dispatcher(_router(*lives, clock=clock), clock)
    running: list[tuple[float, Assignment]] = []
    at: Counter[str] = Counter()
    accepted = done = 0
    while done < 400:
        while accepted - done < 12:
            dispatcher.accept(f"t{accepted}")
            accepted += 1
        while assignments := dispatcher.assign():
            for assignment in assignments:
                at[assignment.engine] += 1
                if assignment.engine == "a":
                    assert dispatcher.failed(assignment, "boom") is None
                else:
                    running.append((clock.now + 1.0, assignment))
        running.sort(key=lambda entry: entry[0])
        clock.now, assignment = running.pop(0)
        assert dispatcher.succeeded(assignment)
        done += 1
    assert at["a"] < 0.05 * sum(at.values()), at


def test_a_turn_that_spends_its_budget_is_given_up_with_the_reason() -> None:
    clock, router = Clock(), None
    router = _router(*[_serving(name) for name in "abcdef"], clock=clock)
    dispatcher = _dispatcher(router, clock, turn=3)
    dispatcher.accept("bad")
    tried, lost = [], None
    while lost is None:
        clock.now = max(clock.now, dispatcher.wake_at() or 0.0)
        [assignment] = dispatcher.assign()
        tried.append(assignment.engine)
        lost = dispatcher.failed(assignment, "cannot")
    assert len(set(tried)) == 3 and (lost.key, lost.attempts) == ("bad", 3) and "cannot" in lost.error
    assert dispatcher.waiting == dispatcher.in_flight == 0


def test_who_leaves_on_purpose_costs_no_budget_and_late_answers_count_for_nothing() -> None:
    clock = Clock()
    lives = [_serving("a"), _serving("b")]
    router = _router(*lives, clock=clock)
    dispatcher = _dispatcher(router, clock, engine=1)
    dispatcher.accept("t", previous="a")
    [first] = dispatcher.assign()
    assert first.engine == "a"
    lives[0].drain()
    assert dispatcher.engine_left("a", "left", blameless=True) == []
    [second] = dispatcher.assign()
    assert (second.engine, second.attempt) == ("b", 2)
    assert not dispatcher.succeeded(first) and dispatcher.succeeded(second) and not dispatcher.succeeded(second)


def test_a_dialogue_that_goes_on_comes_before_those_that_have_not_begun_and_stays_with_its_prefix() -> None:
    clock = Clock()
    dispatcher = _dispatcher(_router(_serving("a"), _serving("b"), clock=clock, capacity=2), clock)
    for number in range(8):
        dispatcher.accept(f"{number}/0")
    at = {assignment.key: assignment for assignment in dispatcher.assign()}
    assert sorted(assignment.engine for assignment in at.values()) == ["a", "a", "b", "b"]
    for number in (1, 2, 0):
        done = at[f"{number}/0"]
        assert dispatcher.succeeded(done)
        dispatcher.accept(f"{number}/1", previous=done.engine)
        assert [(next_turn.key, next_turn.engine) for next_turn in dispatcher.assign()] == [
            (f"{number}/1", done.engine)
        ]
    assert dispatcher.succeeded(at["3/0"])
    assert [assignment.key for assignment in dispatcher.assign()] == ["4/0"]


def test_a_turn_that_finds_no_engine_expires() -> None:
    clock = Clock()
    dispatcher = _dispatcher(_router(clock=clock), clock, wait=10.0)
    dispatcher.accept("t")
    clock.now = 10.0
    assert dispatcher.assign() == [] and dispatcher.expired() == []
    clock.now = 10.1
    [lost] = dispatcher.expired()
    assert lost.key == "t" and "10 s" in lost.error and dispatcher.waiting == 0


def test_a_long_queue_that_moves_expires_nobody() -> None:
    clock = Clock()
    dispatcher = _dispatcher(_router(_serving("a"), clock=clock, capacity=1), clock, wait=10.0)
    for number in range(6):
        dispatcher.accept(str(number))
    for number in range(5):  # the last one waits for 40 s
        [turn] = dispatcher.assign()
        assert turn.key == str(number)
        clock.now += 8.0
        assert dispatcher.expired() == [] and dispatcher.succeeded(turn)
    dispatcher.router.lives["a"].died("killed")
    clock.now += 10.1
    assert [lost.key for lost in dispatcher.expired()] == ["5"]


@dataclass
class Fate:
    accepted: set[str] = field(default_factory=set)
    done: Counter[str] = field(default_factory=Counter)
    reported: Counter[str] = field(default_factory=Counter)


class FleetMachine(RuleBasedStateMachine):
    """Random events in any order: accept, answer (also late), fail, die, come back, publish, drain, time."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.fate, self.version = Clock(), Fate(), 1
        self.router = Router(3, self.clock, random.Random(1))
        self.dispatcher = Dispatcher(self.router, Limits({Fault.TURN: 3, Fault.ENGINE: 3}, 1, 50.0), self.clock)
        self.lives = [EngineLife(name) for name in "abc"]
        for life in self.lives:
            self.router.add(life)
        self.assignments: list[Assignment] = []
        self.order: list[str] = []  # keys as first given out

    def _report(self, lost: object) -> None:
        if lost is not None:
            self.fate.reported[lost.key] += 1  # type: ignore[attr-defined]

    @rule(previous=st.sampled_from([None, "a", "b"]))
    def accept(self, previous: str | None) -> None:
        key = f"t{len(self.fate.accepted)}"
        self.fate.accepted.add(key)
        self.dispatcher.accept(key, previous)

    @rule()
    def assign(self) -> None:
        for assignment in self.dispatcher.assign():
            life = next(life for life in self.lives if life.name == assignment.engine)
            assert life.state in (EngineState.SERVING, EngineState.SUSPECT) and life.version == self.version
            self.assignments.append(assignment)

    @precondition(lambda self: self.assignments)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        assignment = data.draw(st.sampled_from(self.assignments))
        if self.dispatcher.succeeded(assignment):
            self.fate.done[assignment.key] += 1

    @precondition(lambda self: self.assignments)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        self._report(self.dispatcher.failed(data.draw(st.sampled_from(self.assignments)), "boom"))

    @rule(number=st.integers(0, 2))
    def die(self, number: int) -> None:
        life = self.lives[number]
        if life.state is not EngineState.DEAD:
            life.died("killed")
            for lost in self.dispatcher.engine_left(life.name, "killed"):
                self._report(lost)

    @rule(number=st.integers(0, 2))
    def fall_silent(self, number: int) -> None:
        life = self.lives[number]
        if life.state in (EngineState.SERVING, EngineState.STALE):
            life.silent("nothing heard")
            assert self.dispatcher.engine_left(life.name, "nothing heard", blameless=True) == []
        else:
            life.heard()

    @rule(number=st.integers(0, 2))
    def advance(self, number: int) -> None:
        life = self.lives[number]
        if life.state is EngineState.DEAD:
            life.replaced()
        elif life.state is EngineState.PROVISIONING:
            life.placed()
        elif life.state is EngineState.LOADING:
            life.loaded()
        elif life.state is EngineState.STALE:
            life.synced(self.version, self.version)

    @rule()
    def publish(self) -> None:
        self.version += 1
        for life in self.lives:
            life.outdated()

    @rule(seconds=st.floats(0.1, 40.0))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        for lost in self.dispatcher.expired():
            self._report(lost)

    @invariant()
    def every_turn_is_somewhere_exactly_once(self) -> None:
        fate = self.fate
        ended = set(fate.done) | set(fate.reported)
        assert all(n == 1 for n in (*fate.done.values(), *fate.reported.values())) and not set(fate.done) & set(
            fate.reported
        )
        assert self.dispatcher.waiting + self.dispatcher.in_flight == len(fate.accepted - ended)
        assert self.dispatcher.in_flight == sum(self.router.in_flight.values())
        assert all(0 <= self.router.in_flight[life.name] <= 3 for life in self.lives)

    def teardown(self) -> None:
        """Once engines serve and answer, everything that is left is finished: nothing starves."""
        for life in self.lives:
            if life.state is not EngineState.DEAD:
                life.died("killed")
                for lost in self.dispatcher.engine_left(life.name, "killed"):
                    self._report(lost)
            for _ in range(4):
                self.advance(self.lives.index(life))
        for _ in range(20 + 10 * len(self.fate.accepted)):
            for assignment in self.dispatcher.assign():
                assert self.dispatcher.succeeded(assignment)
                self.fate.done[assignment.key] += 1
            self.clock.now = max(self.clock.now, self.dispatcher.wake_at() or 0.0)
        assert set(self.fate.done) | set(self.fate.reported) == self.fate.accepted
        self.every_turn_is_somewhere_exactly_once()


TestFleetMachine = FleetMachine.TestCase
TestFleetMachine.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def _scaler(clock: Clock, autoscale: bool = True, initial: int = 2) -> Scaler:
    return Scaler(Bounds(1, 6, idle=60.0), initial, autoscale, capacity=10, clock=clock)


def test_a_number_that_was_asked_for_stands_within_the_bounds() -> None:
    scaler = _scaler(Clock(), autoscale=False)
    assert scaler.desired(1000, 0) == 2  # without the autoscaler a queue changes nothing
    for wish, engines in ((4, 4), (0, 1), (99, 6)):
        scaler.ask(wish)
        assert scaler.desired(0, 0) == engines


def test_a_wish_that_is_taken_back_leaves_what_the_config_says() -> None:
    fixed, following = (Scaler(Bounds(1, 6, idle=30.0), 2, autoscale, CAPACITY, Clock()) for autoscale in (False, True))
    for scaler in (fixed, following):
        assert scaler.desired(0, 0) == 2
        scaler.ask(9)
        assert scaler.desired(0, 0) == 6
        scaler.ask(None)
    assert fixed.desired(0, 0) == 2
    assert following.desired(0, 0) == 6  # the autoscaler goes on from there, and shrinks when idle long enough


def test_the_autoscaler_adds_engines_once_turns_have_waited_and_lets_them_go_when_long_idle() -> None:
    clock = Clock()
    scaler = _scaler(clock)
    assert scaler.desired(waiting=20, in_flight=20) == 2
    clock.now = BUSY_SECONDS - 0.1
    assert scaler.desired(20, 20) == 2
    clock.now = BUSY_SECONDS
    assert scaler.desired(20, 20) == 5  # 40 turns at 80 % of 10 each
    assert scaler.desired(0, 0) == 5
    clock.now += 59.0
    assert scaler.desired(0, 8) == 5
    clock.now += 2.0
    assert scaler.desired(0, 0) == 1  # 8 turns in the last minute needed one
    clock.now += 1.0
    assert scaler.desired(500, 10) == 1
    clock.now += BUSY_SECONDS
    assert scaler.desired(500, 10) == 6


@given(st.lists(st.tuples(st.floats(0.1, 30.0), st.integers(0, 200), st.integers(0, 60)), min_size=1, max_size=60))
def test_the_autoscaler_stays_within_its_bounds(events: list[tuple[float, int, int]]) -> None:
    clock = Clock()
    scaler = _scaler(clock)
    for seconds, waiting, in_flight in events:
        clock.now += seconds
        assert 1 <= scaler.desired(waiting, in_flight) <= 6
