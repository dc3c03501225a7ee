"""The reward model as a role: scores every doctor turn of a consultation in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from zj_ray.roles.rank import Rank
from zj_ray.training.model import load_heads
from zj_ray.training.packing import PackedRow, Row


class RewardRank(Rank):
    def load_model(self, path: str) -> nn.Module:
        return load_heads(path, self.model_config)

    def scores(
        self, token_ids: Sequence[np.ndarray], ends: Sequence[np.ndarray], rows: list[list[Row]]
    ) -> dict[int, np.ndarray]:
        """Raw scores `[turns, heads]` read at the last token of each turn (`ends`: positions), by trajectory number."""
        return self.compute(token_ids, ends, rows[self.rank], self._forward)

    def _forward(self, row: PackedRow, index: Tensor) -> Tensor:
        return self.engine.engine(row.input_ids, row.position_ids, index)
