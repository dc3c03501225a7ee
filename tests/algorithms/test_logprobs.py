from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zj_ray.algorithms.logprobs import Entropy, sampled_logprobs


def _composed(logits: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    distribution = torch.log_softmax(logits, -1)
    return distribution.gather(1, chosen[:, None])[:, 0], -(distribution.exp() * distribution).sum(-1)


@pytest.mark.parametrize("entropy", ["unknown", "measured", "learned"])
def test_values_and_gradients_are_those_of_the_composed_formula(entropy: Entropy) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 11, generator=generator, dtype=torch.float64) * 3
    chosen = torch.randint(0, 11, (6,), generator=generator)
    weights, spread = torch.randn(2, 6, generator=generator)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    logprobs, entropies = sampled_logprobs(ours, chosen, entropy)
    expected, expected_entropies = _composed(theirs, chosen)
    torch.testing.assert_close(logprobs, expected)
    if entropy == "unknown":
        assert entropies.isnan().all() and not entropies.requires_grad
    else:
        torch.testing.assert_close(entropies, expected_entropies)
        assert entropies.requires_grad == (entropy == "learned")
    learned = float(entropy == "learned")
    ((logprobs * weights).sum() + learned * (entropies.nan_to_num() * spread).sum()).backward()
    ((expected * weights).sum() + learned * (expected_entropies * spread).sum()).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_second_backward_pass_is_refused_because_the_first_has_used_the_memory_up() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    loss = sampled_logprobs(logits, torch.tensor([0, 1]))[0].sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace"):
        loss.backward()


def test_without_a_gradient_the_values_are_the_same() -> None:
    logits, chosen = torch.randn(3, 5), torch.tensor([4, 0, 2])
    with torch.no_grad():
        assert torch.equal(
            sampled_logprobs(logits, chosen, "measured")[0],
            sampled_logprobs(logits.requires_grad_(), chosen)[0].detach(),
        )
