"""Packed rows: several documents end to end in one forward pass, each blind to the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from zj_ray.algorithms.balance import pack


@dataclass(frozen=True)
class PackedRow:
    """members: which documents, in order. input_ids, position_ids: `[1, row]`; starts: each document's first position."""

    members: list[int]
    starts: list[int]
    input_ids: Tensor
    position_ids: Tensor

    def to(self, device: torch.device | str) -> PackedRow:
        return replace(self, input_ids=self.input_ids.to(device), position_ids=self.position_ids.to(device))

    def index(self, positions: Sequence[np.ndarray]) -> Tensor:
        """Positions within each member (in the order of `members`) as positions in the row, `[n]`."""
        flat = [start + np.asarray(p) for start, p in zip(self.starts, positions, strict=True)]
        return torch.from_numpy(np.concatenate(flat).astype(np.int64)) if flat else torch.zeros(0, dtype=torch.long)


def pack_rows(documents: Sequence[np.ndarray], capacity: int) -> list[PackedRow]:
    """Documents (`[length]` int arrays) in rows of at most `capacity` tokens; a longer document has a row of its own."""
    return [make_row(documents, members) for members in pack([len(d) for d in documents], capacity)]


def make_row(documents: Sequence[np.ndarray], members: list[int]) -> PackedRow:
    lengths = [len(documents[m]) for m in members]
    starts = [0, *np.cumsum(lengths)[:-1].tolist()]
    ids = np.concatenate([documents[m] for m in members]).astype(np.int64)
    positions = np.concatenate([np.arange(n) for n in lengths])
    return PackedRow(members, starts, torch.from_numpy(ids)[None], torch.from_numpy(positions)[None])
