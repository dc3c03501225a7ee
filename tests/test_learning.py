"""Learning is real: problems with a known optimum, on the real trainer (bench/learning.py has all estimators, seeds and curves)."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from bench.learning import BANDIT, CONSULTATION, ESTIMATORS, curve, reached, settings, with_the_classic_fault


@pytest.fixture
def elsewhere():
    """A process of its own: DeepSpeed engines are not given back within one."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("seed", range(3))
def test_a_bandit_is_solved_by_every_estimator(elsewhere: ProcessPoolExecutor, estimator: str, seed: int) -> None:
    rewards = elsewhere.submit(curve, BANDIT, settings(estimator), seed).result(timeout=300)
    assert reached(rewards[:3], BANDIT) < 0.6 and reached(rewards, BANDIT) >= 0.95


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_question_that_only_pays_a_turn_later_is_learnt(elsewhere: ProcessPoolExecutor, estimator: str) -> None:
    rewards = elsewhere.submit(curve, CONSULTATION, settings(estimator), 1).result(timeout=500)
    assert reached(rewards[:3], CONSULTATION) < 0.3 and reached(rewards, CONSULTATION) >= 0.95


def test_gae_that_walks_through_the_patients_tokens_does_not_learn_it(elsewhere: ProcessPoolExecutor) -> None:
    rewards = elsewhere.submit(curve, CONSULTATION, settings("gae"), 1, with_the_classic_fault).result(timeout=500)
    assert reached(rewards, CONSULTATION) < 0.5
