"""Weights from an HF folder on disk, published like those of a living policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ray
from safetensors import safe_open
from torch import Tensor

from zj_ray.errors import CheckpointError
from zj_ray.weights.bucket import PublishedWeights, pack_weights


def publish_folder(folder: Path, version: int) -> PublishedWeights:
    """Read a model folder's safetensors into the object store. Raises CheckpointError when it holds none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        remedy = "save the model with safetensors"
        raise CheckpointError("no safetensors in this model folder", where=str(folder), remedy=remedy)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for path in files:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    yield name, file.get_tensor(name)

    manifest, buckets = pack_weights(tensors(), version)
    return PublishedWeights(manifest, tuple(ray.put(bucket) for bucket in buckets))
