"""What a DeepSpeed rank has learnt, as fragments of named parameters that any number of ranks can read, at any stage.

Every rank writes the elements that it holds: the float32 weights and the optimizer's state of each parameter that
learns, flat, with the position where they begin. So nothing is gathered to be saved, and ranks that are split otherwise
find their elements again. DeepSpeed's own checkpoints are pickles that fit one number of ranks and one stage; its
universal ones need a conversion by a tool of its own, in minutes for a large model. Here all is safetensors and JSON.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zj_ray.errors import CheckpointError
from zj_ray.training.checkpoint import START_AFRESH

WEIGHT = "weight"
COUNTERS = ("global_steps", "global_samples", "micro_steps", "skipped_steps")  # of DeepSpeed's engine


@dataclass(frozen=True)
class Slot:
    """Elements `start` to `start + count` of a parameter; the optimizer has them at `offset` of its tensor `owner`."""

    name: str
    shape: tuple[int, ...]
    start: int
    count: int
    owner: Tensor
    offset: int

    def view(self, whole: Tensor) -> Tensor:
        """The slot's elements of a tensor of the owner's size: of its weights, or of one kind of optimizer state."""
        return whole.detach().view(-1).narrow(0, self.offset, self.count)


def slots(engine: Any, rank: int, world: int) -> Iterator[Slot]:
    """What a DeepSpeed engine holds on this rank.

    At stage 0 every rank holds all, and each answers for its share of the parameters.
    """
    learning = [(name, p) for name, p in engine.module.named_parameters() if p.requires_grad]
    zero = engine.optimizer
    for number, (name, p) in enumerate(learning):
        if hasattr(p, "ds_id"):  # stage 3
            group, offset, count = zero.grad_position[zero.get_param_id(p)]
            start = rank * count
            count = min(count, max(p.ds_numel - start, 0))  # the last rank's part is padded
            if count:
                owner = zero.fp32_partitioned_groups_flat[group]
                yield Slot(name, tuple(p.ds_shape), start=start, count=count, owner=owner, offset=offset)
        elif hasattr(p, "_hp_mapping"):  # stages 1 and 2, and 0 in bfloat16
            if (mapping := p._hp_mapping) is not None:
                here, offset = mapping.lp_fragment_address, mapping.hp_fragment_address.start
                owner = _flat_groups(zero)[mapping.param_group_index]
                yield Slot(name, tuple(p.shape), start=here.start, count=here.numel, owner=owner, offset=offset)
        elif number % world == rank:
            yield Slot(name, tuple(p.shape), start=0, count=p.numel(), owner=p, offset=0)


def _flat_groups(zero: Any) -> list[Tensor]:
    in_bfloat16 = not hasattr(zero, "single_partition_of_fp32_groups")
    return zero.fp32_groups_flat_partition if in_bfloat16 else zero.single_partition_of_fp32_groups


def optimizer_of(engine: Any) -> torch.optim.Optimizer:
    """PyTorch's own optimizer, inside DeepSpeed's."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


@dataclass(frozen=True)
class Snapshot:
    """A copy in CPU memory of what a rank holds, to be written while training goes on."""

    rank: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write `rank-00000.safetensors`, read back, and `rank-00000.json`.

        Raises CheckpointError if the disk has not what was written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = _tensors(folder, self.rank)
        save_file(self.tensors, path)
        with safe_open(path, "pt") as file:
            for name, tensor in self.tensors.items():
                if not torch.equal(file.get_tensor(name).view(torch.uint8), tensor.view(torch.uint8)):
                    what = f"{name} is not on the disk as it was written"
                    raise CheckpointError(what, where=str(path), remedy="suspect the disk")
        (folder / f"rank-{self.rank:05d}.json").write_text(json.dumps(self.facts), encoding="utf-8")


def _tensors(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:05d}.safetensors"


def take(engine: Any, rank: int, world: int) -> Snapshot:
    """Copy what this rank holds, the schedule, and the random state."""
    state = optimizer_of(engine).state
    tensors: dict[str, Tensor] = {}
    parts: dict[str, Any] = {}
    for slot in slots(engine, rank, world):
        own = state.get(slot.owner, {})
        whole = {WEIGHT: slot.owner, **{key: value for key, value in own.items() if _as_large(value, slot.owner)}}
        tensors |= {f"{key}/{slot.name}": slot.view(value).to("cpu", copy=True) for key, value in whole.items()}
        single = {key: float(value) for key, value in own.items() if key not in whole}
        parts[slot.name] = {"shape": slot.shape, "start": slot.start, "count": slot.count, "single": single}
    groups = optimizer_of(engine).param_groups
    facts = {
        "world": world,
        "parts": parts,
        "random": random_state(),
        "groups": [{key: group[key] for key in ("lr", "initial_lr") if key in group} for group in groups],
        "schedule": engine.lr_scheduler.state_dict(),
        "counters": {name: int(getattr(engine, name)) for name in COUNTERS},
    }
    return Snapshot(rank, tensors, facts)


def _as_large(value: Any, owner: Tensor) -> bool:
    return torch.is_tensor(value) and value.shape == owner.shape and value.ndim > 0


