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
class Names:
    """Invented names: `length` of the characters and an ending. part: which part of a thing of several is invented."""

    characters: str
    length: tuple[int, int]
    endings: tuple[str, ...]
    part: int | None

    def field(self, gap: str) -> str:
        """How the invented part stands in a text: `drug`, `course[1]`."""
        return gap if self.part is None else f"{gap}[{self.part}]"

    def draw(self, thing: Any, rng: random.Random) -> Any:
        """The thing under an invented name."""
        name = "".join(rng.sample(self.characters, rng.randint(*self.length))) + rng.choice(self.endings)
        return name if self.part is None else [name if i == self.part else part for i, part in enumerate(thing)]


@dataclass(frozen=True)
class Frame:
    """A question and its answer, with the same gaps in both, and what may fill them.

    things: for each gap, by its pool's name, the things that may stand there; `{course[1]}` takes one's second part.
    names: of the gaps whose things may have invented names.
    """

    question: str
    answer: str
    things: dict[str, list[Any]]
    names: dict[str, Names]

    def pairs(self, rng: random.Random) -> list[Pair]:
        """One question about every thing, or combination of things, with its answer; in random order."""
        chosen = list(product(*self.things.values()))
        filled = [dict(zip(self.things, things, strict=True)) for things in rng.sample(chosen, len(chosen))]
        return [self._pair(gaps, rng) for gaps in filled]

    def invented(self, count: int, rng: random.Random) -> list[Pair]:
        """As many questions about things with invented names; none where no gap can have one."""
        fields = _fields(self.question)
        named = [gap for gap, names in self.names.items() if names.field(gap) in fields]
        if not named:
            return []
        drawn = [{gap: rng.choice(things) for gap, things in self.things.items()} for _ in range(count)]
        return [self._pair(gaps | {gap: self.names[gap].draw(gaps[gap], rng) for gap in named}, rng) for gaps in drawn]

    def _pair(self, gaps: dict[str, Any], rng: random.Random) -> Pair:
        question, answer = word(self.question, rng).format(**gaps), self.answer.format(**gaps)
        named = (f"{{{field}}}".format(**gaps) for field in _fields(self.question))
        return Pair(question, answer, tuple(thing for thing in named if thing in answer))


@cache
def load_frames(category: str, kind: str, path: Path = FILE) -> tuple[Frame, ...]:
    """The frames of a category of safety.yaml. kind: asks or controls.

    Raises DataError where a frame lacks its answer or has a gap without a pool.
    """
    file = _read(path)
    return tuple(
        _frame(raw, file, f"{path.name}, {category}, {kind} {i + 1}")
        for i, raw in enumerate(file["frames"][category][kind])
    )


@cache
def _read(path: Path) -> dict[str, Any]:
    raw: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = {
        pool: Names(of["of"], tuple(of["length"]), tuple(of["ends"]), of.get("part"))
        for pool, of in raw.get("invented", {}).items()
    }
    return raw | {"names": names}


def _frame(raw: dict[str, str], file: dict[str, Any], where: str) -> Frame:
    try:
        question, answer = raw["q"], raw["a"]
        things = {name: file["pools"][name] for name in _gaps(question + answer)}
        return Frame(question, answer, things, {gap: file["names"][gap] for gap in things if gap in file["names"]})
    except KeyError as fault:
        remedy = "a frame needs q, a, and a pool for each of its gaps"
        raise DataError(f"the frame lacks {fault}", where=where, remedy=remedy) from None


def _gaps(text: str) -> list[str]:
    return list(dict.fromkeys(field.split("[")[0] for field in _fields(text)))


def _fields(text: str) -> list[str]:
    """The gaps of a text as they stand there: `drug`, `course[1]`."""
    return list(dict.fromkeys(field for _, field, _, _ in Formatter().parse(text) if field))
