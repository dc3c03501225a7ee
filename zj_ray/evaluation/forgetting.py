"""Forgetting: how well a model still predicts text that it was not trained on last.

A loss here is a mean over tokens of the whole set, not a mean of batch means, so it does not depend on the batch size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn


def perplexity(model: nn.Module, blocks: Sequence[Sequence[int]], *, batch_size: int = 8) -> float:
    """exp(mean negative log-likelihood [nats per token]) of tokenised `blocks`, each at least one token long and scored from its second on."""
    return math.exp(mean_loss(model, blocks, batch_size=batch_size))


@torch.no_grad()
def mean_loss(
    model: nn.Module,
    blocks: Sequence[Sequence[int]],
    *,
    loss_masks: Sequence[Sequence[bool]] | None = None,
    batch_size: int = 8,
) -> float:
    """Mean negative log-likelihood [nats per token] of `blocks` under a Hugging Face causal LM, which is left in the mode it was in.

    loss_masks: true at the tokens that count, in the shape of `blocks` (an SFT example's answer); None: all but each block's
    first, which nothing predicts. Raises ValueError when no token counts.
    """
    masks = loss_masks if loss_masks is not None else [[True] * len(block) for block in blocks]
    device = next(model.parameters()).device
    order = sorted(range(len(blocks)), key=lambda i: len(blocks[i]))  # like lengths together: little padding
    training = model.training
    model.eval()
    total, count = 0.0, 0
    try:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            loss, tokens = _batch_loss(model, [blocks[i] for i in chosen], [masks[i] for i in chosen], device)
            total, count = total + loss, count + tokens
    finally:
        model.train(training)
    if count == 0:
        raise ValueError("no token to score: every block is shorter than two tokens or masked out")
    return total / count


def _batch_loss(
    model: nn.Module, blocks: Sequence[Sequence[int]], masks: Sequence[Sequence[bool]], device: torch.device
) -> tuple[float, int]:
    """(summed loss, counted tokens) of one right-padded batch; padding is neither attended to nor counted."""
    longest = max(len(block) for block in blocks)
    ids = torch.tensor([[*block, *[0] * (longest - len(block))] for block in blocks], device=device)
    attention = torch.tensor([[1] * len(block) + [0] * (longest - len(block)) for block in blocks], device=device)
    counts = torch.tensor(
        [[*mask, *[False] * (longest - len(mask))] for mask in masks], dtype=torch.bool, device=device
    )[:, 1:]
    logits = model(input_ids=ids, attention_mask=attention).logits[:, :-1][counts]  # [counted tokens, vocabulary]
    return float(nn.functional.cross_entropy(logits.float(), ids[:, 1:][counts], reduction="sum")), int(counts.sum())
