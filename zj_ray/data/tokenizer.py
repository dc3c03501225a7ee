"""The tokenizer of a run: trained on its own texts for the tiny model, or the base model's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from zj_ray.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Bytes of a token: two Chinese characters, a word. Of whole phrases a model can neither read a name nor repeat it.
LONGEST = 9
CHARACTER_BOOST = 60  # more than most words of a small corpus
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

# The original project's format, for bases that bring no template: plain text and the base's own end token, so that no
# token has to be added and no embedding grows.
PLAIN_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '<human>:' + m['content'] + '\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ '<bot>:' + m['content'] + eos_token + '\n' }}"
    "{% else %}{{ m['content'] + '\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<bot>:' }}{% endif %}"
)


def train_tokenizer(texts: Sequence[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer with our chat template. Every string survives encoding and decoding.

    A character that stays three byte tokens is one that a small model breaks when it samples, so the characters that
    the texts use at least twice are offered to the trainer often enough to become tokens before longer words do.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    # Chinese has no spaces: without a split at punctuation whole sentences would become one token.
    punctuation = pre_tokenizers.Split(Regex("[，。！？；：、\n]"), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([punctuation, byte_level])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END, USER, ASSISTANT, SYSTEM],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=LONGEST,
        show_progress=False,
    )
    counts = Counter(character for text in texts for character in text)
    characters = [character for character, count in counts.items() if count > 1 and not character.isascii()]
    bpe.train_from_iterator(chain(texts, characters * CHARACTER_BOOST), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=PAD, model_max_length=max_length)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of an HF folder or hub id, with the original project's chat format where it has none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path))
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise DataError(
            f"no tokenizer can be loaded: {first_line}",
            where=str(path),
            remedy="give an HF model folder that holds tokenizer.json, or a hub id",
        ) from error
    if tokenizer.eos_token is None:
        remedy = "set eos_token in its tokenizer_config.json"
        raise DataError("the tokenizer has no end token", where=str(path), remedy=remedy)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
