"""A fleet larger than any machine at hand: the real dispatcher, router and state machine against simulated engines. `make fleet`

Discrete events on a virtual clock. An engine decodes all its turns together: a decoding step with b turns takes
base + slope · b, and every turn gets one token of it. Engines fail at random. Half of the failures are deaths, noticed at
once; half are hangs, after which an engine's turns are asked elsewhere `fleet.slow_after` seconds later and it is replaced
after `fleet.stall_timeout`. It comes back after a pause, a start and a sync, slowly. Nothing of routing, retrying or
admission is written anew here; what the simulation adds is time.

`--measure` measures base and slope on the real vLLM engine of this machine, which is what STEP_RATIO below came from.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.ceilings import table
from zj_ray.config.schema import FleetConfig
from zj_ray.evaluation.plots import line_plot
from zj_ray.fleet.dispatch import Assignment, Dispatcher, Fault, Limits
from zj_ray.fleet.roster import FAILURES_TOLERATED, FIRST_PAUSE
from zj_ray.fleet.router import Router
from zj_ray.fleet.states import EngineLife

DOCS = Path(__file__).resolve().parents[1] / "docs"
CAPACITY = 64  # turns in flight at one engine
FULL_STEP = 0.05  # of a decoding step with a full batch [s]: assumed, in the range of a 7B model on one GPU; not measured
STEP_RATIO = 0.038  # slope / base, by `--measure` (7.3 M model on one thread, 1 to 64 turns: 6.0 to 17.9 ms; 2026-11-25)
MEDIAN_TOKENS, SPREAD = 49.0, 0.71  # of a doctor's turn: log-normal, fitted to 3,404 turns of real consultations
LONG_TAIL = 1.1  # spread of a heavier tail
LONGEST_TURN = 512
TURNS = (3, 5)  # of a consultation, evenly
WAVES = 8  # consultations of a step for each turn that the fleet can have in flight
START, SYNC = 60.0, 5.0  # of a new engine, and of its first weights [s]: assumed
SIZES = (4, 16, 64, 256, 512)


@dataclass
class SimulatedEngine:
    """Its turns share a clock that counts tokens: a turn of n tokens is done n after it began."""

    life: EngineLife
    base: float
    slope: float
    tokens: float = 0.0  # decoded for each turn so far
    then: float = 0.0  # when that was [s]
    ends: list[tuple[float, str, Assignment]] = field(default_factory=list)  # heap: token count at which a turn is done, and its key
    hangs: bool = False
    epoch: int = 0  # grows with everything that makes an announced event void

    def advance(self, now: float) -> None:
        if self.ends and not self.hangs:
            self.tokens += (now - self.then) / (self.base + self.slope * len(self.ends))
        self.then = now

    def begin(self, now: float, assignment: Assignment, tokens: int) -> None:
        self.advance(now)
        heapq.heappush(self.ends, (self.tokens + tokens, assignment.key, assignment))
        self.epoch += 1

    def next_end(self) -> float | None:
        if not self.ends or self.hangs:
            return None
        return self.then + max(self.ends[0][0] - self.tokens, 0.0) * (self.base + self.slope * len(self.ends))


@dataclass(frozen=True)
class Outcome:
    """seconds: of the step; ideal: of the same tokens on a fleet that is always full; latencies: of every turn [s]; controller: processor seconds."""

    engines: int
    seconds: float
    ideal: float
    latencies: np.ndarray
    failures: int
    retried: int
    controller: float

    @property
    def efficiency(self) -> float:
        return self.ideal / self.seconds


class Simulation:
    """One PPO step's rollout. After `run` every turn has been answered exactly once, or it raises."""

    def __init__(self, engines: int, failures_per_hour: float, spread: float = SPREAD, seed: int = 0, waves: int = WAVES) -> None:
        self.now, self.spent, self.draw = 0.0, 0.0, random.Random(seed)
        self.rate, self.spread = failures_per_hour / 3600.0, spread
        base = FULL_STEP / (1 + STEP_RATIO * CAPACITY)
        fleet = FleetConfig()
        self.slow_after, self.stall = fleet.slow_after, fleet.stall_timeout
        limits = Limits({Fault.TURN: fleet.turn_retries, Fault.ENGINE: fleet.lost_engines}, FAILURES_TOLERATED, fleet.wait_timeout)
        self.router = Router(CAPACITY, lambda: self.now, random.Random(seed))
        self.dispatcher = Dispatcher(self.router, limits, lambda: self.now)
        self.engines = {f"engine-{i}": SimulatedEngine(EngineLife(f"engine-{i}"), base, base * STEP_RATIO) for i in range(engines)}
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.number = 0
        self.turns_left: dict[int, int] = {i: self.draw.randint(*TURNS) for i in range(waves * CAPACITY * engines)}
        self.lengths: dict[str, int] = {}
        self.accepted: dict[str, float] = {}
        self.latencies: list[float] = []
        self.failures = self.retried = 0

    def run(self) -> Outcome:
        for engine in self.engines.values():
            engine.life.placed()
            engine.life.loaded()
            self.router.add(engine.life)
            engine.life.synced(1, 1)
            self._fail_later(engine)
        for consultation in self.turns_left:
            self._accept(consultation, None)
        total = sum(self.turns_left.values())
        self._assign()
        while self.turns_left:
            self.now, _, act = heapq.heappop(self.events)
            act()
        assert len(self.latencies) == total and not self.accepted
        tokens = sum(self.lengths.values())
        ideal = tokens * FULL_STEP / CAPACITY / len(self.engines)
        return Outcome(len(self.engines), self.now, ideal, np.array(self.latencies), self.failures, self.retried, self.spent)

    def _at(self, moment: float, act: Callable[[], None]) -> None:
        self.number += 1
        heapq.heappush(self.events, (moment, self.number, act))

    def _controller(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Only what the controller itself does is on its account."""
        started = time.process_time()  # what others take from this machine is not on its account
        result = work(*arguments)
        self.spent += time.process_time() - started
        return result

    def _accept(self, consultation: int, previous: str | None) -> None:
        key = f"{consultation}/{self.turns_left[consultation]}"
        self.lengths[key] = max(1, min(LONGEST_TURN, int(self.draw.lognormvariate(math.log(MEDIAN_TOKENS), self.spread))))
        self.accepted[key] = self.now
        self._controller(self.dispatcher.accept, key, previous)

    def _assign(self) -> None:
        for assignment in self._controller(self.dispatcher.assign):
            engine = self.engines[assignment.engine]
            engine.begin(self.now, assignment, self.lengths[assignment.key])
            self.retried += assignment.attempt > 1
            self._announce(engine)
        moment = self.dispatcher.wake_at()
        if moment is not None:
            self._at(moment, self._assign)

    def _announce(self, engine: SimulatedEngine) -> None:
        moment, epoch = engine.next_end(), engine.epoch
        if moment is not None:
            self._at(moment, lambda: self._end(engine) if engine.epoch == epoch else None)

    def _end(self, engine: SimulatedEngine) -> None:
        engine.advance(self.now)
        _, _, assignment = heapq.heappop(engine.ends)
        engine.epoch += 1
        if self._controller(self.dispatcher.succeeded, assignment):
            self.latencies.append(self.now - self.accepted.pop(assignment.key))  # KeyError if it were answered twice
            consultation = int(assignment.key.partition("/")[0])
            self.turns_left[consultation] -= 1
            if self.turns_left[consultation]:
                self._accept(consultation, engine.life.name)
            else:
                del self.turns_left[consultation]
        self._announce(engine)
        self._assign()

    def _fail_later(self, engine: SimulatedEngine) -> None:
        if self.rate:
            self._at(self.now + self.draw.expovariate(self.rate), lambda: self._fail(engine))

    def _fail(self, engine: SimulatedEngine) -> None:
        engine.advance(self.now)
        self.failures += 1
        if self.draw.random() < 0.5:
            self._lost(engine)
        else:
            engine.hangs = True
            engine.epoch += 1
            self._at(self.now + self.slow_after, lambda: self._doubted(engine))
            self._at(self.now + self.stall, lambda: self._lost(engine))

    def _doubted(self, engine: SimulatedEngine) -> None:
        engine.life.silent("no progress")
        self._controller(lambda: self.dispatcher.engine_left(engine.life.name, "no progress", blameless=True))
        engine.ends.clear()
        self._assign()

    def _lost(self, engine: SimulatedEngine) -> None:
        engine.ends.clear()
        engine.hangs, engine.epoch = False, engine.epoch + 1
        engine.life.died("failed")
        lost = self._controller(self.dispatcher.engine_left, engine.life.name, "failed")
        assert not lost, lost
        self._at(self.now + 2 * FIRST_PAUSE + START, lambda: self._back(engine))
        self._assign()

    def _back(self, engine: SimulatedEngine) -> None:
        engine.life.replaced()
        engine.life.placed()
        engine.life.loaded()

        def synced() -> None:
            engine.life.synced(1, 1)
            self._fail_later(engine)
            self._assign()

        self._at(self.now + SYNC, synced)


def measure(batches: Sequence[int] = (1, 2, 4, 8, 16, 32, 64), tokens: int = 64) -> tuple[float, float]:
    """Base and slope of a decoding step [s] of the real engine on one thread of this machine, by least squares."""
    import os

    from bench.subject import SHAPE, config, room, speaker
    from zj_ray.data.chat import ChatFormat
    from zj_ray.fleet.engine import EngineThread, TurnRequest, engine_arguments, engine_environment

    settings = config(SHAPE, 1, 1)
    os.environ.update(engine_environment(settings.fleet))
    with tempfile.TemporaryDirectory() as folder:
        run, tokenizer = room(Path(folder), settings)
        speaker(SHAPE, tokenizer, 0.0).save_pretrained(run.folder / "model")
        tokenizer.save_pretrained(run.folder / "model")
        engine = EngineThread(engine_arguments(str(run.folder / "model"), settings.model, settings.fleet, 0))
        engine.ready.result(300)
        chat, rows = ChatFormat(tokenizer), []
        for batch in batches:
            best = float("inf")
            for attempt in range(3):
                started = time.perf_counter()
                requests = [TurnRequest(f"{batch}/{attempt}/{i}", chat.open("头痛。"), tokens, 1.0, i, chat.stop_id) for i in range(batch)]
                for answer in [engine.generate(request) for request in requests]:
                    answer.result(300)
                best = min(best, (time.perf_counter() - started) / tokens)
            rows.append((batch, 1e3 * best))
    print(table(("turns in flight", "decoding step [ms]"), rows))
    slope, base = np.polyfit([row[0] for row in rows], [row[1] for row in rows], 1)
    print(f"\nbase {base:.2f} ms, slope {slope:.3f} ms a turn: ratio {slope / base:.3f}")
    return base / 1e3, slope / 1e3


def report(sizes: Sequence[int], draw: bool) -> None:
    variants = [
        ("no failures", 0.0, SPREAD),
        ("1 failure an hour each", 1.0, SPREAD),
        ("4 an hour", 4.0, SPREAD),
        ("1 an hour, longer tail", 1.0, LONG_TAIL),
    ]
    plots: dict[str, dict[str, list[tuple[float, float]]]] = {"efficiency": {}, "latency": {}, "controller": {}}
    rows = []
    for name, rate, spread in variants:
        for size in sizes:
            found = Simulation(size, rate, spread).run()
            median, late = np.quantile(found.latencies, [0.5, 0.99])
            cost = found.controller / found.seconds
            rows.append((name, size, found.seconds, f"{100 * found.efficiency:.1f} %", found.failures, found.retried, float(median), float(late),
                         float(found.latencies.max()), f"{100 * cost:.2f} %", 1e6 * found.controller / len(found.latencies)))  # fmt: skip
            for plot, value in (("efficiency", 100 * found.efficiency), ("latency", float(late)), ("controller", 100 * cost)):
                plots[plot].setdefault(name, []).append((math.log2(size), float(value)))
            print(rows[-1], flush=True)
    header = ("fleet", "engines", "step [s]", "efficiency", "failures", "asked again", "turn p50 [s]", "p99", "longest", "of a core", "µs a turn")
    print("\n" + table(header, rows))
    titles = {"efficiency": ("Efficiency of a step's rollout", "%"), "latency": ("Latency of a turn, 99th percentile", "s"),
              "controller": ("The controller's share of one core", "%")}  # fmt: skip
    for plot, series in plots.items() if draw else ():
        title, unit = titles[plot]
        svg = line_plot(series, title=title, ylabel=unit, xlabel="engines, as a power of two")
        (DOCS / f"fleet_{plot}.svg").write_text(svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1), encoding="utf-8")
        print(f"drawn in docs/fleet_{plot}.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="the decoding step of the real engine instead of a simulation")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--draw", action="store_true", help="write docs/fleet_*.svg")
    options = parser.parse_args()
    if options.measure:
        measure()
    else:
        report(options.sizes, options.draw)


if __name__ == "__main__":
    main()
