"""Planning past this machine: the fleet's real controller with hundreds of simulated engines. `python -m bench.fleet`

The dispatcher, the router, the engines' life, the roster's rule of how long a dead engine's seat waits, and the
supervisor's rule of who is replaced are the real ones, on a virtual clock; nothing of them is written anew here.
Simulated is what an engine does with time: it decodes all its turns together, a decoding step of b turns takes base +
slope · b seconds, and a prompt that its prefix cache does not hold is read first, while the others wait. Engines fail
at random, half of them by hanging; what they had in flight goes elsewhere, and they are back after a pause, a start and
a pull of the weights.

base : slope is measured, on this machine's CPU: `python -m bench.fleet --measure`. Seconds are not: FULL_STEP below.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import itertools
import math
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.ceilings import table
from zj_ray.config.schema import FleetConfig
from zj_ray.errors import ZjError
from zj_ray.evaluation.plots import line_plot
from zj_ray.fleet.control.roster import ALIVE, Roster, Seat
from zj_ray.fleet.control.supervisor import TICK_SECONDS, Supervisor
from zj_ray.fleet.dispatch import Assignment, GivenUp
from zj_ray.fleet.scaling import Bounds, Scaler
from zj_ray.fleet.states import EngineState

DOCS = Path(__file__).parents[1] / "docs"
SIZES = (4, 16, 64, 256, 512)

# `python -m bench.fleet --measure` on 2026-11-25: vLLM 0.32 (CPU), one thread of an AVX-512 EPYC, the 7.3 M model of
# bench/subject.py, float32: 4.39 ms + 0.330 ms a turn for batches of 1 to 64 (every point within 7 % of the line),
# 0.091 ms for a prompt's token.
SLOPE = 0.075  # of a decoding step for each turn in it, in units of its base
READING = 0.021  # of one prompt token, in the same units

# Assumed, as no GPU was at hand: a decoding step of a 7B model with a full batch, in the middle of 30 to 60 ms.
FULL_STEP = 0.05
MEMORY_BOUND = 0.01  # a slope as that of a large model whose weights are what a decoding step reads: assumed too

# Fitted by mean and deviation of the logarithm of the characters in 850 real consultations (3,848 doctor turns, 850
# openings, 2,998 patient turns): exp(mean) 95.7, 37.1 and 25.7 characters, deviations as here; 1.5 characters a token
# assumed. The doctor's mean is raised to 200 tokens, as what a model says after fine-tuning is longer than what doctors
# type (75 tokens).
SPREAD, HEAVY_SPREAD = 0.585, 1.0
MEAN_TOKENS, DOCTORS_MEAN = 200.0, 75.0
LONGEST_TURN = 1024
OPENING, REPLY = (25.0, 0.55), (17.0, 0.48)  # median and spread [tokens]
TURNS = {1: 0.026, 2: 0.025, 3: 0.093, 4: 0.856}  # shares of consultations, of those longer than four the first four

CAPACITY = FleetConfig().max_in_flight
WAVES = 4  # consultations of a step for each turn that the fleet holds at once
# Assumed [s]: a new engine loads its model, and pulls the weights, while which it speaks the turns that it has.
START, PULL = 60.0, 5.0
# Assumed [s]: from a step's last consultation until its weights are published, where engines work on meanwhile.
UPDATE = 60.0
FAILURES = (0.0, 1.0, 4.0)  # an hour and engine
LATE = 1.0  # so long after an engine's loss come the answers that it had sent [s]


@dataclass(frozen=True)
class Scenario:
    """What is simulated.

    failures: an hour and engine; steps: that are counted; warm_up: waves before the first of them, else it would pay
    for the fleet's own slow start; update, pull: seconds; staleness: as `ppo.max_staleness`. With staleness 0 a step's
    consultations are all that is looked at: update and pull are 0. With more, updates and publications go on beside
    consultations and take something from them.
    """

    engines: int
    failures: float = 1.0
    waves: float = WAVES
    steps: int = 1
    mean_tokens: float = MEAN_TOKENS
    spread: float = SPREAD
    slope: float = SLOPE
    staleness: int = 0
    update: float = 0.0
    pull: float = 0.0
    warm_up: float = 0.5
    start: float = START
    seed: int = 0

    @property
    def base(self) -> float:
        """Seconds of a decoding step, less what grows with its turns."""
        return FULL_STEP / (1 + self.slope * CAPACITY)


@dataclass
class Consultation:
    """One consultation's turns.

    prompts, answers: tokens of each turn. holder: the engine that answered the last one, as its name, restarts and
    weights; its cache has all before.
    """

    step: int
    prompts: list[int]
    answers: list[int]
    held: int = 0  # turns
    holder: tuple[str, int, int] | None = None

    def reading(self, reader: tuple[str, int, int]) -> int:
        """Prompt tokens that this engine has not in its cache."""
        before = 0 if self.holder == reader else sum(self.prompts[: self.held]) + sum(self.answers[: self.held])
        return before + self.prompts[self.held]


@dataclass
class SimulatedEngine:
    """Its turns share a clock that counts decoding steps: a turn of n tokens ends n steps after it began."""

    seat: Seat
    base: float
    slope: float
    steps: float = 0.0
    then: float = 0.0  # when that was; ahead of now while a prompt is read
    # A heap: the step at which a turn ends, its key, its tokens.
    ends: list[tuple[float, str, int, Assignment]] = field(default_factory=list)
    made: float = 0.0  # tokens, less those of turns that were lost
    hangs: bool = False
    announced: int = 0  # changes of what it does; an end that was announced before the last one is void

    @property
    def who(self) -> tuple[str, int, int]:
        return self.seat.name, self.seat.life.restarts, self.seat.life.version

    def advance(self, now: float) -> None:
        if now <= self.then:
            return
        if self.ends and not self.hangs:
            steps = (now - self.then) / self._step
            self.steps += steps
            self.made += steps * len(self.ends)
        self.then = now

    def begin(self, now: float, assignment: Assignment, tokens: int, reading: float) -> None:
        """Begin a turn. reading: seconds in which the engine decodes nothing."""
        self.advance(now)
        self.then += reading
        heapq.heappush(self.ends, (self.steps + tokens, assignment.key, tokens, assignment))

    def next_end(self) -> float:
        return self.then + max(self.ends[0][0] - self.steps, 0.0) * self._step

    def lose(self, now: float) -> list[Assignment]:
        """Lose the turns in flight, and return them."""
        self.advance(now)
        assignments = [assignment for *_, assignment in self.ends]
        self.made -= sum(tokens - (end - self.steps) for end, _, tokens, _ in self.ends)
        self.ends, self.then = [], now
        return assignments

    @property
    def _step(self) -> float:
        return self.base * (1 + self.slope * len(self.ends))


class SimulatedSupervisor(Supervisor):
    """The supervisor, which decides as ever; what it begins takes virtual time."""

    def __init__(self, roster: Roster, begin: Callable[[Seat], None], engines: int) -> None:
        scaler = Scaler(Bounds(engines, engines, 0.0), engines, False, CAPACITY, roster.clock)
        super().__init__(roster, None, scaler, lambda: None, lambda: None)  # type: ignore[arg-type]
        self._begin = begin  # type: ignore[method-assign]

    def tick(self) -> None:
        """One pass, without what asks the engines."""
        self._resize()
        self._replace(self.roster.clock())


@dataclass(frozen=True)
class Outcome:
    """The figures of a simulation.

    wall, necessary: seconds, of the fleet and of full engines that never fail; latencies: seconds of each turn, from
    the first engine that got it to its answer.
    """

    scenario: Scenario
    wall: float
    necessary: float
    up: float  # engine-seconds in which an engine could serve
    turns: int
    latencies: np.ndarray
    failures: int
    again: int  # attempts at turns that were lost
    late: int  # answers that came after their engine's loss, and counted for nothing
    given_up: int
    cached: float  # share of the follow-up turns whose engine had all before in its cache
    controller: float  # processor seconds of the calls to dispatcher, router and supervisor

    @property
    def efficiency(self) -> float:
        """Engine-seconds that the answers need on full engines, of those that there were."""
        return self.necessary / (self.scenario.engines * self.wall)

    @property
    def efficiency_up(self) -> float:
        """Engine-seconds that the answers need on full engines, of those in which engines were up."""
        return self.necessary / self.up

    @property
    def core_share(self) -> float:
        return self.controller / self.wall

    @property
    def per_turn(self) -> float:
        return self.controller / self.turns


class Simulation:
    """A fleet's controller on a virtual clock, with simulated engines."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario, self.now, self.controller = scenario, 0.0, 0.0
        self.lengths, self.fate = random.Random(f"lengths {scenario.seed}"), random.Random(f"fate {scenario.seed}")

        def clock() -> float:
            return self.now

        self.roster = Roster(FleetConfig(), lambda *_: None, scenario.start, None, self._give_up, clock=clock)
        self.dispatcher, self.router = self.roster.dispatcher, self.roster.router
        self.supervisor = SimulatedSupervisor(self.roster, self._start, scenario.engines)
        self.engines: dict[str, SimulatedEngine] = {}
        self.version = 1
        self.made_before = 0.0  # by engines that were replaced
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = itertools.count()
        self.consultations: dict[str, Consultation] = {}  # by the key of the turn that is asked for
        self.left: Counter[int] = Counter()  # consultations of each step that have not ended
        self.begun = self.learnt = -1 if scenario.warm_up else 0  # the next step to begin, and to learn from
        self.learning = self.publishing = False
        self.awaited: set[str] = set()  # engines that the publication waits for
        self.pulled_at = 0.0  # when an engine that is told of the last publication at once has its weights
        self.zero = (0.0, 0.0, 0.0)  # wall, necessary, up at the end of the warm-up
        self.first_assigned: dict[str, float] = {}  # when a turn's first engine got it, by key
        self.latencies: list[float] = []
        self.accepted: set[str] = set()
        self.ended: Counter[str] = Counter()  # by key: answers that counted, and turns that were given up
        self.failures = self.again = self.late = self.given_up = self.followed = self.cached = 0
        self.reading = 0.0  # seconds that reading every prompt once takes
        self.down = 0.0  # engine-seconds
        self.down_since: dict[str, float] = {}
        self.wake: float | None = None
        self.outcome: Outcome | None = None

    def run(self) -> Outcome:
        """The figures up to the last consultation of the last step that counts.

        As many more as may run ahead of it go on then, so that it ends as any other. Raises AssertionError unless every
        turn was answered, or given up by name, exactly once.
        """
        for _ in range(self.scenario.engines):
            self._serve(self.roster.hire(), first=True)
        self._at(TICK_SECONDS, self._tick)
        self._begin_steps()
        while self.outcome is None or self.left.total():
            self.now, _, act = heapq.heappop(self.events)
            act()
        once = set(self.ended) == self.accepted and set(self.ended.values()) == {1}
        assert once, "a turn was lost, or answered twice"
        assert self.dispatcher.in_flight == self.dispatcher.waiting == 0
        assert self.outcome is not None
        return self.outcome

    def _so_far(self) -> Outcome:
        wall, necessary, up = (after - before for after, before in zip(self._figures(), self.zero, strict=True))
        return Outcome(
            scenario=self.scenario,
            wall=wall,
            necessary=necessary,
            up=up,
            turns=len(self.latencies) + self.given_up,
            latencies=np.array(self.latencies),
            failures=self.failures,
            again=self.again,
            late=self.late,
            given_up=self.given_up,
            cached=self.cached / max(self.followed, 1),
            controller=self.controller,
        )

    def _count_from_here(self) -> None:
        self.zero = self._figures()
        self.latencies.clear()
        self.failures = self.again = self.late = self.given_up = self.followed = self.cached = 0
        self.controller = 0.0

    def _figures(self) -> tuple[float, float, float]:
        for engine in self.engines.values():
            engine.advance(self.now)
        made = self.made_before + sum(engine.made for engine in self.engines.values())
        down = self.down + sum(self.now - since for since in self.down_since.values())
        ahead = sum(max(engine.then - self.now, 0.0) for engine in self.engines.values())  # is being read
        return self.now, made * FULL_STEP / CAPACITY + self.reading - ahead, self.scenario.engines * self.now - down

    def _at(self, moment: float, act: Callable[[], None]) -> None:
        heapq.heappush(self.events, (moment, next(self.numbers), act))

    def _spend(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do the controller's own work, on its account."""
        started = time.process_time()
        result = work(*arguments)
        self.controller += time.process_time() - started
        return result

    # --- consultations ---

    def _tokens(self, median: float, spread: float) -> int:
        return max(1, min(LONGEST_TURN, round(self.lengths.lognormvariate(math.log(median), spread))))

    def _begin_steps(self) -> None:
        """Begin the steps that may run ahead of the next one to learn from, as `ppo/ahead.py` has them."""
        staleness = self.scenario.staleness
        while self.begun <= self.learnt + staleness and self.begun < self.scenario.steps + staleness:
            self.begun += 1
            self._begin_step(self.begun - 1)

    def _begin_step(self, step: int) -> None:
        scenario = self.scenario
        count = round((scenario.waves if step >= 0 else scenario.warm_up) * CAPACITY * scenario.engines)
        self.left[step] = count
        median = scenario.mean_tokens * math.exp(-(scenario.spread**2) / 2)
        for number in range(count):
            [turns] = self.lengths.choices(list(TURNS), list(TURNS.values()))
            prompts = [self._tokens(*(REPLY if turn else OPENING)) for turn in range(turns)]
            answers = [self._tokens(median, scenario.spread) for _ in range(turns)]
            self._ask(Consultation(step, prompts, answers), f"{step}/{number}/0")

    def _ask(self, consultation: Consultation, key: str) -> None:
        self.consultations[key] = consultation
        self.accepted.add(key)
        self._spend(self.dispatcher.accept, key, consultation.holder and consultation.holder[0])
        self._pump()

    def _pump(self) -> None:
        """Assign turns, as the fleet does after everything that may have made room."""
        for assignment in self._spend(self.dispatcher.assign):
            engine, consultation = self.engines[assignment.engine], self.consultations[assignment.key]
            self.again += assignment.attempt > 1
            if assignment.attempt == 1 and consultation.held:
                self.followed += 1
                self.cached += consultation.holder == engine.who
            self.first_assigned.setdefault(assignment.key, self.now)
            token = self.scenario.base * READING
            self.reading += token * consultation.prompts[consultation.held] * (assignment.attempt == 1)
            reading = token * consultation.reading(engine.who)
            engine.begin(self.now, assignment, consultation.answers[consultation.held], reading)
            self._announce(engine)
        moment = self._spend(self.dispatcher.wake_at)
        if moment is not None and moment != self.wake:
            self.wake = moment
            self._at(moment, self._pump)

    def _announce(self, engine: SimulatedEngine) -> None:
        engine.announced += 1
        if engine.ends and not engine.hangs:
            self._at(engine.next_end(), partial(self._end, engine, engine.announced))

    def _end(self, engine: SimulatedEngine, announced: int) -> None:
        if announced != engine.announced:
            return
        engine.advance(self.now)
        *_, assignment = heapq.heappop(engine.ends)
        self._announce(engine)
        self._take_weights(engine)
        counts = self._spend(self.dispatcher.succeeded, assignment)
        assert counts, f"the answer to {assignment} did not count"
        key = assignment.key
        self.ended[key] += 1
        self.latencies.append(self.now - self.first_assigned.pop(key))
        consultation = self.consultations.pop(key)
        consultation.held, consultation.holder = consultation.held + 1, engine.who
        if consultation.held < len(consultation.answers):
            self._ask(consultation, f"{key.rpartition('/')[0]}/{consultation.held}")
        else:
            self._close(consultation)
        self._pump()

    def _close(self, consultation: Consultation) -> None:
        self.left[consultation.step] -= 1
        self._learn()

    def _learn(self) -> None:
        """Learn from the next step, if it has ended and nothing else is being learnt from."""
        if self.learning or self.learnt == self.begun or self.left[self.learnt]:
            return
        if self.learnt == -1:
            self._count_from_here()
        if self.learnt == self.scenario.steps - 1:
            self.outcome = self._so_far()
        self.learning = True
        self._at(self.now + self.scenario.update, self._publish)

    def _give_up(self, turn: GivenUp) -> None:
        self.ended[turn.key] += 1
        self.given_up += 1
        self.first_assigned.pop(turn.key, None)
        self._close(self.consultations.pop(turn.key))

    # --- engines ---

    def _publish(self) -> None:
        """Publish as `fleet/control/publisher.py`: an engine finishes its turns, takes the weights and works on.

        An engine that may hang is not waited for.
        """
        self.version, self.publishing, self.pulled_at = self.version + 1, True, self.now + self.scenario.pull
        for seat in self.roster.among(ALIVE):
            self._spend(seat.life.outdated)
            if not seat.life.unheard:
                self.awaited.add(seat.name)
                self._take_weights(self.engines[seat.name])
                if self.engines[seat.name].hangs:
                    self._at(self.now + self.roster.config.slow_after, partial(self._doubt, seat))
        self._published()

    def _take_weights(self, engine: SimulatedEngine) -> None:
        if engine.seat.life.state is EngineState.STALE and not engine.ends and not engine.hangs:
            self._at(max(self.now, self.pulled_at), partial(self._confirm, engine))

    def _confirm(self, engine: SimulatedEngine) -> None:
        if engine.seat.life.state is EngineState.STALE and not engine.hangs:
            self._spend(engine.seat.life.synced, self.version, self.version)
            self.awaited.discard(engine.seat.name)
            self._pump()
            self._published()

    def _published(self) -> None:
        """Once all have confirmed or left, the next step begins."""
        if self.publishing and not self.awaited:
            self.learning = self.publishing = False
            self.learnt += 1
            self._begin_steps()
            self._learn()

    def _start(self, seat: Seat) -> None:
        self._at(self.now + self.scenario.start + PULL, partial(self._serve, seat))

    def _serve(self, seat: Seat, first: bool = False) -> None:
        """Let an engine that has loaded its model confirm the current weights."""
        seat.life.placed()
        seat.life.loaded()
        self._spend(seat.life.synced, self.version, self.version)
        self.down += self.now - self.down_since.pop(seat.name, self.now)
        if not first:
            self.made_before += self.engines[seat.name].made
        self.engines[seat.name] = SimulatedEngine(seat, self.scenario.base, self.scenario.slope, then=self.now)
        if self.scenario.failures:
            self._at(self.now + self.fate.expovariate(self.scenario.failures / 3600), partial(self._fail, seat))
        if not first:
            self._pump()

    def _fail(self, seat: Seat) -> None:
        """Let an engine fail: half of the failures are deaths, seen at once; half are hangs.

        These the supervisor sees after its two limits.
        """
        self.failures += 1
        self.down_since[seat.name] = self.now
        if self.fate.random() < 0.5:
            self._lose(seat)
            return
        engine, config = self.engines[seat.name], self.roster.config
        engine.advance(self.now)
        engine.hangs = True
        self._announce(engine)
        self._at(self.now + config.slow_after, partial(self._doubt, seat))
        self._at(self.now + config.stall_timeout, partial(self._lose, seat))

    def _doubt(self, seat: Seat) -> None:
        """Suspect an engine: that it hangs is seen where it has turns, or is to take weights."""
        if self.engines[seat.name].ends or seat.life.state is EngineState.STALE:
            self._forget(self.engines[seat.name])
            self._spend(self.roster.suspect, seat, "makes no progress")
            self.awaited.discard(seat.name)
        self._pump()
        self._published()

    def _lose(self, seat: Seat) -> None:
        self._forget(self.engines[seat.name])
        self._spend(self.roster.lose, seat, ZjError("is lost", where=f"engine {seat.name}"))
        self._pump()
        self.awaited.discard(seat.name)
        self._published()

    def _forget(self, engine: SimulatedEngine) -> None:
        """Take away an engine's turns, though answers to them may still come."""
        assignments = engine.lose(self.now)
        self._announce(engine)
        self._at(self.now + LATE, partial(self._answer_late, assignments))

    def _answer_late(self, assignments: list[Assignment]) -> None:
        for assignment in assignments:
            assert not self.dispatcher.succeeded(assignment), "an answer counted that had been taken away"
        self.late += len(assignments)

    def _tick(self) -> None:
        """The supervisor's pass, every second. Whose tokens grow has not died in a row."""
        for seat in self.roster.among(ALIVE):
            if self.engines[seat.name].made > 0:
                seat.deaths = 0
        self._spend(self.supervisor.tick)
        for turn in self._spend(self.dispatcher.expired):
            self._give_up(turn)
        self._at(self.now + TICK_SECONDS, self._tick)
        self._pump()


MEASURED_BATCHES = (1, 2, 4, 8, 16, 32, 64)


# --- measuring the real engine ---


def measure(repeats: int = 3) -> tuple[float, float]:
    """slope / base of a decoding step, and seconds of reading a prompt's token / base.

    Of the real engine on one thread of this machine.
    """
    from bench.subject import SHAPE, config, room, speaker
    from zj_ray.data.chat import ChatFormat
    from zj_ray.fleet.engine import EngineThread
    from zj_ray.fleet.turns import TurnRequest
    from zj_ray.fleet.vllm_settings import engine_arguments, engine_environment

    settings = config(SHAPE, engines=1, threads=1)
    os.environ.update(engine_environment(settings.fleet))
    with tempfile.TemporaryDirectory() as folder:
        run, tokenizer = room(Path(folder), settings)
        model = str(run.folder / "model")
        speaker(SHAPE, tokenizer, 0.0).save_pretrained(model)
        tokenizer.save_pretrained(model)
        import torch

        torch.set_num_threads(1)
        engine = EngineThread(engine_arguments(model, settings.model, settings.fleet, 0))
        engine.ready.result(300)
        numbers, stop, draw = itertools.count(), ChatFormat(tokenizer).stop_id, random.Random(0)

        def seconds(batch: int, prompt: int, tokens: int) -> float:
            """Seconds of `batch` turns at once, each with another prompt: the prefix cache helps none."""
            prompts = [[draw.randrange(5, len(tokenizer)) for _ in range(prompt)] for _ in range(batch)]
            started = time.perf_counter()
            answers = []
            for ids, number in zip(prompts, numbers, strict=False):
                limits = {"max_tokens": tokens, "temperature": 1.0, "seed": number, "stop_id": stop}
                answers.append(engine.generate(TurnRequest(str(number), ids, **limits)))
            for answer in answers:
                answer.result(600)
            return time.perf_counter() - started

        def least(batch: int, prompt: int, tokens: int) -> float:
            return min(seconds(batch, prompt, tokens) for _ in range(repeats))

        seconds(64, 32, 8)
        steps = [(batch, (least(batch, 32, 112) - least(batch, 32, 16)) / 96) for batch in MEASURED_BATCHES]
        prompt_token = (least(1, 480, 1) - least(1, 32, 1)) / 448
    slope, base = np.polyfit(*zip(*steps, strict=True), 1)
    rows = [(batch, 1e3 * seconds, 1e3 * float(base + slope * batch)) for batch, seconds in steps]
    print(table(("turns in flight", "decoding step [ms]", "fitted"), rows))
    print(f"\nbase {1e3 * base:.3f} ms, slope {1e3 * slope:.4f} ms a turn: slope / base {slope / base:.4f}")
    print(f"a prompt's token {1e3 * prompt_token:.4f} ms: / base {prompt_token / base:.4f}")
    return float(slope / base), float(prompt_token / base)


# --- report ---


def simulate(scenario: Scenario) -> Outcome:
    """Simulate without the cyclic garbage collector.

    It would charge the simulator's millions of objects to the controller.
    """
    gc.collect()
    gc.disable()
    try:
        return Simulation(scenario).run()
    finally:
        gc.enable()


def ahead(scenario: Scenario, staleness: int = 1, waves: float = WAVES) -> Scenario:
    """Consultations run ahead of the updates, and weights are published while they go on."""
    return replace(scenario, staleness=staleness, waves=waves, update=UPDATE, pull=PULL, steps=max(scenario.steps, 3))


def variations(engines: int) -> dict[str, Scenario]:
    """What the figures depend on, one thing at a time."""
    usual = Scenario(engines)
    return {
        f"as above ({WAVES} waves)": usual,
        "1 wave": replace(usual, waves=1, steps=4),
        "2 waves": replace(usual, waves=2, steps=2),
        "8 waves": replace(usual, waves=8),
        "heavier tail": replace(usual, spread=HEAVY_SPREAD),
        "as short as doctors' turns": replace(usual, mean_tokens=DOCTORS_MEAN),
        "memory-bound decoding": replace(usual, slope=MEMORY_BOUND),
        "memory-bound, heavier tail": replace(usual, slope=MEMORY_BOUND, spread=HEAVY_SPREAD),
        "a start takes 300 s": replace(usual, start=300.0),
        "max_staleness 1": ahead(usual),
        "max_staleness 1, 8 waves": ahead(usual, waves=8),
        "max_staleness 2": ahead(usual, staleness=2),
        "max_staleness 2, memory-bound": replace(ahead(usual, staleness=2), slope=MEMORY_BOUND),
    }


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


SHARES = ("of engines that were up", "prefix kept", "turn p99 [s]", "of a core")  # after the efficiency


def shares_and_latency(outcome: Outcome) -> tuple[object, ...]:
    """A row's efficiency, and what stands below SHARES."""
    late = float(np.quantile(outcome.latencies, 0.99))
    shares = percent(outcome.efficiency), percent(outcome.efficiency_up), percent(outcome.cached)
    return *shares, late, percent(outcome.core_share, 2)


def steps_for(engines: int) -> int:
    """How many steps to simulate: more of them where a step has few consultations."""
    return max(1, min(16, 128 // engines))


def by_size(sizes: Sequence[int], draw: bool) -> None:
    plots: dict[str, dict[str, list[tuple[float, float]]]] = {"efficiency": {}, "latency": {}, "controller": {}}
    rows: list[tuple[Any, ...]] = []
    calm: dict[int, float] = {}

    def add(name: str, outcome: Outcome) -> None:
        late = float(np.quantile(outcome.latencies, 0.99))
        values = {"efficiency": 100 * outcome.efficiency, "latency": late, "controller": 100 * outcome.core_share}
        for plot, value in values.items():
            plots[plot].setdefault(name, []).append((math.log2(outcome.scenario.engines), value))

    for rate in FAILURES:
        for engines in sizes:
            outcome = simulate(Scenario(engines, rate, steps=steps_for(engines)))
            calm.setdefault(engines, outcome.efficiency)
            median, late, longest = (float(q) for q in np.quantile(outcome.latencies, (0.5, 0.99, 1)))
            rows.append((
                f"{rate:.0f}", engines, outcome.turns, outcome.failures, outcome.again, percent(outcome.efficiency),
                percent(1 - calm[engines]), percent(calm[engines] - outcome.efficiency), median, late, longest,
                percent(outcome.core_share, 2), 1e6 * outcome.per_turn,
            ))  # fmt: skip
            print(rows[-1], flush=True)
            add(f"{rate:.0f} failures an hour and engine", outcome)
    header = (
        "failures/h", "engines", "turns", "failures", "asked again", "efficiency", "lost to the step's end",
        "lost to failures", "turn p50 [s]", "p99", "longest", "of a core", "µs a turn",
    )  # fmt: skip
    print("\n" + table(header, rows) + "\n", flush=True)
    rows = []
    for engines in sizes:
        outcome = simulate(ahead(Scenario(engines, steps=steps_for(engines)), waves=8))
        rows.append((engines, outcome.scenario.steps, outcome.turns, outcome.failures, *shares_and_latency(outcome)))
        print(rows[-1], flush=True)
        add("1, max_staleness 1, 8 waves", outcome)
    print("\n" + table(("engines", "steps", "turns", "failures", "efficiency", *SHARES), rows) + "\n", flush=True)
    titles = {
        "efficiency": ("Efficiency of a step's consultations", "%", 90.0),
        "latency": ("Latency of a turn, 99th percentile", "s", None),
        "controller": ("The controller's share of one core", "%", 5.0),
    }
    for plot, series in plots.items() if draw else ():
        title, unit, level = titles[plot]
        svg = line_plot(series, title=title, ylabel=unit, xlabel="engines, as a power of two", level=level)
        svg = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
        (DOCS / f"fleet_{plot}.svg").write_text(svg, encoding="utf-8")
        print(f"drawn in docs/fleet_{plot}.svg")


def by_variation(engines: int) -> None:
    rows = []
    for name, scenario in variations(engines).items():
        calm, outcome = simulate(replace(scenario, failures=0.0)), simulate(scenario)
        efficiency, *others = shares_and_latency(outcome)
        losses = percent(1 - calm.efficiency), percent(calm.efficiency - outcome.efficiency)
        rows.append((name, outcome.wall / scenario.steps, efficiency, *losses, *others))
        print(rows[-1], flush=True)
    losses = ("lost to the step's end", "lost to failures")
    print("\n" + table((f"{engines} engines, 1 failure/h", "step [s]", "efficiency", *losses, *SHARES), rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the decoding step of the real engine instead")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="engines")
    parser.add_argument("--vary", type=int, default=256, help="engines of the second table")
    parser.add_argument("--draw", action="store_true", help="draw docs/fleet_*.svg")
    options = parser.parse_args()
    if options.measure:
        measure()
        return
    by_size(options.sizes, options.draw)
    by_variation(options.vary)


if __name__ == "__main__":
    main()
