"""Supervised fine-tuning: consultations and single-turn talk, with the loss on every doctor turn."""

from __future__ import annotations

from typing import Any

from zj_ray.data.datasets import load_dialogues
from zj_ray.runs.summary import update_summary
from zj_ray.stages.context import StageContext
from zj_ray.stages.supervised import train
from zj_ray.training.supervised.examples import Examples, from_encoded


def sft(context: StageContext) -> dict[str, Any]:
    """Leaves `sft/model`."""
    examples = {split: _conversations(context, split) for split in ("train", "valid")}
    start, config = context.model("pretrain"), context.config.sft
    result = train(context, "sft", "tokens", start=start, examples=examples, config=config)
    losses = {f"loss_{when}": result[when]["loss"] for when in ("before", "after")}
    update_summary(context.run.folder, {"sft": losses})
    return result


def _conversations(context: StageContext, split: str) -> Examples:
    chat = context.chat()
    dialogues = load_dialogues(context.run.data_root, split, safety_repeats=context.config.data.safety_repeats)
    return from_encoded([chat.conversation(dialogue, context.config.model.max_length) for dialogue in dialogues])
