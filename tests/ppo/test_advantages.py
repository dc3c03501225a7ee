"""From turn scores to what the ranks learn from: mixing, KL shaping, GAE, and the order of prompts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from zj_ray.config.schema import PPOConfig, RewardMixConfig
from zj_ray.data.case import Case, Fact, Prompt
from zj_ray.data.trajectory import Trajectory, Turn
from zj_ray.errors import DataError
from zj_ray.patients.stream import PromptStream
from zj_ray.ppo.advantages import estimate_advantages
from zj_ray.rewards.mix import ScoredTurns, ScoreScale, score_turns
from zj_ray.roles.batch import RolloutBatch

CASE = Case(
    "c",
    "内科",
    "医生，我头痛。",
    (Fact("起病", "三天前"),),
    (),
    dict.fromkeys(("diagnosis", "treatment", "advice", "basis")),
    (),
)
ONLY_RULE = RewardMixConfig(
    **dict.fromkeys(
        ("reward_model", "new_facts", "red_flag", "advice", "repetition", "length", "format", "safety"), 0.0
    )
)


def _turn(text: str, start: int, end: int, **seen: object) -> Turn:
    return Turn(start, end, text, 1, "engine-0", True, **seen)  # type: ignore[arg-type]


def _two_turns(patient_tokens: int) -> Trajectory:
    trajectory = Trajectory("c", 0, 0)
    trajectory.append_context([1, 2])
    ask = trajectory.append_generated([3, 4, 5], [-1.0, -1.0, -1.0])
    trajectory.append_context([6] * patient_tokens)
    advise = trajectory.append_generated([7, 8, 9], [-1.0, -1.0, -1.0])
    trajectory.turns = [
        _turn("您好，请问疼了多久了？", *ask, new_facts=(0,), questions=1),
        _turn("建议您到医院做检查，注意休息。", *advise),
    ]
    return trajectory


def _batch(trajectory: Trajectory, reference: float) -> RolloutBatch:
    batch = RolloutBatch.of([trajectory], 1)
    batch.old_logprobs = [np.full(6, -1.0, np.float32)]
    batch.reference_logprobs = [np.full(6, reference, np.float32)]
    batch.values = [np.full(6, 0.5, np.float32)]
    return batch


@pytest.mark.parametrize("patient_tokens", [1, 20])
def test_returns_carry_the_last_turns_reward_to_the_first_token_whatever_the_patient_says(patient_tokens: int) -> None:
    batch = _batch(_two_turns(patient_tokens), reference=-1.0)
    found = estimate_advantages(batch, [ScoredTurns(rewards=[0.0, 1.0])], kl_coefficient=0.1, config=PPOConfig())
    assert batch.returns[0][0] == pytest.approx(0.5 + 0.5 * 0.95**5, abs=1e-6)
    assert batch.advantages[0].mean() == pytest.approx(0.0, abs=1e-6) and found.kl == 0.0 and found.mismatch_mean == 0.0


def test_kl_to_the_reference_is_paid_at_every_generated_token() -> None:
    free, paid = _batch(_two_turns(3), -1.0), _batch(_two_turns(3), -1.5)
    config = replace(PPOConfig(), lam=1.0)
    for batch in (free, paid):
        estimate_advantages(batch, [ScoredTurns(rewards=[0.0, 1.0])], kl_coefficient=0.1, config=config)
    # log π − log π_ref = 0.5 at each of six tokens: the return of token t lacks 0.05 for itself and every later one.
    np.testing.assert_allclose(free.returns[0] - paid.returns[0], 0.05 * np.arange(6, 0, -1), atol=1e-6)


def _siblings(totals: list[float]) -> tuple[RolloutBatch, list[ScoredTurns]]:
    """Samples of one prompt, each with two turns: half of what it earned after the first, half after the second."""
    batch = RolloutBatch.of([_two_turns(1 + i) for i in range(len(totals))], 1)
    batch.old_logprobs = [np.full(6, -1.0, np.float32) for _ in totals]
    batch.reference_logprobs = [np.full(6, -1.5, np.float32) for _ in totals]
    return batch, [ScoredTurns(rewards=[total / 2, total / 2]) for total in totals]


def test_without_a_critic_every_token_of_a_consultation_gets_what_it_earned_against_its_siblings() -> None:
    batch, scored = _siblings([1.0, 2.0, 6.0])
    config = replace(PPOConfig(), advantage="rloo", samples=3)
    estimate_advantages(batch, scored, kl_coefficient=0.1, config=config)
    assert batch.returns == []
    for ours, earned in zip(batch.advantages, (-3.0, -1.5, 4.5), strict=True):  # the KL is the same for all three
        np.testing.assert_allclose(ours, np.full(6, earned), atol=1e-5)
    estimate_advantages(batch, scored, 0.1, replace(config, advantage="grpo"))
    np.testing.assert_allclose([a[0] for a in batch.advantages], np.array([-2, -1, 3]) / (14 / 3) ** 0.5, atol=1e-5)


def test_reinforce_pp_pays_a_token_for_what_came_after_it() -> None:
    batch, scored = _siblings([1.0, 3.0])
    estimate_advantages(batch, scored, 0.0, replace(PPOConfig(), advantage="reinforce_pp"))
    raw = np.array([[1.0] * 3 + [0.5] * 3, [3.0] * 3 + [1.5] * 3])
    np.testing.assert_allclose(np.stack(batch.advantages), (raw - raw.mean()) / raw.std(), atol=1e-5)


def test_a_kl_that_is_paid_in_the_loss_is_not_paid_in_the_reward() -> None:
    paid, free = _batch(_two_turns(3), -1.5), _batch(_two_turns(3), -1.5)
    estimate_advantages(paid, [ScoredTurns(rewards=[0.0, 1.0])], 0.1, PPOConfig())
    found = estimate_advantages(
        free, [ScoredTurns(rewards=[0.0, 1.0])], 0.1, replace(PPOConfig(), kl_in="loss", kl_estimator="k3")
    )
    assert (
        free.returns[0][0] == pytest.approx(0.5 + 0.5 * 0.95**5, abs=1e-6) and paid.returns[0][0] < free.returns[0][0]
    )
    assert found.kl == pytest.approx(np.exp(-0.5) - 1 + 0.5, abs=1e-6)


def test_tokens_of_an_older_policy_are_corrected_by_its_own_logprobs_and_are_no_mismatch() -> None:
    """The first turn is a version old: its tokens are now twice as likely, the second turn's a third as likely."""
    trajectory = _two_turns(3)
    trajectory.turns[1].weight_version = 2
    batch = RolloutBatch.of([trajectory], 2)
    batch.old_logprobs = [np.array([-1 + np.log(2)] * 3 + [-1 - np.log(3)] * 3, np.float32)]
    batch.reference_logprobs, batch.values = batch.old_logprobs, [np.full(6, 0.5, np.float32)]
    found = estimate_advantages(batch, [ScoredTurns(rewards=[0.0, 1.0])], 0.1, replace(PPOConfig(), importance_cap=1.5))
    assert batch.staleness[0].tolist() == [1, 1, 1, 0, 0, 0] and found.staleness == 0.5
    np.testing.assert_allclose(batch.importance[0], [1.5] * 3 + [1 / 3] * 3, rtol=1e-5)
    assert found.mismatch_mean == pytest.approx(np.log(3), abs=1e-5) and found.importance == pytest.approx(
        (1.5 + 1 / 3) / 2, abs=1e-5
    )
    trajectory.turns[1].weight_version = 1
    batch.staleness = RolloutBatch.of([trajectory], 2).staleness
    assert np.isnan(
        estimate_advantages(batch, [ScoredTurns(rewards=[0.0, 1.0])], 0.1, PPOConfig()).mismatch_mean
    )  # nothing to compare


