"""A LoRA adapter on disk, as peft and vLLM read it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

PEFT_PREFIX = "base_model.model."  # before every weight's name in an adapter file


def save_adapter(folder: Path, config: str, weights: Mapping[str, Tensor]) -> None:
    """Write the adapter's two files.

    config: the text of adapter_config.json; weights: named as in the layer tree of the model that bears them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(config, encoding="utf-8")
    tensors = {PEFT_PREFIX + name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
