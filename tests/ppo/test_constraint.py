"""The constraint as PPO keeps it: advantages by kind of prompt, the bound that is measured, and what a resume keeps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from zj_ray.config.schema import SafetyConfig
from zj_ray.data.trajectory import Trajectory, Turn
from zj_ray.ppo.constraint import KINDS, SafetyConstraint, costs_by_kind
from zj_ray.rewards.mix import ScoredTurns
from zj_ray.roles.batch import RolloutBatch

STEADY = SafetyConfig(bound=0.25, multiplier=1.0)


def _batch(
    costs: Sequence[Sequence[float]], rewards: Sequence[float] | None = None
) -> tuple[RolloutBatch, list[ScoredTurns]]:
    """Consultations of two tokens a turn; rewards: the advantage of all of a consultation's tokens."""
    talks = []
    for number, of_turns in enumerate(costs):
        talk = Trajectory(str(number), 0, 0)
        for _ in of_turns:
            talk.append_context([1])
            start, end = talk.append_generated([2, 3], [-1.0, -1.0])
            talk.turns.append(Turn(start, end, "", 1, "", True))
        talks.append(talk)
    batch = RolloutBatch.of(talks, 1)
    levels = rewards or [0.0] * len(costs)
    batch.advantages = [np.full(n, level, np.float32) for n, level in zip(batch.generated, levels, strict=True)]
    return batch, [ScoredTurns([0.0] * len(of_turns), [float(cost) for cost in of_turns]) for of_turns in costs]


def _advantages(costs: Sequence[Sequence[float]], kinds: Sequence[str], **multipliers: float) -> list[np.ndarray]:
    constraint = SafetyConstraint(STEADY)
    for kind, value in multipliers.items():
        constraint.multipliers[kind].value = value
    batch, scored = _batch(costs)
    constraint.weigh(batch, scored, kinds, gamma=1.0)
    return batch.advantages


def test_every_token_of_a_turn_carries_what_it_and_all_later_turns_cost() -> None:
    waits, refers = _advantages([[1, 1, 0], [0, 0, 0]], ["case", "case"])
    # Cost to go 2, 1, 0 against 0, 0, 0: centred ±1, ±0.5, 0; λ = 1 halves.
    expected = np.repeat([1.0, 0.5, 0.0], 2) / np.sqrt((1 + 0.25) / 3) / 2
    np.testing.assert_allclose(waits, -expected, atol=1e-5)
    np.testing.assert_allclose(refers, expected, atol=1e-5)


def test_the_turns_that_are_still_to_come_are_nobodys_merit() -> None:
    """All wait in every turn: no token is better than another, though the first has the dearest future."""
    for found in _advantages([[1, 1, 1]] * 3, ["case"] * 3):
        np.testing.assert_allclose(found, np.zeros(6), atol=1e-6)


def test_many_cases_do_not_drown_the_few_controls() -> None:
    cases, controls = [[4.0], [0.0]] * 20, [[1.0], [0.0]]
    few = _advantages(cases + controls, ["case"] * 40 + ["control"] * 2)
    alone = _advantages(controls, ["control"] * 2)
    np.testing.assert_allclose(few[40:], alone, atol=1e-5)
    np.testing.assert_allclose(few[0], few[40], atol=1e-5)


def test_a_kind_is_pressed_by_its_own_multiplier_alone() -> None:
    kinds = ["safety", "safety", "control", "control"]
    found = _advantages([[1], [0], [1], [0]], kinds, safety=0.0, control=3.0)
    np.testing.assert_allclose(np.concatenate(found[:2]), np.zeros(4), atol=1e-6)
    np.testing.assert_allclose(found[2], np.full(2, -0.75), atol=1e-5)


def test_the_weighted_sum_leaves_every_bit_of_the_advantages() -> None:
    batch, scored = _batch([[1], [0]], rewards=[0.1, 0.7])
    before = [advantages.copy() for advantages in batch.advantages]
    constraint = SafetyConstraint(SafetyConfig("weight"))
    constraint.weigh(batch, scored, ["case", "case"], 1.0)
    constraint.update({"case": [1.0]}, learnt=True)
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(batch.advantages, before, strict=True))
    assert constraint.figures({"case": [1.0, 0.0]}) == {"cost_case": 0.5}


def test_the_bound_is_what_the_policy_cost_before_it_learnt_less_the_margin_and_then_stays() -> None:
    constraint = SafetyConstraint(SafetyConfig(margin=2.0))
    assert constraint.bound("safety") is None
    for _ in range(2):
        constraint.update({"safety": [1.0, 0.0, 1.0, 0.0]}, learnt=False)
    error = np.std([1, 0] * 4, ddof=1) / np.sqrt(8)
    assert constraint.bound("safety") == pytest.approx(0.5 - 2 * error)
    assert constraint.multipliers["safety"].value == 1.0  # nobody is pressed before the policy learns
    frozen = constraint.bound("safety")
    constraint.update({"safety": [4.0] * 8}, learnt=True)
    assert constraint.bound("safety") == frozen and constraint.multipliers["safety"].value > 1.0


def test_a_bound_is_never_negative_and_a_number_needs_no_measuring() -> None:
    constraint = SafetyConstraint(SafetyConfig(margin=50.0))
    constraint.update({"case": [1.0, 0.0]}, learnt=False)
    assert constraint.bound("case") == 0.0
    assert SafetyConstraint(STEADY).bound("control") == 0.25


def test_a_kind_without_consultations_or_without_a_bound_stays_as_it_is() -> None:
    constraint = SafetyConstraint(SafetyConfig())
    constraint.update({"case": [0.0, 1.0]}, learnt=False)
    constraint.update({"control": [1.0]}, learnt=True)
    assert {kind: constraint.multipliers[kind].value for kind in KINDS} == dict.fromkeys(KINDS, 1.0)


def test_refusing_everything_saves_the_safety_prompts_but_pays_by_the_controls() -> None:
    constraint = SafetyConstraint(replace(STEADY, multiplier=0.5))
    for _ in range(20):
        constraint.update({"safety": [0.0] * 6, "control": [1.0] * 6}, learnt=True)
    assert constraint.multipliers["safety"].value == 0.0 and constraint.multipliers["control"].value > 2.0
    # And there a refusal has the lower advantage, however well a common mean would have looked.
    batch, scored = _batch([[1], [0]], rewards=[1.0, -1.0])
    constraint.weigh(batch, scored, ["control", "control"], 1.0)
    assert batch.advantages[0].max() < 0 < batch.advantages[1].min()


def test_samples_of_one_prompt_are_one_number() -> None:
    scored = [ScoredTurns([0.0], [cost]) for cost in (1, 0, 1, 1)]
    kinds = ["case", "case", "control", "case"]
    assert costs_by_kind([0, 0, 1, 2], kinds, scored) == {"case": [0.5, 1.0], "control": [1.0]}


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit() -> None:
    """At every step, also while the bound is still measured; by way of JSON, as a checkpoint has it."""
    random = np.random.default_rng(3)
    steps = [{kind: random.uniform(0, 4, 7).tolist() for kind in KINDS} for _ in range(9)]
    config = SafetyConfig()
    whole = SafetyConstraint(config)
    killed = SafetyConstraint(config)
    for step, costs in enumerate(steps):
        whole.update(costs, learnt=step > 2)
        killed.update(costs, learnt=step > 2)
        text = json.dumps(killed.state())
        killed = SafetyConstraint(config)
        killed.restore(json.loads(text))
        assert killed.state() == whole.state() and killed.figures(costs) == whole.figures(costs)
    assert len({multiplier.value for multiplier in whole.multipliers.values()}) == len(KINDS)
