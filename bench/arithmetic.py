"""The floating-point operations that a PPO step cannot avoid, counted from the model's shape and the texts' lengths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import LlamaConfig

PHASES = ("rollout", "score", "advantages", "update", "sync")  # of PPOLoop.step


def parameters(shape: LlamaConfig) -> tuple[int, int]:
    """The number of parameters that a token is multiplied with: in the layers' matrices, and in the head."""
    head_size = shape.hidden_size // shape.num_attention_heads
    attention = 2 * shape.hidden_size**2 + 2 * shape.hidden_size * head_size * shape.num_key_value_heads
    layer = attention + 3 * shape.hidden_size * shape.intermediate_size
    return shape.num_hidden_layers * layer, shape.hidden_size * shape.vocab_size


def trunk_flops(shape: LlamaConfig, lengths: Sequence[int]) -> float:
    """FLOP of one forward pass through the layers; each token attends to those before it in its document."""
    documents = np.asarray(lengths, dtype=float)
    products = 2 * parameters(shape)[0] * documents.sum()
    attention = 2 * shape.num_hidden_layers * shape.hidden_size * (documents**2).sum()
    return float(products + attention)


def necessary(shape: LlamaConfig, lengths: Sequence[int], generated: int, epochs: int = 1) -> dict[str, float]:
    """FLOP by phase.

    Every token goes once through the layers of every model, and through the policy's head where it was generated; a
    backward pass costs two forward passes. The policy's own log-probs before the update are left out: who trusts the
    engine to agree has them already.
    """
    trunk = trunk_flops(shape, lengths)
    policy = trunk + 2 * parameters(shape)[1] * generated
    return {
        "rollout": policy,
        "score": policy + 2 * trunk,
        "advantages": 0.0,
        "update": 3.0 * epochs * (policy + trunk),
        "sync": 0.0,
    }
