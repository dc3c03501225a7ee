"""One score of several reward models: what their spread costs, and what is no spread."""

from __future__ import annotations

import json

import numpy as np
import pytest

from zj_ray.algorithms.ensemble import Ensemble


def members(seed: int = 0, count: int = 3) -> np.ndarray:
    """Scores [members, answers, heads] that mostly agree."""
    random = np.random.default_rng(seed)
    return random.normal(size=(1, 200, 4)) + 0.2 * random.normal(size=(count, 200, 4))


def test_an_answer_that_one_member_alone_praises_falls_behind_one_that_all_like() -> None:
    """The cheat that PPO finds: the first member scores it highest of all."""
    scores = members()
    scores[:, 0], scores[:, 1] = 1.5, 0.0
    scores[0, 1] = 6.0
    fitted = Ensemble.fit(scores, pessimism=1.0).combine(scores)[:, 0]
    bold = Ensemble.fit(scores, pessimism=0.0).combine(scores)[:, 0]
    assert scores[0, 1, 0] > scores[0, 0, 0] and bold[1] > bold[0] and fitted[1] < fitted[0]


def test_neither_a_members_constant_nor_its_size_is_a_spread() -> None:
    scores = members()
    moved = scores * np.array([1.0, 7.0, 0.1])[:, None, None] + np.array([0.0, 100.0, -3.0])[:, None, None]
    assert Ensemble.fit(moved, 1.0).combine(moved) == pytest.approx(Ensemble.fit(scores, 1.0).combine(scores), abs=1e-3)


def test_the_spread_costs_as_much_as_the_pessimism_says_and_other_answers_change_nothing() -> None:
    scores = members()
    fitted = Ensemble.fit(scores, 2.0)
    alone = (scores - fitted.means[:, None]) / fitted.deviations[:, None]
    assert fitted.combine(scores) == pytest.approx(alone.mean(0) - 2.0 * alone.std(0))
    assert fitted.combine(scores[:, 5:6]) == pytest.approx(fitted.combine(scores)[5:6])


def test_it_survives_a_file() -> None:
    fitted = Ensemble.fit(members(), 0.5)
    read = Ensemble.of_dict(json.loads(json.dumps(fitted.as_dict())))
    assert np.array_equal(read.combine(members(1)), fitted.combine(members(1)))
