"""Packed rows: several documents end to end in one forward pass, each blind to the others.

The K answers of a prompt are documents that begin alike: in a shared row that beginning is computed once, and every answer
sees it as if it stood right before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from zj_ray.algorithms.balance import pack


@dataclass(frozen=True)
class PackedRow:
    """members: which documents, in order. input_ids, position_ids: `[1, row]`; starts: each document's first position.

    attention: `[1, 1, row, row]`, true where a token sees another; None where `position_ids` tell. With it, `starts` are
    those that each document's own tokens have in the row, as if its shared beginning stood before them.
    """

    members: list[int]
    starts: list[int]
    input_ids: Tensor
    position_ids: Tensor
    attention: Tensor | None = None

    def to(self, device: torch.device | str) -> PackedRow:
        attention = None if self.attention is None else self.attention.to(device)
        return replace(
            self, input_ids=self.input_ids.to(device), position_ids=self.position_ids.to(device), attention=attention
        )

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


def make_shared_row(documents: Sequence[np.ndarray], groups: Sequence[Sequence[int]]) -> PackedRow:
    """Groups of documents, each group's common beginning once and then what each of its documents has of its own."""
    pieces: list[np.ndarray] = []
    positions, group_of, branch_of = [], [], []
    starts, length = [], 0
    for number, group in enumerate(groups):
        shared = shared_beginning([documents[m] for m in group])
        branches = [documents[group[0]][:shared], *(documents[m][shared:] for m in group)]
        for branch, piece in enumerate(branches):
            first = shared if branch else 0
            pieces.append(piece)
            positions.append(np.arange(first, first + len(piece)))
            group_of.append(np.full(len(piece), number))
            branch_of.append(np.full(len(piece), branch))
            if branch:
                starts.append(length - shared)
            length += len(piece)
    ids = torch.from_numpy(np.concatenate(pieces).astype(np.int64))[None]
    in_group, in_branch = torch.from_numpy(np.concatenate(group_of)), torch.from_numpy(np.concatenate(branch_of))
    seen = (in_group[:, None] == in_group) & ((in_branch == 0) | (in_branch[:, None] == in_branch))
    members = [m for group in groups for m in group]
    return PackedRow(members, starts, ids, torch.from_numpy(np.concatenate(positions))[None], seen.tril()[None, None])


def shared_beginning(documents: Sequence[np.ndarray]) -> int:
    """How many leading tokens all documents have in common, leaving each at least one of its own."""
    limit = min(map(len, documents)) - 1
    alike = np.all([document[:limit] == documents[0][:limit] for document in documents], axis=0)
    return limit if alike.all() else int(alike.argmin())


def shared_length(documents: Sequence[np.ndarray]) -> int:
    """Tokens that a group of documents takes in a shared row."""
    return sum(map(len, documents)) - (len(documents) - 1) * shared_beginning(documents)
