"""From scores to advantages: KL-shaped turn rewards, an estimator, whitening, in one batched pass over a whole step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from zj_ray.algorithms.critic_free import grpo, rloo
from zj_ray.algorithms.gae import gae, turn_end_rewards
from zj_ray.algorithms.importance import importance_weights
from zj_ray.algorithms.kl import kl
from zj_ray.algorithms.masked import masked_mean
from zj_ray.algorithms.whitening import whiten
from zj_ray.config.schema import PPOConfig
from zj_ray.rewards.mix import ScoredTurns
from zj_ray.roles.batch import RolloutBatch, pad, unpad


@dataclass(frozen=True)
class PolicyDrift:
    """How far the policy is from the reference, and the engines' log-probs from the trainer's, over generated tokens.

    kl: mean per token; kl_coefficient: the β that it was weighed with. mismatch: over the tokens that the policy's own
    version generated (NaN if there are none): the others differ because the policy has moved. staleness: mean number of
    publications since a token was generated. importance: mean weight of a token. value_explained: share of the returns'
    variance that the critic foresaw; 1 is perfect, 0 no better than a constant, NaN where there is no critic.
    """

    kl: float
    kl_coefficient: float
    mismatch_mean: float
    mismatch_max: float
    staleness: float
    importance: float
    value_explained: float


def estimate_advantages(
    batch: RolloutBatch, scored: list[ScoredTurns], kl_coefficient: float, config: PPOConfig
) -> PolicyDrift:
    """Fill in advantages, returns (for a critic) and importance weights.

    Rewards stand at turn ends; −β·KL at every token, where the KL is paid in the reward.
    """
    old, mask = pad(batch.old_logprobs)
    reference, _ = pad(batch.reference_logprobs)
    behaviour, _ = pad(batch.behaviour_logprobs)
    rewards = turn_end_rewards([ends.tolist() for ends in batch.turn_ends], [s.rewards for s in scored], old.shape[1])
    if config.kl_in == "reward":
        rewards = rewards - torch.where(mask, kl_coefficient * kl(old, reference, config.kl_estimator), 0.0)
    generated, explained = batch.generated, float("nan")
    if config.advantage == "gae":
        values, _ = pad(batch.values)
        raw, returns = gae(rewards, values, mask, config.gamma, config.lam)
        explained = float(1 - raw[mask].var() / (returns[mask].var() + 1e-8))
        batch.returns = unpad(returns, generated)
        advantages = whiten(raw, mask)
    elif config.advantage == "reinforce_pp":
        advantages = whiten(gae(rewards, torch.zeros_like(rewards), mask, config.gamma, lam=1.0)[0], mask)
    else:
        compare = {"grpo": grpo, "rloo": rloo}[config.advantage]
        advantages = compare(rewards.sum(1), torch.tensor(batch.prompts))[:, None].expand(mask.shape)
    batch.advantages = unpad(advantages, generated)
    importance = importance_weights(old, behaviour, mask, config.importance_cap, config.importance)
    batch.importance = unpad(importance, generated)
    stale = np.concatenate(batch.staleness)
    fresh = np.abs(np.concatenate(batch.old_logprobs) - np.concatenate(batch.behaviour_logprobs))[stale == 0]
    return PolicyDrift(
        kl=float(masked_mean(kl(old, reference, "k3"), mask)),
        kl_coefficient=kl_coefficient,
        mismatch_mean=float(fresh.mean()) if len(fresh) else float("nan"),
        mismatch_max=float(fresh.max()) if len(fresh) else float("nan"),
        staleness=float(stale.mean()),
        importance=float(masked_mean(importance, mask)),
        value_explained=explained,
    )
