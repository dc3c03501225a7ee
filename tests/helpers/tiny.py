"""A tiny model folder for tests: random weights, a real tokenizer, tied embeddings (else stale heads hide)."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from zj_ray.config.schema import ModelConfig, TinyConfig
from zj_ray.data.case import Case, Fact
from zj_ray.data.tokenizer import train_tokenizer
from zj_ray.training.model import make_tiny

TEXTS = [
    "医生您好，我这两天头痛得厉害，还有点恶心。",
    "请问疼痛是从什么时候开始的？有没有发热？",
    "建议您多休息，及时到医院检查。",
] * 20
MODEL = ModelConfig(
    tiny=TinyConfig(vocab_size=400, hidden_size=64, layers=2, heads=1, intermediate_size=128), max_length=256
)

CASE = Case(
    "case-1",
    "内科",
    "医生，我头痛。",
    (Fact("起病", "三天前开始的"), Fact("程度", "很痛")),
    (),
    dict.fromkeys(("diagnosis", "treatment", "advice", "basis")),
    (),
)


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(TEXTS, MODEL.tiny.vocab_size, MODEL.max_length)


def tiny_folder(folder: Path, seed: int = 0, tiny: TinyConfig = MODEL.tiny) -> Path:
    """Layers with weights four times as large: else the embedding outweighs them, and greedy answers only repeat the
    prompt's last token, whatever the layers hold."""
    tokenizer = tiny_tokenizer()
    model = make_tiny(tiny, tokenizer, MODEL.max_length, seed)
    for weight in model.get_decoder().layers.parameters():
        if weight.ndim == 2:
            weight.data *= 4
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
