"""Supervised fine-tuning: consultations and single-turn talk, with the loss on every doctor turn."""

from __future__ import annotations

from typing import Any

from zj_ray.data.datasets import load_dialogues
from zj_ray.runs.summary import update_summary
from zj_ray.stages.context import Workshop
from zj_ray.stages.supervised import train
from zj_ray.training.supervised.examples import Examples, from_encoded


def sft(shop: Workshop) -> dict[str, Any]:
    """Leaves `sft/model`."""
    examples = {split: _conversations(shop, split) for split in ("train", "valid")}
    result = train(shop, "sft", "tokens", shop.model("pretrain"), examples, shop.config.sft)
    update_summary(
        shop.run.folder, {"sft": {"loss_before": result["before"]["loss"], "loss_after": result["after"]["loss"]}}
    )
    return result


def _conversations(shop: Workshop, split: str) -> Examples:
    chat = shop.chat()
    dialogues = load_dialogues(shop.data_root, split, safety_repeats=shop.config.data.safety_repeats)
    return from_encoded([chat.conversation(dialogue, shop.config.model.max_length) for dialogue in dialogues])
