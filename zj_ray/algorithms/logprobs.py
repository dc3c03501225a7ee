"""Log-probs and entropies of sampled tokens, with as few passes over the logits as their gradient needs.

`[tokens, vocabulary]` is the widest array of a training step: composed of log_softmax, gather and an entropy it is
written seven times. Here it is written once going forward (twice where an entropy is asked for), and its gradient
overwrites it.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

Entropy = Literal["unknown", "measured", "learned"]


def sampled_logprobs(logits: Tensor, chosen: Tensor, entropy: Entropy = "unknown") -> tuple[Tensor, Tensor]:
    """Log-probs of the tokens `chosen` `[n]` under `logits` `[n, vocabulary]` and the distributions' entropies.

    Both are `[n]`. entropy: "unknown" leaves the entropies NaN and saves their cost, "measured" gives them no gradient,
    "learned" does.
    """
    logprobs, entropies = _SampledLogprobs.apply(logits, chosen, entropy)
    return logprobs, entropies


class _SampledLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, chosen: Tensor, entropy: Entropy) -> tuple[Tensor, Tensor]:
        distribution = torch.log_softmax(logits, dim=-1)
        logprobs = distribution.gather(1, chosen[:, None])[:, 0]
        entropies = torch.full_like(logprobs, float("nan"))
        probabilities = None
        if entropy != "unknown":
            probabilities = distribution.exp()
            entropies = -torch.linalg.vecdot(probabilities, distribution)
        if entropy != "learned":
            ctx.mark_non_differentiable(entropies)
        if ctx.needs_input_grad[0]:
            kept = (distribution, entropies) if entropy == "learned" else ()
            ctx.save_for_backward(distribution.exp_() if probabilities is None else probabilities, chosen, *kept)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        probabilities, chosen, *kept = ctx.saved_tensors
        towards, spread = gradients
        if kept:
            distribution, entropies = kept
            slope = probabilities * -(towards[:, None] + spread[:, None] * (distribution + entropies[:, None]))
        else:
            slope = probabilities.mul_(-towards[:, None])  # over what nobody needs any more
        slope[torch.arange(len(chosen), device=chosen.device), chosen] += towards
        return slope, None, None
