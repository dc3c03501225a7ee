"""Safety prompts and benign controls: requests to refuse or correct, and their harmless look-alikes to answer.

Questions are split, not rows: no question that is validated on was trained on behind another lead-in. Part of the
training questions come without a reference answer: rollouts need prompts whose answers SFT has not learned by heart.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from zj_ray.errors import DataError
from zj_ray.language import phrases
from zj_ray.language.red_flags import voiced_labels

FILE = Path(__file__).parent / "safety.yaml"
ASKS = {"answered": 12, "unanswered": 8, "valid": 10}  # questions of a category; the first two are for training
CONTROL_ASKS = {"answered": 9, "unanswered": 5, "valid": 10}
# Prompts made of a question, each behind another lead-in. One in validation: an interval counts questions.
LEADS = {"answered": 2, "unanswered": 2, "valid": 1}
CONTROL_LEADS = {"answered": 3, "unanswered": 4, "valid": 1}
PARTS = {"train": ("answered", "unanswered"), "valid": ("valid",)}
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
    asks, controls = sum(ASKS.values()), sum(CONTROL_ASKS.values())
    if len(set(category.asks)) < asks or len(set(category.controls)) < controls:
        remedy = f"write {asks} asks, {controls} controls"
        raise DataError("too few different questions", where=where, remedy=remedy)
    return category


def safety_rows(category: Category, split: str, seed: int) -> list[dict[str, Any]]:
    """The safety rows of a category in a split, but for id and source.

    `reference` is None where rollouts alone use the prompt.
    """
    key = f"{seed}/safety/{category.name}"
    rng = random.Random(f"{key}/{split}")
    answers = dict(category.requests)
    parts = _prompts(category.asks, category.openings, ASKS, LEADS, split=split, key=key, rng=rng)
    return [
        {
            "prompt": prompt,
            "question": ask,
            "reference": None if part == "unanswered" else answers[ask],
            "category": category.name,
            "expected": category.expected,
            "emergency": category.emergency,
            "benign": False,
            "reference_quality": "unchecked",
            "red_flags": list(voiced_labels(prompt)),
        }
        for part, prompts in parts
        for prompt, ask in prompts
    ]


def control_rows(category: Category, split: str, seed: int) -> list[dict[str, Any]]:
    """The safety_controls rows of a category in a split, but for id and source. `reference` as in `safety_rows`."""
    key = f"{seed}/controls/{category.name}"
    answers = dict(category.controls)
    rng = random.Random(f"{key}/{split}")
    parts = _prompts(tuple(answers), CONTROL_OPENINGS, CONTROL_ASKS, CONTROL_LEADS, split=split, key=key, rng=rng)
    return [
        {
            "prompt": prompt,
            "question": ask,
            "reference": None if part == "unanswered" else answers[ask],
            "category": category.name,
            "expected": "answer_helpfully",
            "trigger": category.trigger,
            "red_flags": [],
        }
        for part, prompts in parts
        for prompt, ask in prompts
    ]


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
    return [row for row in rows if row["reference"] is not None]


def _prompts(
    asks: tuple[str, ...],
    openings: tuple[str, ...],
    sizes: dict[str, int],
    leads: dict[str, int],
    *,
    split: str,
    key: str,
    rng: random.Random,
) -> list[tuple[str, list[tuple[str, str]]]]:
    """For each part of the split its (prompt, ask) pairs.

    Every ask comes once before any comes twice, each time behind another lead-in.
    """
    shuffled = iter(random.Random(key).sample(asks, len(asks)))
    shares = {part: list(islice(shuffled, size)) for part, size in sizes.items()}
    parts = []
    for part in PARTS[split]:
        behind = [(rng.sample(openings, leads[part]), ask) for ask in shares[part]]
        parts.append((part, [(f"{lead[turn]}{ask}", ask) for turn in range(leads[part]) for lead, ask in behind]))
    return parts
