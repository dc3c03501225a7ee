"""The multiplier of a constraint, the estimate of a bound, and the advantage that reward and cost make together."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zj_ray.algorithms.constraint import Multiplier, RunningMean, constrained
from zj_ray.algorithms.whitening import whiten_within
from zj_ray.errors import ZjError

PACE = {"rate": 0.5, "gain": 2.0, "smoothing": 0.5, "cap": 3.0}


def test_a_multiplier_climbs_by_the_violation_of_the_smoothed_cost_and_adds_it_once_more() -> None:
    found = Multiplier(1.0, climbed=1.0, smoothed=0.2)
    found.ascend(0.6, 0.1, **PACE)  # smoothed: 0.4, violation: 0.3
    assert (found.smoothed, found.climbed, found.value) == pytest.approx((0.4, 1.15, 1.75))
    found.ascend(0.0, 0.1, **PACE)  # smoothed: 0.2
    assert (found.smoothed, found.climbed, found.value) == pytest.approx((0.2, 1.2, 1.4))


def test_the_first_cost_stands_for_itself() -> None:
    found = Multiplier(0.0, climbed=0.0)
    found.ascend(0.5, 0.1, **PACE)
    assert found.smoothed == 0.5


@given(st.lists(st.floats(0, 4), min_size=1, max_size=60), st.floats(0, 4))
def test_a_multiplier_is_never_negative_and_never_above_its_cap(costs: list[float], bound: float) -> None:
    found = Multiplier(1.0, climbed=1.0)
    for cost in costs:
        found.ascend(cost, bound, **PACE)
        assert 0 <= found.value <= 3 and 0 <= found.climbed <= 3


def test_it_comes_back_at_once_from_the_cap_however_long_it_was_there() -> None:
    found = Multiplier(1.0, climbed=1.0)
    for _ in range(500):
        found.ascend(4.0, 0.1, **PACE)
    for _ in range(20):
        found.ascend(0.0, 1.0, **PACE)
    assert found.value == 0.0


@pytest.mark.parametrize("cost", [math.nan, math.inf, -math.inf])
def test_a_cost_that_is_not_finite_stops_the_run_and_moves_nothing(cost: float) -> None:
    found = Multiplier(1.0, climbed=1.0, smoothed=0.2)
    with pytest.raises(ZjError, match="safety cost of a step is"):
        found.ascend(cost, 0.1, **PACE)
    assert found == Multiplier(1.0, climbed=1.0, smoothed=0.2)


@given(st.lists(st.lists(st.floats(-10, 10), max_size=5), max_size=8))
def test_a_running_mean_has_the_mean_and_standard_error_of_all_its_numbers(parts: list[list[float]]) -> None:
    found = RunningMean()
    for part in parts:
        found.add(part)
    numbers = [number for part in parts for number in part]
    assert found.count == len(numbers)
    if numbers:
        assert found.mean == pytest.approx(np.mean(numbers), abs=1e-9)
    expected = np.std(numbers, ddof=1) / len(numbers) ** 0.5 if len(numbers) > 1 else 0.0
    assert found.error == pytest.approx(expected, abs=1e-7)


def test_no_groups_scale_or_level_reaches_another_and_strata_are_centred_apart() -> None:
    nan = float("nan")
    x = torch.tensor([[10.0, 1.0], [30.0, 3.0], [0.001, nan], [0.003, nan]])
    mask = torch.tensor([[True, True], [True, True], [True, False], [True, False]])
    strata = torch.tensor([[0, 1], [0, 1], [0, 0], [0, 0]])
    found = whiten_within(x, mask, torch.tensor([0, 0, 1, 1]), strata)
    scale = math.sqrt((10**2 + 1) / 2)
    torch.testing.assert_close(found[:2], torch.tensor([[-10.0, -1.0], [10.0, 1.0]]) / scale)
    torch.testing.assert_close(found[2:], torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), atol=1e-4, rtol=0)


def test_a_group_in_which_all_cost_the_same_has_no_advantage() -> None:
    found = whiten_within(torch.full((3, 2), 2.0), torch.ones(3, 2), torch.zeros(3).int(), torch.zeros(3, 2).int())
    assert torch.equal(found, torch.zeros(3, 2))


def test_reward_and_cost_make_one_advantage_of_the_same_length_whatever_the_multiplier() -> None:
    reward, cost = torch.tensor([[1.0, -1.0]] * 3), torch.tensor([[1.0, 1.0]] * 3)
    found = constrained(reward, cost, torch.tensor([0.0, 1.0, 9.0]))
    torch.testing.assert_close(found, torch.tensor([[1.0, -1.0], [0.0, -1.0], [-0.8, -1.0]]))
