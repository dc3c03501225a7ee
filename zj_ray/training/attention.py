"""Attention over packed rows, one document at a time.

transformers computes a packed row with a block-diagonal mask: every token against every other, most of it thrown away.
A row of 1,000 tokens in ten documents costs ten times the attention that the documents need, and masked attention can't
skip the upper triangle either. Here the row is cut where `position_ids` restart, and each piece attends causally to
itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from zj_ray.errors import ZjError

NAME = "zj_packed"


def attend_by_document(model: nn.Module) -> None:
    """Make an HF model attend to one document of a packed row at a time.

    It does nothing to a model of another attention than full sdpa, nor on a GPU: that has kernels for a whole row at
    once, and asking where documents begin would make it wait in every layer.
    """
    config: Any = model.config
    layer_types = set(getattr(config, "layer_types", None) or ())
    windows = getattr(config, "sliding_window", None) or layer_types - {"full_attention"}
    if config._attn_implementation == "sdpa" and not windows and not torch.cuda.is_available():
        model.set_attn_implementation(NAME)  # type: ignore[operator]


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of query, key and value `[batch, heads, time, size]`, document by document.

    Several rows, or a row with a mask of its own, are attended to in transformers' own way.
    """
    if attention_mask is not None or len(query) > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if position_ids is None:  # to go on would let the documents see each other
        raise ZjError(
            f"{type(module).__name__} does not tell its attention where documents begin",
            where="packed training rows",
            remedy="set model.base to an architecture that hands position_ids on, such as Llama or Qwen",
        )
    starts = (position_ids[0] == 0).nonzero()[:, 0].tolist()
    sizes = [end - start for start, end in zip(starts, [*starts[1:], query.shape[2]], strict=True)]
    pieces = zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True)
    return torch.cat([sdpa_attention_forward(module, *piece, None, **options)[0] for piece in pieces], 1), None


AttentionInterface.register(NAME, _attention)
