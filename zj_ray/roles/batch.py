"""One step's consultations as the roles compute on them: unpadded arrays, one entry for each trajectory.

Everything that exists once a generated token is stored for the generated tokens only (`[generated]`, in order), with
`positions` telling where they stand in `token_ids`. Padding to `[batch, time]` happens in the algorithms alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from zj_ray.data.trajectory import Trajectory


@dataclass
class RolloutBatch:
    """token_ids: `[length]`; turn_ends: which of the generated tokens end a turn, `[turns]`; the rest: `[generated]`.

    prompts: equal for the samples of one prompt. staleness: publications of weights since the token was generated.
    values and returns stay empty where no critic learns.
    """

    prompts: list[int]
    token_ids: list[np.ndarray]
    positions: list[np.ndarray]
    turn_ends: list[np.ndarray]
    behaviour_logprobs: list[np.ndarray]
    staleness: list[np.ndarray]
    old_logprobs: list[np.ndarray] = field(default_factory=list)
    reference_logprobs: list[np.ndarray] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)
    advantages: list[np.ndarray] = field(default_factory=list)
    returns: list[np.ndarray] = field(default_factory=list)
    importance: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory], version: int) -> RolloutBatch:
        """version: of the policy that will learn from them."""
        masks = [np.asarray(t.loss_mask, dtype=bool) for t in trajectories]
        numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(t.prompt_id for t in trajectories))}
        return cls(
            prompts=[numbers[t.prompt_id] for t in trajectories],
            token_ids=[np.asarray(t.token_ids, dtype=np.int64) for t in trajectories],
            positions=[np.flatnonzero(mask) for mask in masks],
            turn_ends=[np.cumsum([turn.end - turn.start for turn in t.turns]) - 1 for t in trajectories],
            behaviour_logprobs=[
                np.asarray(t.behaviour_logprobs, dtype=np.float32)[mask]
                for t, mask in zip(trajectories, masks, strict=True)
            ],
            staleness=[
                np.concatenate([np.full(turn.end - turn.start, version - turn.weight_version) for turn in t.turns])
                for t in trajectories
            ],
        )

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.token_ids]

    @property
    def generated(self) -> list[int]:
        return [len(p) for p in self.positions]

    @property
    def turn_end_positions(self) -> list[np.ndarray]:
        """Where each turn's last generated token stands in `token_ids`, `[turns]`."""
        return [positions[ends] for positions, ends in zip(self.positions, self.turn_ends, strict=True)]


def pad(arrays: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """`[batch, time]` float tensor, zero-padded on the right, and its bool mask."""
    width = max(map(len, arrays))
    padded = torch.zeros(len(arrays), width)
    mask = torch.zeros(len(arrays), width, dtype=torch.bool)
    for row, array in enumerate(arrays):
        # np.array copies: Ray hands out read-only arrays, which PyTorch warns of.
        padded[row, : len(array)] = torch.from_numpy(np.array(array, dtype=np.float32))
        mask[row, : len(array)] = True
    return padded, mask


def unpad(padded: Tensor, lengths: Sequence[int]) -> list[np.ndarray]:
    """The first `lengths[i]` elements of each row `i`, without the padding."""
    return [padded[row, :n].numpy().copy() for row, n in enumerate(lengths)]
