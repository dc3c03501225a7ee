"""One DeepSpeed rank of a role, inside a Ray actor: joining the group, packed forward passes, saving."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor, nn

from zj_ray.cluster.ports import free_port
from zj_ray.config.schema import ModelConfig
from zj_ray.training.packing import PackedRow, Row, make_row
from zj_ray.training.zero_engine import EngineSpec, TrainEngine, compute_repeatably, join_process_group


def rank_environment(threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}


class Rank:
    """Base of the four roles. `build` makes the model; everything else is the same for all."""

    def __init__(self, model: ModelConfig, seed: int, timeout: float) -> None:
        self.model_config, self.seed, self.timeout = model, seed, timeout

    def address(self) -> tuple[str, int]:
        """Node address and a free port for this role's process group; asked of rank 0."""
        return ray.util.get_node_ip_address(), free_port()

    def join(self, rank: int, world: int, address: str, port: int) -> int:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        if self.model_config.deterministic:
            compute_repeatably()
        join_process_group(rank, world, address, port, self.timeout)
        self.rank, self.world = rank, world
        return os.getpid()

    def build(self, path: str, spec: EngineSpec) -> None:
        """Load the model at `path` and wrap it for training (or for computing alone, without a learning rate)."""
        self.engine = TrainEngine(self.load_model(path), spec)

    def load_model(self, path: str) -> nn.Module:
        raise NotImplementedError

    def compute(
        self,
        token_ids: Sequence[np.ndarray],
        positions: Sequence[np.ndarray],
        rows: Sequence[Row],
        forward: Callable[[PackedRow, Tensor], Tensor],
    ) -> dict[int, np.ndarray]:
        """`forward`'s result at `positions` for the documents in this rank's rows, by document number. No gradient."""
        results: dict[int, np.ndarray] = {}
        self.engine.engine.eval()
        with torch.no_grad():
            for members in rows:
                row, index = packed(token_ids, positions, members)
                output = forward(row.to(self.engine.device), index.to(self.engine.device)).float().cpu().numpy()
                counts = [len(positions[m]) for m in members]
                results.update(zip(members, np.split(output, np.cumsum(counts)[:-1]), strict=True) if members else ())
        self.engine.rest()
        return results

    def save(self, folder: str) -> None:
        """Copy the state; it is written while the role works on."""
        self.engine.save_checkpoint(Path(folder))

    def is_saved(self) -> bool:
        return self.engine.is_saved()

    def load(self, folder: str) -> None:
        self.engine.load_checkpoint(Path(folder))


def packed(token_ids: Sequence[np.ndarray], positions: Sequence[np.ndarray], members: Row) -> tuple[PackedRow, Tensor]:
    """A packed row and the index of its wanted positions; for an EMPTY row the shortest document, and no position."""
    if not members:
        shortest = min(range(len(token_ids)), key=lambda i: len(token_ids[i]))
        return make_row(token_ids, [shortest]), torch.zeros(0, dtype=torch.long)
    row = make_row(token_ids, members)
    return row, row.index([positions[m] for m in members])


def flat(arrays: Sequence[np.ndarray], members: Row, like: Tensor) -> Tensor:
    """The members' arrays end to end, `[n]`, on the device of `like`."""
    joined: Any = np.concatenate([arrays[m] for m in members]) if members else np.zeros(0)
    return torch.from_numpy(np.ascontiguousarray(joined, dtype=np.float32)).to(like.device)
