from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from zj_ray.algorithms.balance import pack, partition
from zj_ray.algorithms.gae import gae, turn_end_rewards
from zj_ray.algorithms.importance import importance_weights
from zj_ray.algorithms.kl import KLController, kl
from zj_ray.algorithms.masked import masked_mean
from zj_ray.algorithms.policy_loss import clip_fraction, policy_loss, token_policy_loss
from zj_ray.algorithms.preference import majority
from zj_ray.algorithms.ranking_loss import bradley_terry, pair_outcomes
from zj_ray.algorithms.value_loss import value_loss
from zj_ray.algorithms.whitening import whiten
from zj_ray.errors import ConfigError

CLIPS = {"clip_low": 0.2, "clip_high": 0.2}


@pytest.mark.parametrize("patient_tokens", [0, 1, 20, 200])
def test_gae_carries_across_the_patients_tokens(patient_tokens: int) -> None:
    mask = torch.tensor([[True] * 3 + [False] * patient_tokens + [True] * 3])
    values = torch.where(mask, 0.5, 0.1)
    rewards = torch.zeros(mask.shape)
    rewards[0, -1] = 1.0
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=0.95)
    # All deltas but the last are 1·0.5 − 0.5 = 0; the last is 1 − 0.5, discounted by λ over the five tokens before it.
    assert advantages[0, 0].item() == pytest.approx(0.5 * 0.95**5, abs=1e-6)
    assert returns[0, 0].item() == pytest.approx(0.5 * 0.95**5 + 0.5, abs=1e-6)
    assert torch.all(advantages[~mask] == 0)


def test_gae_with_discount_equals_the_recursion_done_by_hand() -> None:
    rewards, values = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.25]])
    advantages, _ = gae(rewards, values, torch.ones(1, 2, dtype=torch.bool), gamma=0.9, lam=0.5)
    last = 2.0 - 0.25
    assert advantages[0].tolist() == pytest.approx([1.0 + 0.9 * 0.25 - 0.5 + 0.45 * last, last])


def test_garbage_in_masked_slots_changes_nothing() -> None:
    mask = torch.tensor([[True, False, True]])
    clean = torch.tensor([[0.3, 0.0, -0.2]])
    dirty = torch.tensor([[0.3, float("nan"), -0.2]])
    rewards = torch.tensor([[0.0, 0.0, 1.0]])
    assert torch.equal(gae(rewards, clean, mask, 1.0, 0.95)[0], gae(dirty - dirty + rewards, dirty, mask, 1.0, 0.95)[0])
    assert gae(rewards, dirty, mask, 1.0, 0.95)[1][0, 1] == 0.0  # returns too
    assert torch.equal(whiten(clean, mask), whiten(dirty, mask))
    for x in (clean, dirty):
        x.requires_grad_(True)
        loss = policy_loss(x, clean.detach() * 0.9, rewards + 1.0, mask, **CLIPS)
        (loss + value_loss(x, clean.detach(), rewards, mask, 0.2)).backward()
    assert torch.isfinite(dirty.grad).all() and torch.equal(clean.grad, dirty.grad)  # type: ignore[arg-type]


def test_garbage_in_masked_advantages_reaches_no_gradient() -> None:
    logprobs = torch.zeros(1, 2, requires_grad=True)
    advantages, mask = torch.tensor([[1.0, float("inf")]]), torch.tensor([[True, False]])
    losses = token_policy_loss(logprobs, torch.zeros(1, 2), advantages, mask, **CLIPS)
    assert losses.tolist() == [[-1.0, 0.0]]
    losses.sum().backward()
    assert logprobs.grad is not None and logprobs.grad.tolist() == [[-1.0, 0.0]]


def test_a_masked_mean_is_over_the_tokens_that_count() -> None:
    x, mask = torch.tensor([[1.0, float("nan")], [3.0, 7.0]]), torch.tensor([[True, False], [True, True]])
    assert masked_mean(x, mask).item() == pytest.approx(11 / 3)
    assert masked_mean(x, torch.zeros(2, 2)).item() == 0.0


