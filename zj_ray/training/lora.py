"""LoRA: adapters beside a model's linear layers, and its weights as if there had never been any.

`add_lora` adds the adapters (peft's own layers, in transformers' own model class). Engines, later stages and
servers want plain weights: `plain_weights` names them as the model without adapters does, each base weight with its
adapter's product added. It leaves the model as it is: merging in place and unmerging again would leave rounding errors
in the base.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zj_ray.config.schema import LoraConfig
from zj_ray.errors import ConfigError
from zj_ray.weights.bucket import Weight

ADAPTER = "default"  # peft's name for a model's only adapter
NO_LORA = LoraConfig(rank=0)


def add_lora(model: nn.Module, lora: LoraConfig, seed: int) -> None:
    """Freeze `model` and give its layers named in `lora.targets` adapters that add nothing yet.

    A rank of 0 does nothing. seed: of the adapters' first weights, so that every rank has the same. Raises ConfigError
    when no layer bears such a name.
    """
    if lora.rank == 0:
        return
    from peft import LoraConfig as PeftConfig  # 1.5 s, which every rank of a run without adapters is spared

    torch.manual_seed(seed)
    config = PeftConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets))
    try:
        model.add_adapter(config, ADAPTER)  # type: ignore[operator]
    except ValueError as error:
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        names = sorted({name.rpartition(".")[2] for name in linear})
        raise ConfigError(
            f"no adapter can be added: {str(error).splitlines()[0]}",
            where="lora.targets",
            remedy=f"choose from {', '.join(names)}",
        ) from error


def has_lora(model: nn.Module) -> bool:
    return any(_has_adapter(module) for module in model.modules())


def _has_adapter(module: nn.Module) -> bool:
    """Whether this is one of peft's layers, told by its adapter and not by its class: peft need not be imported."""
    return hasattr(module, "lora_A")


@contextlib.contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The model as it was before its adapters learned anything: with LoRA the reference costs no second model."""
    model.disable_adapters()  # type: ignore[operator]
    try:
        yield
    finally:
        model.enable_adapters()  # type: ignore[operator]


def plain_weights(model: nn.Module) -> Iterator[Weight]:
    """Every weight under its name in a model without adapters (tied ones once): the tensors it is made of, and how.

    The second step is a function, as under ZeRO-3 the tensors must be gathered before it is called.
    """
    layers: dict[str, Any] = {name: module for name, module in model.named_modules() if _has_adapter(module)}
    for name, parameter in model.named_parameters():
        owner, _, kind = name.rpartition(".base_layer.")
        if ".lora_" in name:
            continue
        if kind == "weight":
            down: Any = layers[owner].lora_A[ADAPTER].weight
            up: Any = layers[owner].lora_B[ADAPTER].weight
            yield f"{owner}.weight", [parameter, down, up], _merged(parameter, down, up, layers[owner].scaling[ADAPTER])
        else:
            yield name.replace(".base_layer.", "."), [parameter], parameter.detach


def _merged(base: Tensor, down: Tensor, up: Tensor, scaling: float) -> Callable[[], Tensor]:
    return lambda: torch.addmm(base.detach(), up.detach(), down.detach(), alpha=scaling)


def adapter_weights(model: nn.Module) -> Iterator[Weight]:
    """The adapters alone, under their names in the layer tree of `model`."""
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            yield name.replace(f".{ADAPTER}.", "."), [parameter], parameter.detach


def adapter_config(model: nn.Module) -> str:
    """What peft and vLLM read as adapter_config.json."""
    configs: Any = model.peft_config
    return json.dumps(
        configs[ADAPTER].to_dict(), default=lambda value: sorted(value) if isinstance(value, set) else str(value)
    )


def save_plain(model: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    """An ordinary HF folder of `model` without its adapters. weights: what `plain_weights` makes."""
    if has_lora(model):  # a model with adapters would save those alone
        with torch.device("meta"):
            model = type(model)(model.config)  # type: ignore[call-arg]
    model.save_pretrained(folder, state_dict=weights)  # type: ignore[operator]
