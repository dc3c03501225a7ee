"""Safety prompts and benign controls: requests to refuse or correct, and their harmless look-alikes to answer.

Some matters are known: training and validation share the frames of their questions, and no frame is in both about the
same thing. Others are new in validation: single questions, each with an answer of its own; training has others. Part of
the training questions come without a reference answer: rollouts need prompts whose answers SFT has not learned by
heart.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from zj_ray.data.clinic.frames import Pair, load_frames
from zj_ray.errors import DataError
from zj_ray.language import phrases
from zj_ray.language.red_flags import voiced_labels

FILE = Path(__file__).parent / "safety.yaml"
Part = Literal["answered", "unanswered", "valid", "new"]
Kind = Literal["asks", "controls"]
# Questions of a category, by part: single ones, and those of each frame. The first two parts are for training.
SINGLE: dict[Kind, dict[Part, int]] = {
    "asks": {"answered": 12, "unanswered": 8, "new": 10},
    "controls": {"answered": 9, "unanswered": 5, "new": 10},
}
FRAMED: dict[Part, int] = {"valid": 3, "unanswered": 4, "answered": 6}
INVENTED: dict[Part, int] = {"unanswered": 2, "answered": 8}  # of those whose things have invented names
INSISTED = 8  # of so many answered questions of frames, patients insist on one
PARTS: dict[str, tuple[Part, ...]] = {"train": ("answered", "unanswered"), "valid": ("valid",), "new": ("new",)}
CONTROL_OPENINGS = ("医生您好，", "我想问一下，", "请问，", "")


@dataclass(frozen=True)
class Category:
    """One kind of dangerous request, and its harmless look-alikes."""

    name: str
    expected: str
    emergency: bool
    openings: tuple[str, ...]
    requests: tuple[tuple[str, str], ...]  # dangerous request, the answer to it
    answers: tuple[str, ...]  # to a patient who insists; each fits every request
    trigger: str
    controls: tuple[tuple[str, str], ...]  # benign question with the trigger word, its answer

    @property
    def asks(self) -> tuple[str, ...]:
        return tuple(ask for ask, _ in self.requests)


@cache
def load_categories(path: Path = FILE) -> tuple[Category, ...]:
    """The categories of safety.yaml. Raises DataError naming the category and what it lacks."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tuple(_category(entry, f"{path.name}, category {i + 1}") for i, entry in enumerate(raw["categories"]))


def _category(raw: dict[str, Any], where: str) -> Category:
    try:
        category = Category(
            name=raw["name"],
            expected=raw["expected"],
            emergency=raw["emergency"],
            openings=tuple(raw["openings"]),
            requests=tuple((pair["q"], pair["a"]) for pair in raw["asks"]),
            answers=tuple(raw["answers"]),
            trigger=raw["trigger"],
            controls=tuple((pair["q"], pair["a"]) for pair in raw["controls"]),
        )
    except (KeyError, TypeError) as fault:
        what = f"the category is incomplete: {fault!r}"
        raise DataError(what, where=where, remedy="every question (q) needs its answer (a)") from None
    asks, controls = (sum(SINGLE[kind].values()) for kind in ("asks", "controls"))
    if len(set(category.asks)) < asks or len(set(category.controls)) < controls:
        remedy = f"write {asks} asks, {controls} controls"
        raise DataError("too few different questions", where=where, remedy=remedy)
    return category


def safety_rows(category: Category, split: str, seed: int) -> list[dict[str, Any]]:
    """The safety rows of a category, but for id and source.

    split: train, valid, or new: validation's matters of which training has nothing. `reference` is None where rollouts
    alone use the prompt.
    """
    return [
        row
        | {
            "expected": category.expected,
            "emergency": category.emergency,
            "benign": False,
            "reference_quality": "unchecked",
            "red_flags": list(voiced_labels(row["prompt"])),
        }
        for row in _rows(category, "asks", split, seed)
    ]


def control_rows(category: Category, split: str, seed: int) -> list[dict[str, Any]]:
    """The safety_controls rows of a category, but for id and source. Arguments and `reference` as in `safety_rows`."""
    own = {"expected": "answer_helpfully", "trigger": category.trigger, "red_flags": []}
    return [row | own for row in _rows(category, "controls", split, seed)]


def persistent_rows(category: Category, split: str, seed: int) -> list[dict[str, Any]]:
    """Conversations, but for id and source, in which the patient does not leave it at the first answer.

    A doctor who refuses must refuse again in other words; one who helped adds something. Without them SFT would know
    safety prompts by their first turn alone, and rollouts have two or three.
    """
    rng = random.Random(f"{seed}/persistent/{category.name}/{split}")
    talks = []
    for row in _answered(safety_rows(category, split, seed)):
        talks.append((row, rng.choice(phrases.PUSHES), rng.choice(category.answers)))
    controls = _answered(control_rows(category, split, seed))
    talks += [(row, rng.choice(phrases.CONTROL_PUSHES), rng.choice(phrases.CONTROL_CLOSINGS)) for row in controls]
    return [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["reference"]},
                {"role": "user", "content": push},
                {"role": "assistant", "content": again},
            ],
            "category": category.name,
            "expected": row["expected"],
        }
        for row, push, again in talks
    ]


def _answered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    answered = [row for row in rows if row["reference"] is not None]
    single, framed = ([row for row in answered if bool(row["about"]) is of_frame] for of_frame in (False, True))
    return single + framed[::INSISTED]


def _rows(category: Category, kind: Kind, split: str, seed: int) -> Iterator[dict[str, Any]]:
    """The questions of a split behind their lead-ins, each with its answer and what it is about."""
    key = f"{seed}/{kind}/{category.name}"
    rng = random.Random(f"{key}/{split}")
    single = [Pair(question, answer) for question, answer in getattr(category, "requests" if kind == "asks" else kind)]
    groups: list[tuple[dict[Part, int], list[Pair]]] = [(SINGLE[kind], random.Random(key).sample(single, len(single)))]
    for number, frame in enumerate(load_frames(category.name, kind)):
        order = random.Random(f"{key}/{number}")
        groups += [(FRAMED, frame.pairs(order)), (INVENTED, frame.invented(sum(INVENTED.values()), order))]
    openings = category.openings if kind == "asks" else CONTROL_OPENINGS
    for sizes, pairs in groups:
        for part, pair in _parted(sizes, pairs):
            if part in PARTS[split]:
                yield {
                    "prompt": f"{rng.choice(openings)}{pair.question}",
                    "question": pair.question,
                    "about": list(pair.about),
                    "reference": None if part == "unanswered" else pair.answer,
                    "category": category.name,
                }


def _parted(sizes: dict[Part, int], pairs: Sequence[Pair]) -> Iterator[tuple[Part, Pair]]:
    """The pairs, each with its part: as many of each in turn as `sizes` says."""
    rest = iter(pairs)
    yield from ((part, pair) for part, size in sizes.items() for _, pair in zip(range(size), rest, strict=False))
