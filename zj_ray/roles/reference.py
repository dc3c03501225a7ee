"""The reference: the frozen SFT model whose log-probs keep the policy from drifting."""

from __future__ import annotations

from zj_ray.roles.policy import PolicyRank


class ReferenceRank(PolicyRank):
    """The policy's forward pass over weights that never change."""
