"""The reward model as a role: scores every doctor turn of a consultation in one forward pass of each member.

A reward model is one member or an ensemble. An ensemble's first folder says who the others are and how their scores
become one (`ensemble.json`), so that whoever loads that folder scores alike: PPO, evaluation, the next round.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zj_ray.algorithms.ensemble import Ensemble
from zj_ray.config.schema import ModelConfig
from zj_ray.files import read_json, write_json
from zj_ray.roles.rank import Rank
from zj_ray.training.model import load_heads
from zj_ray.training.packing import PackedRow, Row

ENSEMBLE_FILE = "ensemble.json"


class RewardModels(nn.Module):
    """The members of an ensemble, each a model of its own, or a single one; they compute one after the other."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, input_ids: Tensor, position_ids: Tensor, index: Tensor) -> Tensor:
        """Scores `[n, members, heads]`, float32; the arguments are `ScalarHeads`'."""
        return torch.stack([member(input_ids, position_ids, index) for member in self.members], dim=1)


def save_ensemble(folder: Path, others: Sequence[Path], ensemble: Ensemble) -> None:
    """Make `folder`, which holds the first member, the folder of an ensemble with these `others`, in this order."""
    members = [str(other.relative_to(folder.parent)) for other in others]
    write_json(folder / ENSEMBLE_FILE, {"others": members, **ensemble.as_dict()})


def load_ensemble(folder: Path, model: ModelConfig) -> tuple[RewardModels, Ensemble | None]:
    """The reward models of `folder`, and how their scores become one; None for one model alone."""
    described = read_json(folder / ENSEMBLE_FILE)
    folders = [folder, *(folder.parent / other for other in (described or {}).get("others", ()))]
    return RewardModels([load_heads(member, model) for member in folders]), described and Ensemble.of_dict(described)


class RewardRank(Rank):
    def load_model(self, path: str) -> nn.Module:
        models, self.ensemble = load_ensemble(Path(path), self.model_config)
        return models

    def scores(
        self, token_ids: Sequence[np.ndarray], ends: Sequence[np.ndarray], rows: list[list[Row]]
    ) -> dict[int, np.ndarray]:
        """Scores `[turns, heads]` read at the last token of each turn (`ends`: positions), by trajectory number.

        Those of a single model are as it gives them; an ensemble's are combined.
        """
        ensemble = self.ensemble
        return {
            number: scores[:, 0] if ensemble is None else ensemble.combine(scores.swapaxes(0, 1))
            for number, scores in self.member_scores(token_ids, ends, rows).items()
        }

    def member_scores(
        self, token_ids: Sequence[np.ndarray], ends: Sequence[np.ndarray], rows: list[list[Row]]
    ) -> dict[int, np.ndarray]:
        """What every member gives by itself, `[turns, members, heads]`, by trajectory number."""
        return self.compute(token_ids, ends, rows[self.rank], self._forward)

    def _forward(self, row: PackedRow, index: Tensor) -> Tensor:
        return self.engine.engine(row.input_ids, row.position_ids, index)
