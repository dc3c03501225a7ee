"""DeepSpeed ranks as real processes: the same numbers as plain torch, whatever the ZeRO stage and the split."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.ranks import run_ranks, wait_until_saved
from zj_ray.training.lora import plain_weights
from zj_ray.training.muon import Muon
from zj_ray.training.zero_engine import EngineSpec, TrainEngine

SAMPLES, STEPS = 11, 4  # eleven samples do not divide by two ranks


class _Layers(nn.Module):
    """Three layers in a list, as a transformer's: their matrices are Muon's."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def _problem() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), _Layers(), nn.Linear(16, 1))
    return model, torch.randn(SAMPLES, 8), torch.randn(SAMPLES, 1)


def _squared(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return ((model(x) - y) ** 2).sum()


def _plain_torch(kind: str) -> list[Tensor]:
    model, x, y = _problem()
    if kind == "muon":
        optimizer: torch.optim.Optimizer = Muon(model, 1e-2, 0.0, (0.9, 0.95))
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0, betas=(0.9, 0.95))
    for _ in range(STEPS):
        optimizer.zero_grad()
        (_squared(model, x, y) / SAMPLES).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return [p.detach() for p in model.parameters()]


def _train(rank: int, world: int, stage: int, kind: str, folder: str) -> None:
    model, x, y = _problem()
    engine = TrainEngine(model, EngineSpec(1e-2, 1.0, stage, optimizer=kind))
    mine = list(range(SAMPLES))[rank::world]

    def step() -> None:
        result = engine.train_batch(
            [mine[:1], mine[1:]], lambda module, part: _squared(module, x[part], y[part]), SAMPLES
        )
        assert result.applied and result.grad_norm > 0

    beginning, after_a_step = Path(folder) / "beginning", Path(folder) / "after-a-step"
    engine.save_checkpoint(beginning)
    wait_until_saved(engine)
    step()
    engine.load_checkpoint(beginning)  # nor is anything left of the optimizer's moments
    step()
    engine.save_checkpoint(after_a_step)
    step()
    wait_until_saved(engine)
    engine.load_checkpoint(after_a_step)  # the step after the checkpoint never was
    for _ in range(STEPS - 1):
        step()

    # The loss is finite, its gradient is not: √0 has an infinite slope. One rank meets it, and all must drop the step.
    def poisoned(module: nn.Module, part: list[int]) -> Tensor:
        output = module(x[part])
        zero = (output - output.detach()).sum().abs() if rank == 0 else output.sum() * 0.0 + 1.0
        return zero.sqrt()

    assert not engine.train_batch([mine], poisoned, SAMPLES).applied
    weights = [tensor.clone() for _, tensor in engine.gather(plain_weights(engine.module))]
    if rank == 0:
        torch.save(weights, folder + "/weights.pt")


@pytest.mark.parametrize(
    ("stage", "world", "kind"), [(0, 1, "adamw"), (2, 2, "adamw"), (3, 2, "adamw"), (0, 2, "muon")]
)
def test_training_equals_plain_torch_also_when_resumed_and_drops_non_finite_gradients(
    tmp_path: Path, stage: int, world: int, kind: str
) -> None:
    run_ranks(world, _train, stage, kind, str(tmp_path))
    for ours, theirs in zip(torch.load(tmp_path / "weights.pt"), _plain_torch(kind), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
