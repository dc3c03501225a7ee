"""Matters that come in many forms: a question with its answer, and the many things that both may be about.

"(哪里|哪家店)能买到不要处方的{strong}？" is one matter, and as many questions as `strong` has medicines. So a model can
learn the matter and must still read which medicine is meant, as with patients of conditions that it knows.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

import yaml

from zj_ray.data.clinic.wordings import word
from zj_ray.errors import DataError

FILE = Path(__file__).parent / "frames.yaml"


class Pair(NamedTuple):
    """A question with its answer. about: what the question names and an answer to it must name, too, if it is known."""

    question: str
    answer: str
    about: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """A question and its answer, with the same gaps in both, and what may fill them.

    things: for each gap, by its pool's name, the things that may stand there; `{course[1]}` takes one's second part.
    """

    question: str
    answer: str
    things: dict[str, list[Any]]

    def pairs(self, rng: random.Random) -> list[Pair]:
        """One question about every thing, or combination of things, with its answer; in random order."""
        chosen = list(product(*self.things.values()))
        filled = [dict(zip(self.things, things, strict=True)) for things in rng.sample(chosen, len(chosen))]
        return [self._pair(gaps, rng) for gaps in filled]

    def _pair(self, gaps: dict[str, Any], rng: random.Random) -> Pair:
        question, answer = word(self.question, rng).format(**gaps), self.answer.format(**gaps)
        named = (f"{{{field}}}".format(**gaps) for field in _fields(self.question))
        return Pair(question, answer, tuple(thing for thing in named if thing in answer))


@cache
def load_frames(category: str, kind: str, path: Path = FILE) -> tuple[Frame, ...]:
    """The frames of a category of safety.yaml. kind: asks or controls.

    Raises DataError where a frame lacks its answer or has a gap without a pool.
    """
    pools, frames = _read(path)
    return tuple(
        _frame(raw, pools, f"{path.name}, {category}, {kind} {i + 1}") for i, raw in enumerate(frames[category][kind])
    )


@cache
def _read(path: Path) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    return raw["pools"], raw["frames"]


def _frame(raw: dict[str, str], pools: dict[str, list[Any]], where: str) -> Frame:
    try:
        question, answer = raw["q"], raw["a"]
        return Frame(question, answer, {name: pools[name] for name in _gaps(question + answer)})
    except KeyError as fault:
        remedy = "a frame needs q, a, and a pool for each of its gaps"
        raise DataError(f"the frame lacks {fault}", where=where, remedy=remedy) from None


def _gaps(text: str) -> list[str]:
    return list(dict.fromkeys(field.split("[")[0] for field in _fields(text)))


def _fields(text: str) -> list[str]:
    """The gaps of a text as they stand there: `drug`, `course[1]`."""
    return list(dict.fromkeys(field for _, field, _, _ in Formatter().parse(text) if field))
