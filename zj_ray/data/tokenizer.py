"""The tokenizer of a run: trained on its own texts for the tiny model, or the base model's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from zj_ray.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END = "<|end|>"
PAD = "<|pad|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
SYSTEM = "<|system|>"

# Every turn ends in END, which is also the end of a document in pre-training: one token that means "I have finished".
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer with our chat template. Every string survives encoding and decoding."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        # Chinese has no spaces: without a split at punctuation whole sentences would become one token.
        [pre_tokenizers.Split(Regex("[，。！？；：、\n]"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END, USER, ASSISTANT, SYSTEM],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=PAD, model_max_length=max_length)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of an HF folder or hub id; ours becomes its chat template where it has none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path))
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise DataError(
            f"no tokenizer can be loaded: {first_line}", where=str(path), remedy="give an HF model folder that holds tokenizer.json, or a hub id"
        ) from error
    if tokenizer.chat_template is None:
        tokenizer.add_special_tokens({"additional_special_tokens": [USER, ASSISTANT, SYSTEM], "eos_token": END})
        tokenizer.chat_template = CHAT_TEMPLATE
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
