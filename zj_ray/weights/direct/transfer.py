"""Weights straight from the policy's ranks into the engines by vLLM's weight-transfer API: NCCL, CUDA IPC or gloo.

Rank 0 sends; the other ranks take part in gathering what ZeRO has cut up. The engines' end is vLLM's worker with
`WeightReceiver`. Both ends compute a fingerprint of what they sent or received: only equal ones confirm a version.

An engine that fails on the way must not take the policy along: whatever happens, every rank gathers every weight, so
that the ranks stay in step, and rank 0 tells which engines got nothing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from torch import Tensor

from zj_ray.cluster.ports import free_port
from zj_ray.errors import ConfigError, brief
from zj_ray.weights.bucket import Fingerprint, Weight

STEPS = 4  # of a transfer, each with a limit of its own: join, start, receive, finish
Plain = Callable[[], Iterator[Weight]]
Gather = Callable[[Iterator[Weight]], Iterator[tuple[str, Tensor]]]


@dataclass(frozen=True)
class Sent:
    """What rank 0 knows after a transfer.

    fingerprint: of what left the policy. By engine, received: the fingerprint of what it got; failed: why it got none.
    """

    fingerprint: str
    received: Mapping[str, str]
    failed: Mapping[str, str]
    nbytes: int


class BrokenTransfer(Exception):
    """An engine failed in a broadcast, which reaches all or none."""


class Engines:
    """The engines as one, which vLLM's trainer side calls its client.

    Every call goes to all that have not failed, and has a limit. A broadcast ends with the first failure: its other
    members would wait for the one that failed. Without one (CUDA IPC) the transfer goes on for the others, as the
    policy's ranks wait for each other between its calls.
    """

    def __init__(self, actors: Mapping[str, Any], timeout: float, broadcast: bool) -> None:
        self.actors, self.timeout, self.broadcast = dict(actors), timeout, broadcast
        self.received: dict[str, str] = {}
        self.failed: dict[str, str] = {}

    def _all(self, method: str, arguments: Callable[[int], tuple[Any, ...]] = lambda number: ()) -> dict[str, Any]:
        """The engines' answers by name. arguments: for the engine of this number, counted from 1."""
        numbers = {name: number for number, name in enumerate(self.actors, 1) if name not in self.failed}
        calls = {name: self.actors[name].transfer.remote(method, *arguments(n)) for name, n in numbers.items()}
        ready = ray.wait(list(calls.values()), num_returns=len(calls), timeout=self.timeout)[0] if calls else []
        answers = {}
        for name, reference in calls.items():
            if reference not in ready:
                self.failed[name] = f"{method} was not done after {self.timeout:.0f} s"
                continue
            try:
                answers[name] = ray.get(reference, timeout=self.timeout)
            except (RayActorError, RayTaskError) as error:
                self.failed[name] = brief(error)
        if self.failed and self.broadcast:
            raise BrokenTransfer("; ".join(f"{name}: {why}" for name, why in self.failed.items()))
        return answers

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Tell each engine where it stands in the group: it is a vLLM of its own and counts its ranks from 0."""

        def own_info(number: int) -> tuple[dict[str, Any]]:
            return (init_info | ({"rank_offset": number} if "rank_offset" in init_info else {}),)

        self._all("init_weight_transfer_engine", own_info)

    def start_weight_update(self) -> None:
        self._all("start_transfer")

    def update_weights(self, update_info: Any) -> None:
        self._all("update_weights", lambda number: (update_info,))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.received = self._all("finish_transfer")


class Sender:
    """One policy rank's end. All ranks must call `send` together."""

    def __init__(self, transport: str, rank: int, plain: Plain, gather: Gather, timeout: float) -> None:
        """Prepare to send; all ranks do so with the same arguments.

        plain: the policy's weights as a model without adapters has them. gather: of the training engine, collective.
        timeout: of each call to the engines [s].
        """
        self.transport, self.rank, self.timeout = transport, rank, timeout
        self.source = _source(plain, gather)
        self.client: Engines | None = None
        self.trainer: Any = None

    def send(self, engines: Mapping[str, Any]) -> Sent | None:
        """Bring the engines to the policy's weights.

        The group is made anew where its members are not those of last time, or one failed.
        """
        self.source.begin()
        reason = ""
        try:
            self._transfer(engines)
        except Exception as error:  # vLLM's, gloo's, NCCL's, or an engine's
            if self.rank != 0:
                raise
            reason = brief(error)
            self._leave()
            self.source.finish()
        if self.rank != 0:
            return None
        assert self.client is not None
        received, failures = self.client.received, self.client.failed
        failed = {name: failures.get(name, reason) for name in engines if name not in received}
        if failed:
            self.client = None
        return Sent(self.source.fingerprint.hex(), received, failed, self.source.fingerprint.nbytes)

    def _transfer(self, engines: Mapping[str, Any]) -> None:
        if self.client is None or list(self.client.actors.items()) != list(engines.items()):
            self._join(engines)
        assert self.client is not None
        self.client.received = {}
        with self._bounded():
            self.trainer.send_weights()

    @contextlib.contextmanager
    def _bounded(self) -> Iterator[None]:
        """NCCL waits for ever for a peer that is gone, unless its communicator is aborted, which `shutdown` does."""
        watch = threading.Timer(STEPS * self.timeout, self._leave)
        if self.transport == "nccl" and self.rank == 0:
            watch.start()
        try:
            yield
        finally:
            watch.cancel()

    def _leave(self) -> None:
        if self.trainer is not None:
            self.trainer.shutdown()

    def _join(self, engines: Mapping[str, Any]) -> None:
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

        self.client = Engines(engines, self.timeout, broadcast=self.transport != "ipc")
        self._leave()
        self.trainer = None
        self.trainer = WeightTransferTrainerFactory.trainer_init(
            self._init_info(len(engines)), client=self.client, source=self.source
        )

    def _init_info(self, engines: int) -> Any:
        group = {
            "rank": self.rank,
            "master_address": ray.util.get_node_ip_address(),
            "master_port": free_port(),
            "world_size": 1 + engines,
        }
        if self.transport == "ipc":
            from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

            return IPCTrainerInitInfo(rank=self.rank, packed=True)
        if self.transport == "nccl":
            from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

            return NCCLTrainerInitInfo(**group)
        from zj_ray.weights.direct.gloo import GlooTrainerInitInfo, register

        register()
        return GlooTrainerInitInfo(**group, timeout=self.timeout)