def test_turn_ends_point_at_the_last_generated_token_of_each_turn() -> None:
    batch = RolloutBatch.of([_two_turns(4)], 1)
    assert batch.turn_ends[0].tolist() == [2, 5] and batch.positions[0].tolist() == [2, 3, 4, 9, 10, 11]


def test_a_turns_reward_is_the_weighted_sum_of_its_named_parts() -> None:
    mix = replace(ONLY_RULE, reward_model=0.5, new_facts=2.0)
    prompt = Prompt("c", "case", CASE.opening, case=CASE)
    scored = score_turns(_two_turns(1), prompt, [3.0, -1.0], ScoreScale(mean=1.0, deviation=2.0), mix, "weight")
    assert scored.rewards == pytest.approx([0.5 * 1.0 + 2.0 * 0.5, 0.5 * -1.0], abs=1e-5)
    assert scored.parts[0]["new_facts"] == 0.5 and {"red_flag", "advice", "repetition", "length", "format"} <= set(
        scored.parts[0]
    )


def test_the_safety_gate_stops_a_turn_whatever_else_it_earned() -> None:
    trajectory = _two_turns(1)
    trajectory.turns[1].text = "没事的，不用去医院，这个药一次吃十片保证治好。"
    mix = replace(ONLY_RULE, reward_model=1.0, unsafe=-3.0)
    scored = score_turns(
        trajectory, Prompt("c", "case", CASE.opening, case=CASE), [9.0, 9.0], ScoreScale(0.0, 1.0), mix, "weight"
    )
    assert scored.rewards[0] == 3.0 and scored.rewards[1] == -3.0
    refused = Prompt("s", "safety", "给我开安眠药。", expected="refuse_and_refer")
    trajectory.turns[1].text = "好的，这就给您开，每晚吃三片。"
    assert score_turns(trajectory, refused, [0.0, 0.0], ScoreScale(0.0, 1.0), mix, "weight").rewards[1] == -3.0
    cut_off = replace(
        trajectory.turns[1], finished=False
    )  # failing is worse still in bad prose, though good prose mends nothing
    trajectory.turns[1] = cut_off
    assert (
        score_turns(
            trajectory, refused, [0.0, 0.0], ScoreScale(0.0, 1.0), replace(mix, format=1.0), "weight"
        ).rewards[1]
        == -3.5
    )
    trajectory.turns[1].finished = True
    benign = Prompt("k", "control", "安眠药为什么要凭处方？", expected="answer_helpfully")
    trajectory.turns[1].text = "这个问题我不能回答，请咨询医生。"
    assert score_turns(trajectory, benign, [0.0, 0.0], ScoreScale(0.0, 1.0), mix, "weight").rewards[1] == -3.0


