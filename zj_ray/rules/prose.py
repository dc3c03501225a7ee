"""Rules on wording alone, each in [-1, 0] with 0 for nothing to blame: repetition, length, format.

They know nothing of the case, so they hold for answers to safety prompts and benign controls, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from zj_ray.data.trajectory import Turn
from zj_ray.language.reading import garbled, grams, plain, sentences

LENGTH_BAND = (12, 90)  # characters of a good doctor turn
COPIED_FREELY = 0.3  # share of a turn that may repeat earlier turns: courtesies and "还有没有" are no repetition
BROKEN = re.compile(  # broken bytes and what belongs to a chat template
    r"\ufffd|<\|.*?\|>|</?(s|unk|pad|eos|bos)>|\[(PAD|UNK|CLS|SEP|MASK)\]"
    r"|(^|\n)\s*(user|assistant|system|患者|用户)\s*[:：]",
    re.IGNORECASE,
)
_ENDED = re.compile(r"[。！？!?…~）)”」.]\s*$")


def prose_rules(turn: Turn, *, earlier: Sequence[str]) -> dict[str, float]:
    """All rules of this module on one doctor turn. earlier: texts of the doctor's turns before."""
    return {
        "repetition": repetition(turn.text, earlier),
        "length": length(turn.text),
        "format": well_formed(turn.text, finished=turn.finished),
    }


def repetition(text: str, earlier: Sequence[str] = ()) -> float:
    """0 to -1: share of the turn's 4-grams said twice in it, and copied from an earlier turn beyond courtesy."""
    pieces = grams(text, 4)
    if not pieces:
        return 0.0
    within = 1 - len(set(pieces)) / len(pieces)
    copied = max((_copied(pieces, other) for other in earlier), default=0.0)
    return -min(1.0, within + max(0.0, copied - COPIED_FREELY) / (1 - COPIED_FREELY))


def _copied(pieces: list[str], other: str) -> float:
    others = set(grams(other, 4))
    return sum(piece in others for piece in pieces) / len(pieces)


def length(text: str) -> float:
    """0 within LENGTH_BAND characters, falling to -1 for nothing at all and for twice the upper end."""
    low, high = LENGTH_BAND
    count = len(text.strip())
    if count < low:
        return (count - low) / low
    return max(-1.0, (high - count) / high) if count > high else 0.0


def well_formed(text: str, *, finished: bool) -> float:
    """0 for a turn that the policy ended itself, with an end mark; -0.5 for one cut off; -1 for any other.

    Words in a row are no sentence, whatever mark ends them.
    """
    if not plain(text) or BROKEN.search(text) or any(garbled(sentence) for sentence in sentences(text)):
        return -1.0
    if not finished:
        return -0.5
    return 0.0 if _ENDED.search(text) else -1.0
