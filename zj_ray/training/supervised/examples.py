"""Tokenised training examples on disk: written once by the driver, mapped by every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zj_ray.data.chat import Encoded


@dataclass(frozen=True)
class Examples:
    """Documents to learn from, and what is learnt of each.

    token_ids: one `[length]` array a document. positions: tokens with loss, none of them a document's first.
    The rest is None but for rankings. groups: each document's prompt number (documents of a prompt stand together).
    ranks: `[documents, heads, annotators]`, lower is better, NaN where an annotator did not rank. weights: `[documents,
    annotators]`, how much each annotator of the document's prompt counts.
    """

    token_ids: list[np.ndarray]
    positions: list[np.ndarray]
    groups: np.ndarray | None = None
    ranks: np.ndarray | None = None
    weights: np.ndarray | None = None

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {
            "tokens": np.concatenate(self.token_ids).astype(np.int32),
            "token_counts": np.array([len(x) for x in self.token_ids]),
            "positions": np.concatenate(self.positions).astype(np.int32),
            "position_counts": np.array([len(x) for x in self.positions]),
        }
        if self.groups is not None and self.ranks is not None and self.weights is not None:
            arrays |= {"groups": self.groups, "ranks": self.ranks, "weights": self.weights}
        np.savez(path, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Examples:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        return cls(
            np.split(arrays["tokens"], np.cumsum(arrays["token_counts"])[:-1]),
            np.split(arrays["positions"], np.cumsum(arrays["position_counts"])[:-1]),
            arrays.get("groups"),
            arrays.get("ranks"),
            arrays.get("weights"),
        )

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def tokens(self) -> int:
        return sum(map(len, self.token_ids))


def from_encoded(conversations: Sequence[Encoded]) -> Examples:
    """SFT examples: the loss on every doctor token. Conversations whose doctor was cut away whole are left out."""
    pairs = [(c.token_ids, np.flatnonzero(c.loss_mask)) for c in conversations]
    pairs = [(token_ids, positions) for token_ids, positions in pairs if len(positions)]
    return Examples([np.asarray(token_ids) for token_ids, _ in pairs], [positions for _, positions in pairs])


def concatenate_and_chunk(documents: Sequence[Sequence[int]], end_id: int, length: int) -> Examples:
    """Pre-training blocks: all documents end to end, `end_id` after each, cut every `length` tokens.

    The last block is what is left over.
    """
    stream = np.concatenate([np.asarray([*document, end_id], dtype=np.int64) for document in documents])
    blocks = [stream[i : i + length] for i in range(0, len(stream), length)]
    blocks = [block for block in blocks if len(block) > 1]
    return Examples(blocks, [np.arange(1, len(block)) for block in blocks])
