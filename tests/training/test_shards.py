"""Learning state in fragments: what one layout of ranks and ZeRO stage saved, another goes on with."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest
import torch

from tests.helpers.ranks import run_ranks, wait_until_saved
from tests.training.test_zero_engine import SAMPLES, _problem, _squared
from zj_ray.errors import CheckpointError
from zj_ray.training.lora import plain_weights
from zj_ray.training.shards import restore, take
from zj_ray.training.zero_engine import EngineSpec, TrainEngine

BEFORE, AFTER = 3, 4
STAGES = {1: (0, 2, 3), 2: (0, 1, 2, 3)}  # ZeRO stages by ranks


def _engine(stage: int) -> tuple[TrainEngine, torch.Tensor, torch.Tensor]:
    model, x, y = _problem()
    return TrainEngine(model, EngineSpec(1e-2, 1.0, stage, warmup_steps=2, total_steps=20)), x, y


def _step(engine: TrainEngine, x: torch.Tensor, y: torch.Tensor) -> float:
    mine = list(range(SAMPLES))[engine.rank :: engine.world]
    sums = [0.0]

    def loss_of(module: torch.nn.Module, part: list[int]) -> torch.Tensor:
        loss = _squared(module, x[part], y[part])
        sums[0] += float(loss.detach())
        return loss

    engine.train_batch([mine[:1], mine[1:]], loss_of, SAMPLES)
    return engine.sum_over_ranks(sums)[0] / SAMPLES


def _weights(engine: TrainEngine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in engine.gather(plain_weights(engine.module))}


def _save(rank: int, world: int, stage: int, folder: str) -> None:
    engine, x, y = _engine(stage)
    for _ in range(BEFORE):
        _step(engine, x, y)
    snapshot = take(engine.engine, rank, world)
    losses = [_step(engine, x, y) for _ in range(AFTER)]  # what is written is what was, not what has become of it
    snapshot.write(Path(folder) / "state")
    if rank == 0:
        torch.save((losses, _weights(engine)), f"{folder}/end.pt")
    else:
        _weights(engine)


def _go_on(rank: int, world: int, saved: tuple[int, int], folder: str) -> None:
    expected, weights = torch.load(f"{folder}/end.pt")
    for stage in STAGES[world]:
        engine, x, y = _engine(stage)
        if stage != 1:
            _step(engine, x, y)  # one that has state of its own already
        restore(engine.engine, rank, world, Path(folder) / "state")
        losses = [_step(engine, x, y) for _ in range(AFTER)]
        same = (stage, world) == saved
        assert losses == (expected if same else pytest.approx(expected, abs=1e-6)), stage
        for name, tensor in _weights(engine).items():
            torch.testing.assert_close(tensor, weights[name], atol=0.0 if same else 1e-6, rtol=0)


@pytest.mark.parametrize("saved", [(0, 1), (2, 2), (3, 2)], ids=lambda layout: f"zero{layout[0]}-ranks{layout[1]}")
def test_any_number_of_ranks_and_any_stage_goes_on_where_another_was_saved(
    tmp_path: Path, saved: tuple[int, int]
) -> None:
    stage, world = saved
    run_ranks(world, _save, stage, str(tmp_path))
    for world in STAGES:
        run_ranks(world, _go_on, saved, str(tmp_path))


def _in_another_model(rank: int, world: int, folder: str) -> None:
    engine, *_ = _engine(0)
    take(engine.engine, rank, world).write(Path(folder))
    other = TrainEngine(torch.nn.Linear(8, 4), EngineSpec(1e-2, 1.0, 0))
    with pytest.raises(CheckpointError, match=r"0\.bias has the shape None here and \(16,\) there"):
        restore(other.engine, rank, world, Path(folder))
    (Path(folder) / "rank-00000.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="what rank 0 has saved can't be read"):
        restore(engine.engine, rank, world, Path(folder))


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    run_ranks(1, _in_another_model, str(tmp_path))


def _without_room(rank: int, world: int, folder: str) -> None:
    engine, x, y = _engine(2)
    _step(engine, x, y)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))  # no file may grow beyond, as on a full disk
    engine.save_checkpoint(Path(folder) / "full")
    with pytest.raises(CheckpointError, match=f"rank {rank} could not write its state"):
        wait_until_saved(engine)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    torch.distributed.barrier()
    engine.save_checkpoint(Path(folder) / "room")  # there is room again
    wait_until_saved(engine)
    restore(engine.engine, rank, world, Path(folder) / "room")
    _step(engine, x, y)


def test_a_rank_without_room_says_so_and_can_save_later(tmp_path: Path) -> None:
    run_ranks(2, _without_room, str(tmp_path))
