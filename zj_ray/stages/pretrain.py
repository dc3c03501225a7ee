"""Continued pre-training: medical texts end to end, cut into blocks, next-token loss on all of them."""

from __future__ import annotations

from typing import Any

from zj_ray.data.datasets import load_texts
from zj_ray.runs.summary import update_summary
from zj_ray.stages.context import StageContext
from zj_ray.stages.supervised import train
from zj_ray.training.supervised.examples import Examples, concatenate_and_chunk


def pretrain(context: StageContext) -> dict[str, Any]:
    """Leaves `pretrain/model`."""
    examples = {split: _blocks(context, split) for split in ("train", "valid")}
    start, config = context.base_model(), context.config.pretrain
    result = train(context, "pretrain", "tokens", start=start, examples=examples, config=config)
    perplexities = {f"ppl_{when}": result[when]["perplexity"] for when in ("before", "after")}
    update_summary(context.run.folder, {"pretrain": perplexities})
    return result


def _blocks(context: StageContext, split: str) -> Examples:
    chat = context.chat()
    documents = [chat.text_ids(text) for text in load_texts(context.run.data_root, split)]
    return concatenate_and_chunk(documents, chat.stop_id, context.config.model.max_length)
