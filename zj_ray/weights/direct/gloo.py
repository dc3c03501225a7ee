"""Weight transfer over gloo, through vLLM's weight-transfer API: its NCCL backend on a wire that needs no GPU.

`register` makes it known to vLLM's factories; then it is chosen by its name like vLLM's own backends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributed import BroadcastOptions, ProcessGroupGloo, TCPStore
from vllm.distributed.weight_transfer import WeightTransferEngineFactory, WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo, worker_init_payload
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLTrainerInitInfo,
    NCCLTrainerWeightTransferEngine,
    NCCLWeightTransferEngine,
    NCCLWeightTransferUpdateInfo,
)

NAME = "gloo"


class Wire:
    """A gloo group of the sender (rank 0) and the engines, apart from the process groups that either side has."""

    def __init__(self, address: str, port: int, rank: int, world: int, timeout: float) -> None:
        """Wait for the others to join. timeout: longest wait for them, to join and in each message [s]."""
        self.limit = timedelta(seconds=timeout)
        store = TCPStore(address, port, world, is_master=rank == 0, timeout=self.limit)
        self.group: Any = ProcessGroupGloo(store, rank, world, self.limit)

    def broadcast(self, tensor: Tensor) -> None:
        options = BroadcastOptions()
        options.rootRank = options.rootTensor = 0
        self.group.broadcast([tensor], options).wait(self.limit)


def _wire(info: Any, rank: int) -> Wire:
    return Wire(info.master_address, info.master_port, rank, info.world_size, info.timeout)


@dataclass(kw_only=True)
class GlooInitInfo(NCCLWeightTransferInitInfo):
    timeout: float


class GlooTransferEngine(NCCLWeightTransferEngine):
    """The engine's end."""

    init_info_cls = GlooInitInfo  # type: ignore[assignment]
    wire: Wire | None = None

    def init_transfer_engine(self, init_info: Any) -> None:
        self.wire = _wire(init_info, rank=init_info.rank_offset)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))  # vLLM's own waits for an accelerator afterwards

    def receive_weights(self, update_info: NCCLWeightTransferUpdateInfo) -> None:
        self.model.load_weights(self._arriving(update_info))  # type: ignore[operator]

    def _arriving(self, update_info: NCCLWeightTransferUpdateInfo) -> Iterator[tuple[str, Tensor]]:
        assert self.wire is not None
        for name, dtype, shape in zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True):
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
            self.wire.broadcast(tensor)
            yield name, tensor

    def shutdown(self) -> None:
        self.wire = None


@dataclass
class GlooTrainerInitInfo(NCCLTrainerInitInfo):
    backend: ClassVar[str] = NAME
    timeout: float = field(kw_only=True)


class GlooTrainerEngine(NCCLTrainerWeightTransferEngine):
    """The policy's end; the round trip is vLLM's."""

    init_info_cls = GlooTrainerInitInfo  # type: ignore[assignment]
    wire: Wire | None = None

    @classmethod
    def trainer_init(cls, init_info: Any, *, client: Any, source: Any = None) -> GlooTrainerEngine:
        engine = cls(client=client, source=source, is_sender=init_info.is_sender)
        if not engine.is_sender:
            return engine
        meeting = {key: getattr(init_info, key) for key in ("master_address", "master_port", "world_size", "timeout")}
        payload = worker_init_payload(GlooInitInfo(**meeting, rank_offset=1))
        with ThreadPoolExecutor(1) as pool:  # both ends meet inside the calls
            joining = pool.submit(client.init_weight_transfer_engine, payload)
            engine.wire = _wire(init_info, rank=0)
            # The call's own limit comes first, and names the engines that did not join.
            joining.result(2 * init_info.timeout)
        return engine

    def _broadcast(self, source: Any, meta: Any) -> None:
        for _, tensor in self._checked_iter(source, meta) if self.wire else source:
            if self.wire:
                self.wire.broadcast(tensor.contiguous())

    def shutdown(self) -> None:
        self.wire = None


def register() -> None:
    """Make the backend known in this process; a second call does nothing."""
    for factory, engine in (
        (WeightTransferEngineFactory, GlooTransferEngine),
        (WeightTransferTrainerFactory, GlooTrainerEngine),
    ):
        with contextlib.suppress(ValueError):
            factory.register_engine(NAME, engine)  # type: ignore[arg-type]