def test_whitening_is_over_masked_tokens_of_the_whole_batch() -> None:
    x, mask = torch.tensor([[1.0, 99.0], [3.0, 5.0]]), torch.tensor([[True, False], [True, True]])
    white = whiten(x, mask)[mask]
    assert white.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert white.std(unbiased=False).item() == pytest.approx(1.0, abs=1e-5)
    assert white.tolist() == pytest.approx([-2 / math.sqrt(8 / 3), 0.0, 2 / math.sqrt(8 / 3)], abs=1e-5)


def test_turn_end_rewards_stand_at_the_last_token_of_each_turn() -> None:
    assert turn_end_rewards([[1, 3], [0]], [[0.5, -1.0], [2.0]], 4).tolist() == [
        [0.0, 0.5, 0.0, -1.0],
        [2.0, 0.0, 0.0, 0.0],
    ]


def test_policy_loss_clips_each_side_by_its_own_bound() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    old, new = torch.zeros(1, 2), torch.log(torch.tensor([[1.5, 0.5]]))
    # Ratio 1.5 with A = 1 is held at 1.28, ratio 0.5 with A = −1 at 0.8: −(1.28·1 + 0.8·(−1)) / 2.
    loss = policy_loss(new, old, torch.tensor([[1.0, -1.0]]), mask, clip_low=0.2, clip_high=0.28)
    assert loss.item() == pytest.approx(-(1.28 - 0.8) / 2)
    assert clip_fraction(new, old, mask, 0.2, 0.28).item() == 1.0


def test_dual_clip_bounds_the_loss_of_bad_actions_only() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    ratio = torch.log(torch.tensor([[10.0, 10.0]]))
    loss = policy_loss(ratio, torch.zeros(1, 2), torch.tensor([[-1.0, 1.0]]), mask, **CLIPS, dual_clip=3.0)
    assert loss.item() == pytest.approx((3.0 - 1.2) / 2)


def test_first_on_policy_step_has_ratio_one_so_the_loss_is_minus_the_mean_advantage() -> None:
    logprobs = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    advantages = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 5, dtype=torch.bool)
    loss = policy_loss(logprobs, logprobs, advantages, mask, **CLIPS)
    assert loss.item() == pytest.approx(-advantages.mean().item(), abs=1e-6)


def test_value_clip_takes_the_larger_error() -> None:
    mask = torch.ones(1, 1, dtype=torch.bool)
    # New value 1.0 hits the return, but it moved by 1 where 0.2 is allowed: the clipped value 0.2 is wrong by 0.8.
    loss = value_loss(torch.tensor([[1.0]]), torch.tensor([[0.0]]), torch.tensor([[1.0]]), mask, clip=0.2)
    assert loss.item() == pytest.approx(0.5 * 0.8**2)
    assert value_loss(
        torch.tensor([[3.0]]), torch.tensor([[0.0]]), torch.tensor([[1.0]]), mask, clip=None
    ).item() == pytest.approx(2.0)


def test_kl_estimators_by_hand() -> None:
    new, reference = torch.tensor([-1.0]), torch.tensor([-1.5])
    assert kl(new, reference, "k1").item() == pytest.approx(0.5)
    assert kl(new, reference, "k2").item() == pytest.approx(0.125)
    assert kl(new, reference, "k3").item() == pytest.approx(math.exp(-0.5) - 1 + 0.5)
    with pytest.raises(ConfigError, match="k9"):
        kl(new, reference, "k9")  # type: ignore[arg-type]


def test_adaptive_controller_moves_towards_the_target_and_fixed_one_stays() -> None:
    adaptive, fixed = KLController(0.1, target=0.05, horizon=100), KLController(0.1)
    adaptive.update(observed=1.0, samples=50)  # error clipped to +20 %, half a horizon
    fixed.update(observed=1.0, samples=50)
    assert adaptive.coefficient == pytest.approx(0.11) and fixed.coefficient == 0.1
    adaptive.update(observed=0.0, samples=100)
    assert adaptive.coefficient == pytest.approx(0.11 * 0.8)


