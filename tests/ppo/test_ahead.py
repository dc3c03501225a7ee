"""Rollouts ahead of the updates: how far, and never further."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from zj_ray.data.trajectory import Trajectory, Turn
from zj_ray.errors import ZjError
from zj_ray.fleet.control.fleet import Consultations
from zj_ray.ppo.ahead import Rollout, RolloutAhead, check_staleness

STEPS = 6


def _holder(begun: list[int], gate: Callable[[int], None] = lambda step: None) -> Callable[[int], Rollout]:
    def hold(step: int) -> Rollout:
        begun.append(step)
        gate(step)
        return Rollout({}, Consultations([], [str(step)], 0.0))

    return hold


def test_without_staleness_a_rollout_begins_when_it_is_asked_for() -> None:
    begun: list[int] = []
    with RolloutAhead(_holder(begun), 0, STEPS, limit=10) as rollouts:
        for step in range(STEPS):
            assert rollouts.take(step).consultations.lost == [str(step)] and begun == list(range(step + 1))


@pytest.mark.parametrize("bound", [1, 2])
def test_a_rollout_goes_on_beside_the_update_but_never_more_than_the_bound_ahead(bound: int) -> None:
    begun: list[int] = []
    at_work = {step: threading.Event() for step in range(STEPS)}
    with RolloutAhead(_holder(begun, lambda step: at_work[step].set()), bound, STEPS, limit=10) as rollouts:
        for step in range(STEPS):
            assert rollouts.take(step).consultations.lost == [str(step)]
            furthest = min(step + bound, STEPS - 1)
            assert at_work[furthest].wait(10)  # the overlap: it is being held while this step is learnt from
            assert sorted(begun) == list(range(furthest + 1))


def test_the_next_steps_consultations_are_held_while_this_steps_still_go_on() -> None:
    """Whoever has run out of this step's work goes on with the next one's."""
    next_has_begun = threading.Event()

    def gate(step: int) -> None:
        assert step != 0 or next_has_begun.wait(10)
        next_has_begun.set()

    with RolloutAhead(_holder([], gate), 1, STEPS, limit=10) as rollouts:
        assert rollouts.take(0).consultations.lost == ["0"]


def test_a_rollout_that_fails_ahead_is_told_when_its_step_comes() -> None:
    def gate(step: int) -> None:
        if step == 1:
            raise ZjError("no engine serves")

    with RolloutAhead(_holder([], gate), 1, STEPS, limit=10) as rollouts:
        rollouts.take(0)
        with pytest.raises(ZjError, match="no engine serves"):
            rollouts.take(1)


def test_a_turn_older_than_the_bound_is_named() -> None:
    trajectory = Trajectory("case-7", 2, 0, turns=[Turn(0, 1, "", version, "engine-0", True) for version in (4, 3, 5)])
    check_staleness([trajectory], version=5, bound=2)
    with pytest.raises(ZjError, match="case-7#2 has a turn of weight version 3; the policy is at 5, and 1"):
        check_staleness([trajectory], version=5, bound=1)
    with pytest.raises(ZjError):
        check_staleness([trajectory], version=4, bound=2)  # of a policy that does not exist yet