def _source(plain: Plain, gather: Gather) -> Any:
    """The policy's plain weights as vLLM's trainer side wants them.

    The class is made in here so that importing this module costs no vLLM.
    """
    try:
        from vllm.distributed.weight_transfer import ParamMeta, WeightSource
    except ImportError as error:
        what = "this vLLM has no trainer's side of weight transfer"
        remedy = "install vLLM 0.26 or later (0.32 is tested), or leave fleet.transport at object_store"
        raise ConfigError(what, where="fleet.transport", remedy=remedy) from error

    class Gathered(WeightSource):
        def begin(self) -> None:
            """Begin another transfer."""
            self.fingerprint = Fingerprint()
            self.passing: Iterator[tuple[str, Tensor]] | None = None

        def finish(self) -> None:
            """Gather for nobody what is left.

            The other ranks do not know that the transfer broke, and wait for this one.
            """
            for _ in self.passing or iter(self):
                pass

        def metadata(self) -> list[ParamMeta]:
            whole = [(name, parts[0]) for name, parts, _ in plain()]
            return [ParamMeta(name, part.dtype, tuple(getattr(part, "ds_shape", part.shape))) for name, part in whole]

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            self.passing = self._pass()
            return self.passing

        def _pass(self) -> Iterator[tuple[str, Tensor]]:
            for name, tensor in gather(plain()):
                self.fingerprint.add(name, tensor)
                # A gathered tensor is gone when the next is asked for, and the wire may still read it.
                yield name, tensor.clone()

    return Gathered()
