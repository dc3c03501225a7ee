"""Models as the trainers see them: packed rows in, a few numbers per chosen position out.

Both wrappers take a packed row (several documents end to end, `position_ids` restarting at 0) and `use_cache=False`:
with the cache on, transformers does not see the packing and the documents leak into each other silently.
Logits are computed only at the positions asked for: the vocabulary is the widest matrix of a small model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from zj_ray.algorithms.logprobs import Entropy, sampled_logprobs
from zj_ray.config.schema import ModelConfig, TinyConfig
from zj_ray.errors import CheckpointError
from zj_ray.rankings.aspects import HEADS
from zj_ray.training.attention import attend_by_document
from zj_ray.training.lora import save_plain


def make_tiny(tiny: TinyConfig, tokenizer: PreTrainedTokenizerBase, max_length: int, seed: int) -> LlamaForCausalLM:
    """An untrained Llama with tied embeddings, small enough to train on a laptop."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=tiny.hidden_size,
        intermediate_size=tiny.intermediate_size,
        num_hidden_layers=tiny.layers,
        num_attention_heads=tiny.heads,
        num_key_value_heads=tiny.heads,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def load_causal_lm(path: str | Path, model: ModelConfig) -> nn.Module:
    """A causal LM from an HF folder or hub id. Raises CheckpointError naming the folder."""
    lm = _from_pretrained(AutoModelForCausalLM, path, model)
    if model.gradient_checkpointing:
        lm.gradient_checkpointing_enable()
    return lm


def _from_pretrained(kind: Any, path: str | Path, model: ModelConfig) -> Any:
    try:
        loaded, info = kind.from_pretrained(str(path), dtype=getattr(torch, model.dtype), output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"the model can't be loaded: {reason}",
            where=str(path),
            remedy="give an HF model folder (config.json and safetensors) or a hub id",
        ) from error
    if lacking := sorted(map(str, [*info["missing_keys"], *info.get("mismatched_keys", [])])):
        raise CheckpointError(
            f"{len(lacking)} weights are missing or of another shape, the first is {lacking[0]!r}",
            where=str(path),
            remedy="the folder holds a checkpoint of another architecture than its config.json says",
        )
    return loaded


class TokenLogprobs(nn.Module):
    """A causal LM that answers with the log-probs of chosen tokens of a packed row."""

    def __init__(self, lm: nn.Module) -> None:
        super().__init__()
        self.lm = lm
        attend_by_document(lm)

    @property
    def backbone(self) -> nn.Module:
        """The model that bears the adapters."""
        return self.lm

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        index: Tensor,
        temperature: float = 1.0,
        entropy: Entropy = "unknown",
    ) -> tuple[Tensor, Tensor]:
        """Log-probs of chosen tokens and the entropies of the distributions they were drawn from, both `[n]`, float32.

        input_ids, position_ids: `[1, row]`; index: `[n]` positions of the tokens, none the first of its document;
        entropy: as in `sampled_logprobs`.
        """
        output = self.lm(input_ids=input_ids, position_ids=position_ids, use_cache=False, logits_to_keep=index - 1)
        logits = output.logits[0].float()
        if temperature != 1.0:
            logits = logits / temperature
        return sampled_logprobs(logits, input_ids[0, index], entropy)

    def save(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """An ordinary HF folder. weights: named as in a model without adapters."""
        save_plain(self.lm, {name.removeprefix("lm."): tensor for name, tensor in weights.items()}, folder)


class ScalarHeads(nn.Module):
    """A trunk with linear heads on its last hidden states: reward model (four heads) or critic (one)."""

    def __init__(self, trunk: nn.Module, heads: int) -> None:
        super().__init__()
        self.trunk = trunk
        attend_by_document(trunk)
        config: Any = trunk.config
        self.heads = nn.Linear(config.hidden_size, heads, dtype=torch.float32)
        nn.init.normal_(self.heads.weight, std=0.02)
        nn.init.zeros_(self.heads.bias)

    @property
    def backbone(self) -> nn.Module:
        """The model that bears the adapters; the heads always learn whole."""
        return self.trunk

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, index: Tensor, attention: Tensor | None = None
    ) -> Tensor:
        """Scores `[n, heads]`, float32, read at the positions `index` `[n]` of the packed row `[1, row]`.

        attention: as in `PackedRow`.
        """
        packed = {"input_ids": input_ids, "position_ids": position_ids, "attention_mask": attention}
        hidden = self.trunk(**packed, use_cache=False).last_hidden_state
        # Under DeepSpeed's bf16 the heads are bf16 too.
        return self.heads(hidden[0, index].to(self.heads.weight.dtype)).float()

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """An ordinary HF folder of the trunk, and the heads beside it.

        weights: named as in a model without adapters; None saves the model's own, whole and without adapters.
        """
        own = weights or self.state_dict()
        trunk = {name.removeprefix("trunk."): own[name] for name in own if name.startswith("trunk.")}
        heads = {name.removeprefix("heads."): own[name].contiguous() for name in own if name.startswith("heads.")}
        save_plain(self.trunk, trunk, folder)
        save_file(heads, folder / "heads.safetensors")
        (folder / "heads.json").write_text(json.dumps({"heads": list(HEADS[: self.heads.out_features])}))


def new_heads(lm_folder: str | Path, heads: int, model: ModelConfig, seed: int) -> ScalarHeads:
    """The trunk of a causal LM with fresh heads."""
    torch.manual_seed(seed)
    trunk = load_causal_lm(lm_folder, model).get_decoder()  # type: ignore[operator]
    return ScalarHeads(trunk, heads)


def load_heads(folder: str | Path, model: ModelConfig, only: int | None = None) -> ScalarHeads:
    """The model that `ScalarHeads.save` wrote. only: how many heads to keep, from the first on (a critic has one)."""
    weights = Path(folder) / "heads.safetensors"
    if not weights.is_file():
        raise CheckpointError(
            "this is no reward model: heads.safetensors is missing",
            where=str(folder),
            remedy="run the reward stage first",
        )
    state = load_file(weights)
    loaded = ScalarHeads(_from_pretrained(AutoModel, folder, model), only or state["weight"].shape[0])
    if model.gradient_checkpointing:
        loaded.trunk.gradient_checkpointing_enable()  # type: ignore[operator]
    loaded.heads.load_state_dict({name: tensor[:only] if only else tensor for name, tensor in state.items()})
    return loaded


def check_checkpoint(folder: Path) -> None:
    """Compare a local HF folder's weights with what its config.json describes, without loading either.

    Raises CheckpointError naming the first weight that is missing or of another shape, or an architecture that is no
    causal LM.
    """
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"this is no causal LM: {reason}",
            where=str(folder),
            remedy="give the folder of a decoder model such as Llama or Qwen",
        ) from error
    shapes = _stored_shapes(folder)
    for name, parameter in model.named_parameters():
        if shapes.get(name) != tuple(parameter.shape):
            state = f"of shape {list(shapes[name])}" if name in shapes else "missing"
            raise CheckpointError(
                f"{name} is {state} where config.json means {list(parameter.shape)}",
                where=str(folder),
                remedy="the weights are of another architecture than config.json: take both from the same model",
            )


def _stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    shapes[name] = tuple(file.get_slice(name).get_shape())
        except SafetensorError as error:
            remedy = "copy or download the file again"
            raise CheckpointError(f"damaged weights: {error}", where=str(path), remedy=remedy) from error
    return shapes
