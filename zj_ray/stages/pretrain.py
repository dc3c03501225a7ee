"""Continued pre-training: medical texts end to end, cut into blocks, next-token loss on all of them."""

from __future__ import annotations

from typing import Any

from zj_ray.data.datasets import load_texts
from zj_ray.runs.summary import update_summary
from zj_ray.stages.context import Workshop
from zj_ray.stages.supervised import train
from zj_ray.training.supervised.examples import Examples, concatenate_and_chunk


def pretrain(shop: Workshop) -> dict[str, Any]:
    """Leaves `pretrain/model`."""
    start = shop.base_model()
    examples = {split: _blocks(shop, split) for split in ("train", "valid")}
    result = train(shop, "pretrain", "tokens", start, examples, shop.config.pretrain)
    update_summary(
        shop.run.folder,
        {"pretrain": {"ppl_before": result["before"]["perplexity"], "ppl_after": result["after"]["perplexity"]}},
    )
    return result


def _blocks(shop: Workshop, split: str) -> Examples:
    chat = shop.chat()
    documents = [chat.text_ids(text) for text in load_texts(shop.data_root, split)]
    return concatenate_and_chunk(documents, chat.stop_id, shop.config.model.max_length)