def _pool() -> list[Prompt]:
    cases = [Prompt(f"c{i}", "case", "痛", case=CASE) for i in range(7)]
    return (
        cases
        + [Prompt(f"s{i}", "safety", "药", expected="refuse_and_refer") for i in range(3)]
        + [Prompt("k", "control", "药", expected="answer_helpfully")]
    )


def test_prompts_of_a_step_depend_on_seed_and_step_alone_and_every_case_comes_once_a_lap() -> None:
    stream = PromptStream(_pool(), seed=1, safety_share=0.3)
    steps = [stream.take(step, 10) for step in range(7)]
    assert [p.id for p in PromptStream(_pool(), 1, 0.3).take(5, 10)] == [p.id for p in steps[5]]
    assert [[p.kind for p in steps[0]].count(kind) for kind in ("case", "safety", "control")] == [7, 1, 2]
    for step in steps:
        assert sorted(p.id for p in step if p.kind == "case") == [f"c{i}" for i in range(7)]
    assert [p.id for p in steps[0]] != [p.id for p in PromptStream(_pool(), 2, 0.3).take(0, 10)]


def test_a_stream_without_cases_is_refused() -> None:
    with pytest.raises(DataError, match="no patient cases"):
        PromptStream(_pool()[7:], seed=0, safety_share=0.2)
