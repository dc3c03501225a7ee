"""Learning is real: problems with a known optimum, on the real trainer. docs/learning.md has the curves."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import pytest

from bench.learning import (
    BANDIT,
    CONSULTATION,
    COSTLY,
    ESTIMATORS,
    curves,
    reached,
    settings,
    with_the_classic_fault,
)
from tests.helpers.ranks import forks

# Problem, settings and seeds of every run, and the estimate where it is not the package's own.
RUNS: dict[tuple[str, str], tuple[Any, ...]] = {
    **{("bandit", name): (BANDIT, settings(name), range(3)) for name in ESTIMATORS},
    **{("consultation", name): (CONSULTATION, settings(name), [1]) for name in ESTIMATORS},
    ("consultation", "a step old"): (CONSULTATION, settings("gae", max_staleness=1), [1]),
    ("costly", "gae"): (COSTLY, settings("gae"), [2]),
    ("costly", "classic fault"): (COSTLY, settings("gae"), [2], with_the_classic_fault),
}
LIMIT = 500.0  # of all of them together [s]
Learnt = dict[tuple[str, str], Future[list[list[float]]]]


@pytest.fixture(scope="module")
def learnt() -> Iterator[Learnt]:
    """Two at a time, each in a process of its own: DeepSpeed engines are not given back within one."""
    with ProcessPoolExecutor(2, mp_context=forks(), max_tasks_per_child=1) as pool:
        yield {name: pool.submit(curves, *run) for name, run in RUNS.items()}


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_bandit_is_solved_by_every_estimator_on_three_seeds(learnt: Learnt, estimator: str) -> None:
    for rewards in learnt["bandit", estimator].result(LIMIT):
        assert reached(rewards[:3], BANDIT) < 0.6 and reached(rewards, BANDIT) >= 0.95


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_question_that_only_pays_a_turn_later_is_learnt(learnt: Learnt, estimator: str) -> None:
    [rewards] = learnt["consultation", estimator].result(LIMIT)
    assert reached(rewards[:3], CONSULTATION) < 0.3 and reached(rewards, CONSULTATION) >= 0.95


def test_a_question_is_learnt_from_consultations_that_are_a_step_old(learnt: Learnt) -> None:
    [rewards] = learnt["consultation", "a step old"].result(LIMIT)
    assert reached(rewards[:3], CONSULTATION) < 0.3 and reached(rewards, CONSULTATION) >= 0.95


def test_gae_that_walks_through_the_patients_tokens_unlearns_a_question_that_costs_something(learnt: Learnt) -> None:
    [ours] = learnt["costly", "gae"].result(LIMIT)
    [faulty] = learnt["costly", "classic fault"].result(LIMIT)
    assert reached(ours, COSTLY) >= 0.95 and reached(faulty[:80], COSTLY) < 0.2
