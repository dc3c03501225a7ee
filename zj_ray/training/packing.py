"""Packed rows: several documents end to end in one forward pass, each blind to the others; and who computes which row.

The K answers of a prompt are documents that begin alike: in a shared row that beginning is computed once, and every
answer sees it as if it stood right before.

All ranks of a role follow one plan of rows in step. They must make the same number of forward passes, or their
collectives hang: where a rank has fewer rows, `EMPTY` ones fill up, in which it computes one document and keeps nothing
of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from zj_ray.algorithms.balance import pack, partition

Row = list[int]  # indices of the documents in one packed row
EMPTY: Row = []


@dataclass(frozen=True)
class PackedRow:
    """Several documents as one row of tokens.

    members: which documents, in order. input_ids, position_ids: `[1, row]`; starts: each document's first position.
    attention: `[1, 1, row, row]`, true where a token sees another; None where `position_ids` tell. With it, `starts`
    are those of each document's own tokens in the row, as if its shared beginning stood before them.
    """

    members: Row
    starts: list[int]
    input_ids: Tensor
    position_ids: Tensor
    attention: Tensor | None = None

    def to(self, device: torch.device | str) -> PackedRow:
        attention = None if self.attention is None else self.attention.to(device)
        ids, positions = self.input_ids.to(device), self.position_ids.to(device)
        return replace(self, input_ids=ids, position_ids=positions, attention=attention)

    def index(self, positions: Sequence[np.ndarray]) -> Tensor:
        """Positions within each member (in the order of `members`) as positions in the row, `[n]`."""
        flat = [start + np.asarray(p) for start, p in zip(self.starts, positions, strict=True)]
        return torch.from_numpy(np.concatenate(flat).astype(np.int64)) if flat else torch.zeros(0, dtype=torch.long)


def plan_rows(lengths: Sequence[int], ranks: int, capacity: int) -> list[list[Row]]:
    """For each rank its rows of at most `capacity` tokens; all ranks get the same number of rows, at least one."""
    shares = partition(lengths, ranks)
    plans = [[[share[i] for i in row] for row in pack([lengths[i] for i in share], capacity)] for share in shares]
    most = max(1, max(map(len, plans)))
    return [plan + [EMPTY] * (most - len(plan)) for plan in plans]


def make_row(documents: Sequence[np.ndarray], members: Row) -> PackedRow:
    """The documents `members` (`[length]` int arrays), end to end."""
    lengths = [len(documents[m]) for m in members]
    starts = [0, *np.cumsum(lengths)[:-1].tolist()]
    ids = np.concatenate([documents[m] for m in members]).astype(np.int64)
    positions = np.concatenate([np.arange(n) for n in lengths])
    return PackedRow(members, starts, torch.from_numpy(ids)[None], torch.from_numpy(positions)[None])


def make_shared_row(documents: Sequence[np.ndarray], groups: Sequence[Sequence[int]]) -> PackedRow:
    """Groups of documents in one row: each group's common beginning once, then what each document has of its own."""
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
