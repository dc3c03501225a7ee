"""One DeepSpeed rank: the only file that knows DeepSpeed.

Losses are a token (or prompt) mean over the *whole* optimizer batch and all ranks. A caller hands in micro-batches
whose losses are sums, and the denominator of the whole batch; so the gradient does not depend on the micro-batch size,
the packing or the number of ranks. Every rank must bring the same number of micro-batches: the collectives count on it.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zj_ray.errors import CheckpointError
from zj_ray.training import shards as state
from zj_ray.training.lora import Weight, adapter_config, adapter_weights, has_lora, plain_weights
from zj_ray.training.muon import Muon
from zj_ray.weights.adapter import save_adapter


@dataclass(frozen=True)
class EngineSpec:
    """How DeepSpeed trains a model, or computes with it.

    learning_rate: None for a model that only computes: it has no optimizer, and ZeRO stage 0 or 3. total_steps: length
    of the cosine schedule; None keeps the learning rate constant after warm-up. offload: what waits in CPU memory;
    "all" needs stage 3.
    """

    learning_rate: float | None
    clip_norm: float
    zero_stage: int
    weight_decay: float = 0.0
    warmup_steps: int = 0
    total_steps: int | None = None
    offload: Literal["none", "optimizer", "all"] = "none"
    dtype: str = "float32"
    optimizer: Literal["adamw", "muon"] = "adamw"


def join_process_group(rank: int, world: int, address: str, port: int, timeout: float) -> None:
    """Make this process a DeepSpeed rank; the backend is NCCL where it has a GPU, else gloo."""
    os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE=str(world))
    limit = timedelta(seconds=timeout)
    _deepspeed().init_distributed(dist_backend=_backend(), auto_mpi_discovery=False, verbose=False, timeout=limit)


def adopt_process_group() -> None:
    """Use the process group that Ray Train has already made."""
    _deepspeed().init_distributed(dist_backend=_backend(), auto_mpi_discovery=False, verbose=False)


def _backend() -> str:
    return "nccl" if torch.cuda.is_available() else "gloo"


def _deepspeed() -> Any:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    # Without this, init_distributed compiles a shared-memory extension for minutes on CPUs. The module must be taken
    # from sys.modules: `import deepspeed.comm.torch` binds torch itself.
    modules: Any = sys.modules
    modules["deepspeed.comm.torch"].build_shm_op = lambda: None
    # DeepSpeed looks at its own Muon whenever it makes an optimizer, and that compiles itself on import: seconds of
    # torch.compile's imports in every rank, for functions that no engine of ours calls.
    modules["deepspeed.runtime.compiler"].compile = lambda *_, **__: lambda function: function
    return deepspeed


def compute_repeatably() -> None:
    """Let PyTorch take only algorithms that give the same bits every time, from now on.

    An operation that has none then raises RuntimeError.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    torch.use_deterministic_algorithms(True)


def _schedule(spec: EngineSpec) -> Callable[[int], float]:
    def factor(step: int) -> float:
        if step < spec.warmup_steps:
            return (step + 1) / spec.warmup_steps
        if spec.total_steps is None:
            return 1.0
        progress = min((step - spec.warmup_steps) / max(spec.total_steps - spec.warmup_steps, 1), 1.0)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))

    return factor


def _optimizer(model: nn.Module, learning_rate: float, spec: EngineSpec) -> torch.optim.Optimizer:
    if spec.optimizer == "muon":
        return Muon(model, learning_rate, spec.weight_decay, betas=(0.9, 0.95))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # fused: one pass over the state instead of a dozen; eight times faster on a CPU.
    return torch.optim.AdamW(trained, lr=learning_rate, weight_decay=spec.weight_decay, betas=(0.9, 0.95), fused=True)