def preferred(*ranks: float) -> torch.Tensor:
    """One annotator's preferences."""
    return torch.from_numpy(majority(np.array(ranks)[:, None]))


def test_tied_answers_form_no_pair() -> None:
    scores = torch.tensor([2.0, 1.0, 0.0], requires_grad=True)
    loss = bradley_terry(scores, preferred(1.0, 2.0, 2.0))  # pairs: 0 over 1, 0 over 2
    assert loss.item() == pytest.approx((math.log1p(math.exp(-1.0)) + math.log1p(math.exp(-2.0))) / 3)
    tied = bradley_terry(scores, preferred(1.0, 1.0, 1.0))
    tied.backward()
    assert tied.item() == 0.0 and torch.all(scores.grad == 0)  # type: ignore[arg-type]
    assert pair_outcomes(scores, preferred(1.0, 3.0, 2.0)) == (2, 3)
    assert pair_outcomes(torch.zeros(2), preferred(1.0, 2.0)) == (0, 1)


def test_nan_ranks_form_no_pair() -> None:
    nan = float("nan")
    assert bradley_terry(torch.tensor([1.0, 2.0]), preferred(nan, nan)).item() == 0.0


def test_a_preference_is_what_most_annotators_see() -> None:
    ranks = np.array([[1, 1, 2], [2, 2, 1], [3, 2, 2]], dtype=float)  # three answers, three annotators
    assert majority(ranks).tolist() == [[False, True, True], [False, False, True], [False, False, False]]
    assert majority(ranks[:, 1:]).tolist() == [[False, False, False], [False, False, False], [False, False, False]]
    absent = np.array([[1.0, np.nan], [2.0, np.nan]])
    assert majority(absent).tolist() == [[False, True], [False, False]]  # who did not rank has no vote
    assert not majority(np.array([[1, 2], [2, 1]])).any()  # one against one
    assert not majority(np.array([[1, 1], [2, 1]])).any()  # one of two is not most


def test_importance_weights_are_truncated_and_constant() -> None:
    trainer = torch.tensor([[0.0, -1.0]], requires_grad=True)
    weights = importance_weights(trainer, torch.tensor([[-5.0, -1.0]]), torch.ones(1, 2, dtype=torch.bool), cap=2.0)
    assert weights.tolist() == [[2.0, 1.0]] and not weights.requires_grad


def test_sequence_weights_are_the_ratio_of_the_whole_row() -> None:
    trainer, engine = torch.tensor([[0.1, 9.0, 0.2]]), torch.zeros(1, 3)
    mask = torch.tensor([[True, False, True]])
    weights = importance_weights(trainer, engine, mask, cap=2.0, level="sequence")
    assert weights.tolist() == [pytest.approx([math.exp(0.3), 1.0, math.exp(0.3)])]
    assert importance_weights(trainer * 10, engine, mask, 2.0, "sequence").tolist() == [[2.0, 1.0, 2.0]]
    lower = importance_weights(-trainer, engine, mask, 2.0)
    assert lower.tolist() == [pytest.approx([math.exp(-0.1), 1.0, math.exp(-0.2)])]


def test_partition_balances_and_pack_respects_capacity() -> None:
    lengths = [9, 7, 6, 5, 4, 3, 2, 1]
    shares = partition(lengths, 3)
    totals = [sum(lengths[i] for i in share) for share in shares]
    assert sorted(i for share in shares for i in share) == list(range(8)) and max(totals) - min(totals) <= 2
    rows = pack(lengths, 10)
    assert sorted(i for row in rows for i in row) == list(range(8)) and all(
        sum(lengths[i] for i in row) <= 10 for row in rows
    )
    assert pack([50], 10) == [[0]]
