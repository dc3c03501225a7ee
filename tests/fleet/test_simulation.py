"""The simulated fleet of `bench/fleet.py`: nothing is lost, a seed decides everything, failures cost what they must."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.fleet import CAPACITY, FULL_STEP, PULL, READING, Consultation, Scenario, Simulation
from zj_ray.fleet.control.roster import LONGEST_PAUSE
from zj_ray.fleet.router import FIRST_TURNS
from zj_ray.fleet.states import EngineState

STORMY = Scenario(16, failures=60.0, waves=2, start=20.0, seed=1)


def test_many_failures_lose_no_turn_and_a_seed_decides_everything() -> None:
    # `run` raises if a turn is lost or counts twice.
    first, again, other = (Simulation(replace(STORMY, seed=seed)).run() for seed in (1, 1, 2))
    assert first.failures > 16 and first.again > 4 * CAPACITY and first.late == first.again + first.given_up
    np.testing.assert_array_equal(first.latencies, again.latencies)
    assert (first.wall, first.failures) == (again.wall, again.failures) != (other.wall, other.failures)


def test_failures_cost_what_the_lost_engines_could_have_done() -> None:
    quiet, stormy = Simulation(replace(STORMY, failures=0.0)).run(), Simulation(STORMY).run()
    assert quiet.failures == quiet.again == quiet.late == 0
    assert quiet.turns == stormy.turns and quiet.necessary == pytest.approx(stormy.necessary)
    assert 0.75 < quiet.efficiency == quiet.efficiency_up < 1.0
    assert 0.2 < stormy.efficiency < stormy.efficiency_up < quiet.efficiency
    assert quiet.cached > 0.95 > stormy.cached


def test_the_end_of_a_step_weighs_less_in_a_longer_step_and_nothing_where_the_next_step_runs_ahead() -> None:
    short, long = (Simulation(Scenario(8, failures=0.0, waves=waves)).run() for waves in (1, 4))
    instant = replace(Scenario(8, failures=0.0), staleness=1, steps=4)  # neither updates nor weights take time
    kinds = ({}, {"pull": 20.0}, {"update": 200.0})
    ahead, pulling, late = (Simulation(replace(instant, **kind)).run() for kind in kinds)
    assert short.efficiency < long.efficiency < ahead.efficiency < 1.0
    assert late.efficiency < ahead.efficiency - 0.1  # engines run out of work
    assert pulling.efficiency < ahead.efficiency - 0.02  # they wait for weights


def test_no_step_runs_further_ahead_than_it_may() -> None:
    simulation = Simulation(Scenario(4, failures=30.0, staleness=1, update=10.0, pull=5.0, steps=4))
    ahead: set[int] = set()
    begin = simulation._begin_step

    def watch(step: int) -> None:
        assert not simulation.publishing and step <= simulation.learnt + 1
        ahead.add(step - simulation.learnt)
        begin(step)

    simulation._begin_step = watch  # type: ignore[method-assign]
    report = simulation.run()
    assert ahead == {0, 1} and report.failures > 4 and report.again > CAPACITY


def test_a_turn_alone_takes_its_prompt_and_its_tokens_times_the_step_of_a_batch_of_one() -> None:
    simulation = Simulation(Scenario(1, failures=0.0, waves=1 / CAPACITY, warm_up=0.0))
    report = simulation.run()
    base, slope = simulation.scenario.base, simulation.scenario.base * simulation.scenario.slope
    assert base + CAPACITY * slope == pytest.approx(FULL_STEP)
    tokens, read = round(simulation.engines["engine-0"].made), simulation.reading / (base * READING)
    assert read == pytest.approx(round(read))
    assert report.wall == pytest.approx(tokens * (base + slope) + simulation.reading)


def test_who_has_another_engine_reads_the_whole_dialogue() -> None:
    dialogue = Consultation(0, prompts=[30, 10], answers=[200, 100], held=1, holder=("engine-0", 0, 3))
    assert dialogue.reading(("engine-0", 0, 3)) == 10
    others = (("engine-1", 0, 3), ("engine-0", 1, 3), ("engine-0", 0, 4))  # a restart empties the cache
    assert {dialogue.reading(other) for other in others} == {240}


def test_an_engine_that_keeps_dying_is_tried_again_only_while_others_serve() -> None:
    simulation = Simulation(replace(STORMY, failures=0.0, warm_up=0.0, waves=4))
    roster, supervisor = simulation.roster, simulation.supervisor

    def lose(*numbers: int) -> None:
        for number in numbers:
            roster.seats[f"engine-{number}"].deaths = roster.config.restarts
            simulation._lose(roster.seats[f"engine-{number}"])

    def end() -> None:
        raise StopIteration

    back: list[EngineState] = []
    simulation._at(5.0, lambda: lose(3))
    there = 5.0 + LONGEST_PAUSE + STORMY.start + PULL + 2.0
    simulation._at(there, lambda: back.append(roster.seats["engine-3"].life.state))
    simulation._at(120.0, lambda: lose(*range(16)))
    simulation._at(120.0 + 2 * LONGEST_PAUSE, end)
    with pytest.raises(StopIteration):
        simulation.run()
    assert back == [EngineState.SERVING] and supervisor.hopeless


def test_a_replaced_engine_waits_starts_and_begins_slowly() -> None:
    simulation = Simulation(replace(STORMY, failures=0.0, warm_up=0.0))
    simulation._at(5.0, lambda: simulation._lose(simulation.roster.seats["engine-3"]))
    turns_at: dict[float, int] = {}

    def look() -> None:
        turns_at[simulation.now] = simulation.router.in_flight["engine-3"]
        if simulation.now < 60.0:
            simulation._at(simulation.now + 0.25, look)

    simulation._at(5.25, look)
    simulation.run()
    [back, *_] = [moment for moment, turns in turns_at.items() if turns]
    earliest = 5.0 + STORMY.start + PULL
    assert earliest + 1.0 <= back <= earliest + 5.0  # the roster's pause and the supervisor's second
    assert turns_at[back] == FIRST_TURNS
    assert simulation.roster.seats["engine-3"].life.restarts == 1