def _config(spec: EngineSpec) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": spec.zero_stage}
    if spec.offload != "none" and spec.learning_rate is not None:
        zero["offload_optimizer"] = {"device": "cpu"}
    if spec.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    if spec.zero_stage in (1, 2) and not torch.cuda.is_available():
        # Else every backward pass allocates a buffer of 2 GB anew and copies the gradients into it. That is against
        # fragmented GPU memory; on a CPU the fresh pages cost several percent of the whole step.
        zero["contiguous_gradients"] = False
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # boundaries are set by hand: a batch has as many rows as packing makes
        "gradient_clipping": spec.clip_norm,
        "bf16": {"enabled": spec.dtype == "bfloat16"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


@dataclass(frozen=True)
class StepResult:
    """applied: false when loss or gradient was not finite and the step was dropped on every rank."""

    applied: bool
    grad_norm: float
    learning_rate: float


class TrainEngine:
    """A model under DeepSpeed ZeRO. All methods are collective: every rank must call them in the same order."""

    def __init__(self, model: nn.Module, spec: EngineSpec) -> None:
        self.spec = spec
        self._finite = torch.ones((), dtype=torch.bool)
        trained: dict[str, Any] = {}
        if spec.learning_rate is None:
            model.requires_grad_(False)
        else:
            optimizer = _optimizer(model, spec.learning_rate, spec)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(spec))
            trained = {"optimizer": optimizer, "lr_scheduler": schedule}
        initialize = _deepspeed().initialize
        self.engine, _, _, _ = initialize(model=model, config=_config(spec), dist_init_required=False, **trained)
        for parameter in self.module.parameters():
            if parameter.requires_grad:
                parameter.register_hook(self._watch_gradient)
        self.world = torch.distributed.get_world_size()
        self.rank = torch.distributed.get_rank()
        self.device = self.engine.device
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None  # of the last checkpoint

    @property
    def module(self) -> nn.Module:
        return self.engine.module

    def train_batch(
        self, micro_batches: Sequence[Any], loss_of: Callable[[nn.Module, Any], Tensor], denominator: float
    ) -> StepResult:
        """One optimizer step.

        loss_of: the *summed* loss of a micro-batch; denominator: count over the whole batch and all ranks.
        """
        self.engine.train()
        self._finite = torch.ones((), dtype=torch.bool, device=self.device)
        for i, micro in enumerate(micro_batches):
            self.engine.set_gradient_accumulation_boundary(i == len(micro_batches) - 1)
            # DeepSpeed averages gradients over ranks: multiply by their number to keep the sum.
            loss = loss_of(self.engine, micro) * (self.world / denominator)
            self._finite = self._finite & torch.isfinite(loss.detach())
            self.engine.backward(loss, scale_wrt_gas=False)
        if not self._everywhere(bool(self._finite)):
            self._drop_gradients()
            return StepResult(False, float("nan"), self.learning_rate)
        norm = self._whole_norm() if self.spec.zero_stage == 0 else None
        self.engine.step()
        return StepResult(True, float(self.engine.get_global_grad_norm() if norm is None else norm), self.learning_rate)

    def _whole_norm(self) -> Tensor:
        """At stage 0 every rank has the whole reduced gradient, and DeepSpeed clips it without telling its norm."""
        return nn.utils.get_total_norm([p.grad for p in self.module.parameters() if p.grad is not None])

    @property
    def learning_rate(self) -> float:
        return float(self.engine.optimizer.param_groups[0]["lr"])

    def _watch_gradient(self, gradient: Tensor) -> None:
        # A hook on each parameter sees the gradient before ZeRO takes it away; one sum is the cheapest test of all its
        # elements.
        self._finite = self._finite & torch.isfinite(gradient.sum())

    def _drop_gradients(self) -> None:
        self.engine.zero_grad()
        self.engine.optimizer.zero_grad()

    def _everywhere(self, flag: bool) -> bool:
        votes = torch.tensor([1.0 if flag else 0.0], device=self.device)
        torch.distributed.all_reduce(votes, op=torch.distributed.ReduceOp.MIN)
        return bool(votes.item())

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum of a few numbers over all ranks."""
        total = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return [float(x) for x in total]

    def rest(self) -> None:
        """Hand back the GPU memory that is only kept for later: the roles that share the GPU take turns."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def gather(self, weights: Iterable[Weight]) -> Iterator[tuple[str, Tensor]]:
        """Each weight made from its parts, gathered over the ranks at ZeRO stage 3; valid until the next is taken."""
        for name, parts, make in weights:
            with self._gathered(parts), torch.no_grad():
                yield name, make()

    def _gathered(self, parts: Sequence[Tensor]) -> contextlib.AbstractContextManager[Any]:
        if self.spec.zero_stage < 3:
            return contextlib.nullcontext()
        from deepspeed import zero

        return zero.GatheredParameters(list(parts), modifier_rank=None)

    def on_first_rank(self, weights: Iterable[Weight]) -> dict[str, Tensor] | None:
        """All of the weights in CPU memory on rank 0; None on the others, which only take part in gathering."""
        copies = {name: tensor.cpu().clone() if self.rank == 0 else None for name, tensor in self.gather(weights)}
        return copies if self.rank == 0 else None  # type: ignore[return-value]

    def save_model(self, folder: Path) -> None:
        """An ordinary HF folder with the adapters merged into the weights.

        With LoRA the adapters alone too, in `adapter` beside it.
        """
        weights = self.on_first_rank(plain_weights(self.module))
        if weights is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self.module.save(folder, weights)  # type: ignore[operator]
        if has_lora(self.module):
            backbone: nn.Module = self.module.backbone  # type: ignore[assignment]
            adapters = self.on_first_rank(adapter_weights(backbone))
            if adapters is not None:
                save_adapter(folder.with_name("adapter"), adapter_config(backbone), adapters)
        torch.distributed.barrier()

    def save_checkpoint(self, folder: Path) -> None:
        """Copy weights that learn, optimizer, schedule and this rank's random state, to be written into `folder`.

        They are written while training goes on. No collective: every rank has files of its own. They are whole once
        `is_saved` says so on every rank.
        """
        assert self._writing is None or self._writing.done(), "the checkpoint before is still being written"
        snapshot = state.take(self.engine, self.rank, self.world)
        self._writing = self._writer.submit(snapshot.write, folder)

    def is_saved(self) -> bool:
        """Whether what `save_checkpoint` copied last is on the disk.

        Raises CheckpointError when it can't be written.
        """
        if self._writing is None:
            return True
        if not self._writing.done():
            return False
        fault = self._writing.exception()
        if isinstance(fault, CheckpointError):
            raise fault
        if fault is not None:
            what = f"rank {self.rank} could not write its state: {fault}"
            raise CheckpointError(what, remedy="make room or mend the permissions") from fault
        return True

    def load_checkpoint(self, folder: Path) -> None:
        """Restore what `save_checkpoint` wrote, at any number of ranks and any ZeRO stage.

        Raises CheckpointError when it does not fit.
        """
        state.restore(self.engine, self.rank, self.world, folder)
