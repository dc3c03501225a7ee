from __future__ import annotations

import pytest
import torch

from zj_ray.algorithms.critic_free import grpo, rloo
from zj_ray.algorithms.gae import gae
from zj_ray.algorithms.whitening import whiten

PROMPTS = torch.tensor([0, 1, 0, 1, 0, 2])  # the samples of a prompt need not stand together
TOTALS = torch.tensor([1.0, 5.0, 2.0, 5.0, 6.0, 9.0])


def test_grpo_measures_a_sample_in_its_prompts_own_deviations() -> None:
    # Prompt 0: mean 3, deviations −2, −1, 3, their square mean 14/3. Prompt 1: all alike. Prompt 2: alone.
    deviation = (14 / 3) ** 0.5
    assert grpo(TOTALS, PROMPTS).tolist() == pytest.approx(
        [-2 / deviation, 0.0, -1 / deviation, 0.0, 3 / deviation, 0.0], abs=1e-5
    )


def test_rloo_compares_a_sample_with_the_others_and_never_with_itself() -> None:
    # Prompt 0: 1 − (2+6)/2, 2 − (1+6)/2, 6 − (1+2)/2.
    assert rloo(TOTALS, PROMPTS).tolist() == pytest.approx([-3.0, 0.0, -1.5, 0.0, 4.5, 0.0])


@pytest.mark.parametrize("estimator", [grpo, rloo])
def test_a_prompts_advantages_sum_to_zero_and_other_prompts_do_not_matter(estimator) -> None:
    totals = torch.randn(12, generator=torch.Generator().manual_seed(0))
    prompts = torch.arange(12) % 3
    advantages = estimator(totals, prompts)
    for prompt in range(3):
        assert advantages[prompts == prompt].sum().item() == pytest.approx(0.0, abs=1e-5)
    shifted = estimator(torch.where(prompts == 1, totals * 7 + 100, totals), prompts)
    torch.testing.assert_close(shifted[prompts != 1], advantages[prompts != 1])


def test_reinforce_pp_is_gae_without_values() -> None:
    """Turn rewards 1 and 2 over two turns of two tokens with a patient's token between: 3, 3, –, 2, 2."""
    mask = torch.tensor([[True, True, False, True, True]])
    rewards = torch.tensor([[0.0, 1.0, float("nan"), 0.0, 2.0]])
    advantages, _ = gae(rewards, torch.zeros(1, 5), mask, gamma=1.0, lam=1.0)
    assert advantages.tolist() == [[3.0, 3.0, 0.0, 2.0, 2.0]]
    assert whiten(advantages, mask).tolist() == [pytest.approx([1.0, 1.0, 0.0, -1.0, -1.0])]
