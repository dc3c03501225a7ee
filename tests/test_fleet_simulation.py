"""The simulated fleet of `bench/fleet.py`: nothing is lost in it, a seed decides everything, and failures cost what they must."""

from __future__ import annotations

import numpy as np
import pytest

from bench.fleet import CAPACITY, FULL_STEP, Simulation


def test_many_failures_lose_no_turn_and_a_seed_decides_everything() -> None:
    first, again, other = (Simulation(8, failures_per_hour=60, seed=seed, waves=2).run() for seed in (1, 1, 2))
    assert first.failures > 5 and first.retried > CAPACITY  # the faults took place; `run` raises if a turn is lost or answered twice
    np.testing.assert_array_equal(first.latencies, again.latencies)
    assert first.seconds == again.seconds != other.seconds


def test_without_failures_nothing_is_asked_again_and_only_start_and_tail_are_lost() -> None:
    quiet = Simulation(8, failures_per_hour=0, seed=1, waves=4).run()
    assert quiet.failures == quiet.retried == 0
    assert 0.75 < quiet.efficiency < 1.0
    longer = Simulation(8, failures_per_hour=0, seed=1, waves=12).run()
    assert longer.efficiency > quiet.efficiency  # start and tail weigh less in a longer step
    assert Simulation(8, failures_per_hour=60, seed=1, waves=4).run().efficiency < quiet.efficiency


def test_one_turn_alone_takes_its_tokens_times_the_step_of_a_batch_of_one() -> None:
    simulation = Simulation(1, failures_per_hour=0, seed=3, waves=1)
    simulation.turns_left = {0: 1}
    found = simulation.run()
    [tokens] = simulation.lengths.values()
    step = simulation.engines["engine-0"].base + simulation.engines["engine-0"].slope
    assert found.seconds == pytest.approx(tokens * step)
    assert simulation.engines["engine-0"].base + CAPACITY * simulation.engines["engine-0"].slope == pytest.approx(FULL_STEP)
