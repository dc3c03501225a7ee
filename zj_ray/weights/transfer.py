"""Weights straight from the policy's ranks into the engines, through vLLM's weight-transfer API: NCCL, CUDA IPC or gloo.

Rank 0 sends; the other ranks take part in gathering what ZeRO has cut up. The engines' end is vLLM's worker with
`WeightReceiver`. Both ends compute a fingerprint of what they sent or received: only equal ones confirm a version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from torch import Tensor, nn

from zj_ray.errors import ConfigError
from zj_ray.training.lora import Weight, plain_weights
from zj_ray.training.ports import free_port
from zj_ray.weights.bucket import Fingerprint

Gather = Callable[[Iterator[Weight]], Iterator[tuple[str, Tensor]]]


@dataclass(frozen=True)
class Sent:
    """fingerprint: of what left the policy; received: of what each engine got, by name."""

    fingerprint: str
    received: Mapping[str, str]
    nbytes: int


class Engines:
    """What vLLM's trainer side calls its client: the engines as one. Every call goes to all of them and has a limit."""

    def __init__(self, actors: Mapping[str, Any], timeout: float) -> None:
        self.actors, self.timeout = dict(actors), timeout
        self.received: dict[str, str] = {}

    def _all(self, method: str, arguments: Sequence[tuple[Any, ...]] | None = None) -> list[Any]:
        each = arguments or [()] * len(self.actors)
        return ray.get([actor.transfer.remote(method, *mine) for actor, mine in zip(self.actors.values(), each, strict=True)], timeout=self.timeout)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Every engine is a vLLM of its own and counts its ranks from 0: tell each where it stands in the group."""
        places = [{"rank_offset": place} if "rank_offset" in init_info else {} for place in range(1, len(self.actors) + 1)]
        self._all("init_weight_transfer_engine", [(init_info | place,) for place in places])

    def start_weight_update(self) -> None:
        self._all("start_transfer")

    def update_weights(self, update_info: Any) -> None:
        self._all("update_weights", [(update_info,)] * len(self.actors))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.received = dict(zip(self.actors, self._all("finish_transfer"), strict=True))


class Sender:
    """One policy rank's end. All ranks must call `send` together."""

    def __init__(self, transport: str, rank: int, model: nn.Module, gather: Gather, timeout: float) -> None:
        """gather: of the training engine, collective; timeout: of each call to the engines [s]."""
        self.transport, self.rank, self.timeout = transport, rank, timeout
        self.source = _source(model, gather)
        self.client: Engines | None = None
        self.trainer: Any = None

    def send(self, engines: Mapping[str, Any]) -> Sent | None:
        """Bring the engines to the policy's weights. The group is made anew where its members are not those of last time."""
        if self.client is None or list(self.client.actors.items()) != list(engines.items()):
            self._connect(engines)
        assert self.client is not None
        self.source.fingerprint = Fingerprint()
        self.trainer.send_weights()
        if self.rank != 0:
            return None
        return Sent(self.source.fingerprint.hex(), self.client.received, self.source.fingerprint.nbytes)

    def _connect(self, engines: Mapping[str, Any]) -> None:
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

        if self.trainer is not None:
            self.trainer.shutdown()
        self.client = Engines(engines, self.timeout)
        self.trainer = WeightTransferTrainerFactory.trainer_init(self._init_info(len(engines)), client=self.client, source=self.source)

    def _init_info(self, engines: int) -> Any:
        group = {"rank": self.rank, "master_address": ray.util.get_node_ip_address(), "master_port": free_port(), "world_size": 1 + engines}
        if self.transport == "ipc":
            from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

            return IPCTrainerInitInfo(rank=self.rank, packed=True)
        if self.transport == "nccl":
            from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

            return NCCLTrainerInitInfo(**group)
        from zj_ray.weights.gloo import GlooTrainerInitInfo, register

        register()
        return GlooTrainerInitInfo(**group)


def _source(model: nn.Module, gather: Gather) -> Any:
    """The policy's plain weights as vLLM's trainer side wants them. The class is made here so that importing this costs no vLLM."""
    try:
        from vllm.distributed.weight_transfer import ParamMeta, WeightSource
    except ImportError as error:
        remedy = "install vLLM 0.32 or later, or leave fleet.transport at object_store"
        raise ConfigError("this vLLM has no trainer's side of weight transfer", where="fleet.transport", remedy=remedy) from error

    class Gathered(WeightSource):
        fingerprint = Fingerprint()

        def metadata(self) -> list[ParamMeta]:
            whole = [(name, parts[0]) for name, parts, _ in plain_weights(model)]
            return [ParamMeta(name, part.dtype, tuple(getattr(part, "ds_shape", part.shape))) for name, part in whole]

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            for name, tensor in gather(plain_weights(model)):
                self.fingerprint.add(name, tensor)
                yield name, tensor.clone()  # a gathered tensor is gone when the next is asked for, and the wire may still read it

    return Gathered()
