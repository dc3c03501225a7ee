"""One meaning in many wordings: "(这两天|最近)头(疼|痛)" stands for four texts, and some everyday words have equals.

So a model has to read what patients mean; with few wordings it could know every patient's words by heart.
"""

from __future__ import annotations

import random
import re
from functools import cache
from itertools import product
from pathlib import Path

import yaml

_CHOICE = re.compile(r"\(([^()]*)\)")  # alternatives, parted by |; none of them has brackets in it


def word(pattern: str, rng: random.Random) -> str:
    """One of the pattern's texts, its everyday words exchanged for equals at random."""
    expression, equals = _equals()
    text = _CHOICE.sub(lambda choice: rng.choice(choice[1].split("|")), pattern)
    return expression.sub(lambda match: rng.choice(equals[str(match.lastgroup)]), text)


def wordings(pattern: str) -> set[str]:
    """Every text that `word` can make of the pattern."""
    pieces = _CHOICE.split(pattern)  # plain text and choices in turn
    choices = [piece.split("|") if i % 2 else [piece] for i, piece in enumerate(pieces)]
    return {"".join(text) for chosen in product(*choices) for text in product(*_exchanged("".join(chosen)))}


def _exchanged(text: str) -> list[tuple[str, ...]]:
    """The text's pieces in order, each with what may stand there."""
    expression, equals = _equals()
    pieces: list[tuple[str, ...]] = []
    end = 0
    for match in expression.finditer(text):
        pieces += [(text[end : match.start()],), equals[str(match.lastgroup)]]
        end = match.end()
    return [*pieces, (text[end:],)]


@cache
def _equals() -> tuple[re.Pattern[str], dict[str, tuple[str, ...]]]:
    """What finds the words that have equals, and their equals by the name of the group that matched."""
    raw = yaml.safe_load(Path(__file__).with_name("wordings.yaml").read_text(encoding="utf-8"))
    groups = {f"equals{i}": (expression, tuple(words)) for i, (expression, words) in enumerate(raw.items())}
    finder = "|".join(f"(?P<{name}>{expression})" for name, (expression, _) in groups.items())
    return re.compile(finder), {name: words for name, (_, words) in groups.items()}
