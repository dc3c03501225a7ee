"""Muon for the hidden matrices of a model, AdamW for the rest, as one optimizer.

Small models trained from scratch need half the tokens with it. PyTorch's and DeepSpeed's own Muon orthogonalise in half
precision, which a CPU only emulates (3 to 40 times slower than fp32 here), so this one works in the gradient's type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic coefficients, Keller Jordan 2024
ITERATIONS = 5
MOMENTUM = 0.95


class Muon(torch.optim.AdamW):
    """Muon (Jordan 2024) with Nesterov momentum on matrices inside the layers; AdamW on embeddings, heads and norms.

    An orthogonal update is scaled by 0.2·√max(rows, columns) (Liu et al. 2025, arXiv 2502.16982, eq. 4), which gives it
    AdamW's usual size: one learning rate serves both. The whole state is on every rank, so it needs ZeRO stage 0.
    """

    def __init__(self, model: nn.Module, lr: float, weight_decay: float, betas: tuple[float, float]) -> None:
        layers = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
        inside = {p for module in layers for p in module.parameters() if p.ndim == 2}
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [{"params": [p for p in trained if (p in inside) is muon], "muon": muon} for muon in (True, False)]
        super().__init__(groups, lr=lr, weight_decay=weight_decay, betas=betas)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        hidden = next(group for group in self.param_groups if group["muon"])
        moving = [p for p in hidden["params"] if p.grad is not None]
        updates = _orthogonalise_over_ranks([self._momentum(p) for p in moving])
        for parameter, update in zip(moving, updates, strict=True):
            parameter.mul_(1 - hidden["lr"] * hidden["weight_decay"])
            parameter.add_(update, alpha=-hidden["lr"] * 0.2 * max(parameter.shape) ** 0.5)
            parameter.grad = None  # AdamW passes over parameters without a gradient
        return super().step(closure)

    def _momentum(self, parameter: Tensor) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
            state["step"] = torch.zeros(())  # AdamW looks for one when a state is loaded
        state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
        return parameter.grad.lerp(state["momentum"], MOMENTUM)


def _orthogonalise_over_ranks(matrices: list[Tensor]) -> list[Tensor]:
    """Every rank holds the same matrices: each orthogonalises its share, and they exchange the results."""
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    if ranks == 1 or not matrices:
        return [orthogonalise(matrix) for matrix in matrices]
    mine = dist.get_rank()
    shares = [
        orthogonalise(matrix) if i % ranks == mine else torch.zeros_like(matrix) for i, matrix in enumerate(matrices)
    ]
    together = torch.cat([share.flatten() for share in shares])
    dist.all_reduce(together)
    parts = together.split([matrix.numel() for matrix in matrices])
    return [part.view_as(matrix) for part, matrix in zip(parts, matrices, strict=True)]


def orthogonalise(matrix: Tensor) -> Tensor:
    """Roughly the nearest (semi-)orthogonal matrix of `matrix` `[rows, columns]`.

    Its singular values end between 0.7 and 1.2.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if matrix.shape[0] > matrix.shape[1] else x
