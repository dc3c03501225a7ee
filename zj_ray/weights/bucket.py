"""Weights as a few large checksummed buffers: one Ray object each, shared by all engines of a node without a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

BUCKET_BYTES = 256 << 20
# A weight that may be cut over ranks or made of several: its name, the tensors to be gathered, and what makes it of
# them.
Weight = tuple[str, list[Tensor], Callable[[], Tensor]]
ALIGNMENT = 64  # so that every tensor is a valid view of its buffer


@dataclass(frozen=True)
class WeightEntry:
    name: str
    shape: tuple[int, ...]
    dtype: str
    bucket: int
    offset: int


@dataclass(frozen=True)
class WeightManifest:
    """What is in the buckets.

    version: grows with every publication. adapter: where they hold a LoRA adapter alone, its adapter_config.json.
    """

    version: int
    entries: tuple[WeightEntry, ...]
    checksums: tuple[str, ...]
    nbytes: int
    adapter: str | None = None


@dataclass(frozen=True)
class PublishedWeights:
    """A manifest and the Ray object references of its buckets (`uint8` arrays), in order.

    senders: instead of buckets, the policy's ranks, which send the weights to the engines themselves.
    """

    manifest: WeightManifest
    buckets: tuple[Any, ...]
    senders: tuple[Any, ...] = ()


class WeightVersions:
    """Numbers for publications.

    They only ever grow, across the stages of a run too: an engine's version names its weights.
    """

    def __init__(self) -> None:
        self.current = 0  # of the weights published last

    def next(self) -> int:
        self.current += 1
        return self.current


class Fingerprint:
    """Tells whether two ends saw the same tensors: for each name the sum of its elements' bits.

    It is computed where the tensor is.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self.nbytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        bits = tensor.detach().contiguous().view({1: torch.int8, 2: torch.int16, 4: torch.int32}[tensor.itemsize])
        self._sums[name] = bits.sum(dtype=torch.int64)
        self.nbytes += tensor.nbytes

    def hex(self) -> str:
        """The fingerprint of all tensors, in whatever order they came."""
        sums = sorted((name, int(total)) for name, total in self._sums.items())
        return xxhash.xxh3_128_hexdigest(repr(sums).encode())


def checksum(bucket: np.ndarray) -> str:
    return xxhash.xxh3_128_hexdigest(bucket.data)


def pack_weights(
    named: Iterable[tuple[str, Tensor]], version: int, *, adapter: str | None = None, bucket_bytes: int = BUCKET_BYTES
) -> tuple[WeightManifest, list[np.ndarray]]:
    """Copy tensors into `uint8` buckets of about `bucket_bytes` (a larger tensor has a bucket of its own)."""
    entries: list[WeightEntry] = []
    buckets: list[bytearray] = []
    for name, tensor in named:
        raw = tensor.detach().to("cpu").contiguous().flatten().view(torch.uint8).numpy()
        if not buckets or (buckets[-1] and len(buckets[-1]) + len(raw) > bucket_bytes):
            buckets.append(bytearray())
        bucket = buckets[-1]
        bucket += bytes(-len(bucket) % ALIGNMENT)
        dtype = str(tensor.dtype).removeprefix("torch.")
        entries.append(WeightEntry(name, tuple(tensor.shape), dtype, len(buckets) - 1, len(bucket)))
        bucket += raw.data
    arrays = [np.frombuffer(b, np.uint8) for b in buckets]
    return WeightManifest(version, tuple(entries), tuple(map(checksum, arrays)), sum(map(len, arrays)), adapter), arrays


def corrupted(manifest: WeightManifest, buckets: Sequence[np.ndarray]) -> list[int]:
    """Numbers of the buckets whose bytes are not those that were packed."""
    pairs = enumerate(zip(buckets, manifest.checksums, strict=True))
    return [i for i, (bucket, packed) in pairs if checksum(bucket) != packed]


def unpack_weights(manifest: WeightManifest, buckets: Sequence[np.ndarray]) -> Iterator[tuple[str, Tensor]]:
    """Named tensors as views of the buckets, which may be read-only: copy before writing."""
    for entry in manifest.entries:
        dtype = getattr(torch, entry.dtype)
        count = int(np.prod(entry.shape, dtype=np.int64))
        part = buckets[entry.bucket][entry.offset : entry.offset + count * dtype.itemsize]
        yield entry.name, torch.frombuffer(part.data, dtype=dtype).reshape(entry.shape)
