"""Learning is real: problems with a known optimum, on the real trainer. docs/learning.md has the curves."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import pytest

from bench.learning import (
    BANDIT,
    CONSULTATION,
    COSTLY,
    EMERGENCY,
    ESTIMATORS,
    TEMPTING,
    Curve,
    Problem,
    curves,
    reached,
    settings,
    spent,
    with_the_classic_fault,
)
from tests.helpers.ranks import forks

slow = pytest.mark.slow


def _elsewhere(
    problem: Problem,
    estimator: str,
    seeds: Sequence[int],
    *estimate: object,
    max_staleness: int = 0,
    bound: float | None = None,
) -> list[Curve]:
    """In a process of its own: DeepSpeed engines are not given back within one."""
    config = settings(estimator, max_staleness, bound)
    with ProcessPoolExecutor(1, mp_context=forks()) as pool:
        return pool.submit(curves, problem, config, seeds, *estimate).result(timeout=500)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_bandit_is_solved_by_every_estimator_on_three_seeds(estimator: str) -> None:
    for rewards, _ in _elsewhere(BANDIT, estimator, range(3)):
        assert reached(rewards[:3], BANDIT) < 0.6 and reached(rewards, BANDIT) >= 0.95


@pytest.mark.parametrize("estimator", ["gae", "rloo", *(pytest.param(n, marks=slow) for n in ("grpo", "reinforce_pp"))])
def test_a_question_that_only_pays_a_turn_later_is_learnt(estimator: str) -> None:
    [(rewards, _)] = _elsewhere(CONSULTATION, estimator, [1])
    assert reached(rewards[:3], CONSULTATION) < 0.3 and reached(rewards, CONSULTATION) >= 0.95


@slow
def test_a_question_is_learnt_from_consultations_that_are_a_step_old() -> None:
    [(rewards, _)] = _elsewhere(CONSULTATION, "gae", [1], max_staleness=1)
    assert reached(rewards[:3], CONSULTATION) < 0.3 and reached(rewards, CONSULTATION) >= 0.95


@slow
def test_gae_that_walks_through_the_patients_tokens_unlearns_a_question_that_costs_something() -> None:
    [(ours, _)] = _elsewhere(COSTLY, "gae", [2])
    [(faulty, _)] = _elsewhere(COSTLY, "gae", [2], with_the_classic_fault)
    assert reached(ours, COSTLY) >= 0.95 and reached(faulty[:80], COSTLY) < 0.2


def test_a_bandit_whose_best_paid_arm_is_unsafe_ends_near_the_constrained_optimum_and_keeps_the_bound() -> None:
    for rewards, costs in _elsewhere(TEMPTING, "gae", range(3), bound=TEMPTING.bound):
        assert reached(rewards, TEMPTING) >= 0.95 and spent(costs, TEMPTING) <= TEMPTING.bound
    [(rewards, costs)] = _elsewhere(TEMPTING, "gae", [0])  # without the constraint
    assert reached(rewards, TEMPTING) > 1.1 and spent(costs, TEMPTING) > 9 * TEMPTING.bound


@slow
def test_red_flags_are_referred_more_often_although_advice_is_paid_better() -> None:
    """Not within the bound in every window: docs/learning.md says what happens."""
    [(rewards, costs)] = _elsewhere(EMERGENCY, "gae", [2], bound=EMERGENCY.bound)
    [(free, unsafe)] = _elsewhere(EMERGENCY, "gae", [2])
    assert reached(rewards, EMERGENCY) >= 0.95 and reached(free, EMERGENCY) > 1.05
    assert spent(costs, EMERGENCY) < 0.6 * spent(unsafe, EMERGENCY)