class Fragments:
    """The fragments that all ranks have written, read as whole parameters or any part of them."""

    def __init__(self, folder: Path) -> None:
        """Raises CheckpointError when a rank's files are missing or damaged."""
        self.folder, self.facts = folder, list[dict[str, Any]]()
        self._pieces: dict[str, list[tuple[int, int, int]]] = {}  # of each parameter: start, count, rank
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: list[Any] = []
        while len(self.facts) < (self.facts[0]["world"] if self.facts else 1):
            self._open(len(self.facts))

    def _open(self, rank: int) -> None:
        path = self.folder / f"rank-{rank:05d}.json"
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            self._files.append(safe_open(_tensors(self.folder, rank), "pt"))
        except (OSError, ValueError, SafetensorError) as error:
            what = f"what rank {rank} has saved can't be read: {error}"
            raise CheckpointError(what, where=str(self.folder), remedy=START_AFRESH) from error
        self.facts.append(facts)
        for name, part in facts["parts"].items():
            self.shapes[name] = tuple(part["shape"])
            self._pieces.setdefault(name, []).append((part["start"], part["count"], rank))

    def kinds(self, name: str) -> list[str]:
        """The kinds of tensors that there are for a parameter: its weight, and the optimizer's."""
        keys = self._files[self._pieces[name][0][2]].keys()
        return [key.partition("/")[0] for key in keys if key.partition("/")[2] == name]

    def single(self, name: str) -> dict[str, float]:
        """Everything that the optimizer has of a parameter as one number, such as its step."""
        return dict(self.facts[self._pieces[name][0][2]]["parts"][name]["single"])

    def read(self, kind: str, name: str, start: int, count: int) -> Tensor:
        """Elements `start` to `start + count` of a parameter's tensor of this kind, flat."""
        elements = torch.empty(count)
        missing = count
        for begin, length, rank in self._pieces[name]:
            low, high = max(begin, start), min(begin + length, start + count)
            if low < high:
                piece = self._files[rank].get_slice(f"{kind}/{name}")
                elements[low - start : high - start] = piece[low - begin : high - begin]
                missing -= high - low
        if missing:
            raise CheckpointError(
                f"{missing} elements of {kind} of {name} are missing",
                where=str(self.folder),
                remedy="use an older checkpoint",
            )
        return elements


def restore(engine: Any, rank: int, world: int, folder: Path) -> None:
    """Make the engine what `take` saw, at any number of ranks and any ZeRO stage.

    Raises CheckpointError naming what does not fit.
    """
    fragments = Fragments(folder)
    learning = {name: p for name, p in engine.module.named_parameters() if p.requires_grad}
    shapes = {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in learning.items()}
    if shapes != fragments.shapes:
        names = sorted(shapes.keys() | fragments.shapes.keys())
        name = next(name for name in names if shapes.get(name) != fragments.shapes.get(name))
        what = f"{name} has the shape {shapes.get(name)} here and {fragments.shapes.get(name)} there"
        remedy = "resume with the model and the LoRA settings that it was saved with"
        raise CheckpointError(what, where=str(folder), remedy=remedy)
    optimizer = optimizer_of(engine)
    whole = engine.zero_optimization_stage() == 0  # then every rank needs all
    for slot in slots(engine, 0 if whole else rank, 1 if whole else world):
        _fill(optimizer.state[slot.owner], slot, fragments)
    for name, parameter in learning.items():
        _show(parameter, name, rank, fragments)
    facts = fragments.facts[rank % len(fragments.facts)]
    for group, rates in zip(optimizer.param_groups, facts["groups"], strict=True):
        group.update(rates)
    engine.lr_scheduler.load_state_dict(facts["schedule"])
    for name, count in facts["counters"].items():
        setattr(engine, name, count)
    restore_random_state(facts["random"])


def _fill(state: dict[str, Any], slot: Slot, fragments: Fragments) -> None:
    """Copy one slot's weight and optimizer state from what was saved."""
    kinds, single = fragments.kinds(slot.name), fragments.single(slot.name)
    for key in state.keys() - {*kinds, *single}:
        del state[key]  # a checkpoint from before the first step has no moments
    for kind in kinds:
        whole = slot.owner if kind == WEIGHT else state.setdefault(kind, torch.zeros_like(slot.owner))
        slot.view(whole).copy_(fragments.read(kind, slot.name, slot.start, slot.count))
    for key, value in single.items():
        state[key] = torch.tensor(value, device=slot.owner.device)


def _show(parameter: Any, name: str, rank: int, fragments: Fragments) -> None:
    """Copy a weight into the tensor that the model computes with, where that is not the optimizer's own."""
    if hasattr(parameter, "ds_id"):
        part: Tensor = parameter.ds_tensor
        start = rank * part.numel()
        count = min(part.numel(), max(parameter.ds_numel - start, 0))
        part.data.view(-1).narrow(0, 0, count).copy_(fragments.read(WEIGHT, name, start, count))
        if parameter.numel() != parameter.ds_numel:
            return  # it is gathered from the parts when it is needed; small ones always are
    elif not hasattr(parameter, "_hp_mapping"):
        return
    shape = fragments.shapes[name]
    parameter.data.copy_(fragments.read(WEIGHT, name, 0, math.prod(shape)).view(shape))


def random_state() -> dict[str, Any]:
    """The random state of Python, NumPy and PyTorch on this rank, as JSON can hold it."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state().tolist(),
        "cuda": torch.cuda.get_rng_state().tolist() if torch.cuda.is_available() else None,
    }


def restore_random_state(state: dict[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8))
