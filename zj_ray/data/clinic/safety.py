"""Safety prompts and benign controls: requests to refuse or correct, and their harmless look-alikes to answer.

Questions are split, not rows: no question that is validated on was trained on behind another lead-in.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from zj_ray.data.clinic import phrases
from zj_ray.data.clinic.red_flags import voiced_labels
from zj_ray.errors import DataError

FILE = Path(__file__).parent / "safety.yaml"
ROWS = {"train": 30, "valid": 8}  # prompts of a category
CONTROL_ROWS = {"train": 24, "valid": 8}
ASKS = {"train": 10, "valid": 4}  # questions of a category
CONTROL_ASKS = {"train": 6, "valid": 2}
CONTROL_OPENINGS = ("医生您好，", "我想问一下，", "请问，", "")


@dataclass(frozen=True)
class Category:
    name: str
    expected: str
    emergency: bool
    openings: tuple[str, ...]
    asks: tuple[str, ...]
    answers: tuple[str, ...]  # each fits every ask
    trigger: str
    controls: tuple[tuple[str, str], ...]  # benign question with the trigger word, its answer


@cache
def load_categories(path: Path = FILE) -> tuple[Category, ...]:
    """The categories of safety.yaml. Raises DataError naming the category and what it lacks."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tuple(_category(entry, f"{path.name}, category {i + 1}") for i, entry in enumerate(raw["categories"]))


def _category(raw: dict[str, Any], where: str) -> Category:
    try:
        controls = raw["controls"]
        category = Category(
            name=raw["name"],
            expected=raw["expected"],
            emergency=raw["emergency"],
            openings=tuple(raw["openings"]),
            asks=tuple(raw["asks"]),
            answers=tuple(raw["answers"]),
            trigger=controls["trigger"],
            controls=tuple(zip(controls["asks"], controls["answers"], strict=True)),
        )
    except (KeyError, TypeError, ValueError) as fault:
        raise DataError(f"the category is incomplete: {fault!r}", where=where, remedy="every control ask needs its answer") from None
    if len(set(category.asks)) < sum(ASKS.values()) or len(set(category.controls)) < sum(CONTROL_ASKS.values()):
        raise DataError("too few different questions", where=where, remedy=f"write {sum(ASKS.values())} asks, {sum(CONTROL_ASKS.values())} controls")
    return category


def safety_rows(category: Category, split: str, seed: int) -> list[dict[str, Any]]:
    """The safety rows of a category in a split, but for id and source."""
    asks = _part(category.asks, split, ASKS["train"], f"{seed}/safety/{category.name}")
    rng = random.Random(f"{seed}/safety/{category.name}/{split}")
    prompts = _prompts(asks, category.openings, ROWS[split], rng)
    answers = rng.sample(category.answers, len(category.answers))
    return [
        {
            "prompt": prompt,
            "reference": answers[i % len(answers)],
            "category": category.name,
            "expected": category.expected,
            "emergency": category.emergency,
            "benign": False,
            "reference_quality": "unchecked",
            "red_flags": list(voiced_labels(prompt)),
        }
        for i, (prompt, _) in enumerate(prompts)
    ]


def control_rows(category: Category, split: str, seed: int) -> list[dict[str, Any]]:
    """The safety_controls rows of a category in a split, but for id and source."""
    questions = [ask for ask, _ in category.controls]
    asks = _part(questions, split, CONTROL_ASKS["train"], f"{seed}/controls/{category.name}")
    prompts = _prompts(asks, CONTROL_OPENINGS, CONTROL_ROWS[split], random.Random(f"{seed}/controls/{category.name}/{split}"))
    answers = dict(category.controls)
    return [
        {
            "prompt": prompt,
            "reference": answers[ask],
            "category": category.name,
            "expected": "answer_helpfully",
            "trigger": category.trigger,
            "red_flags": [],
        }
        for prompt, ask in prompts
    ]


def persistent_rows(category: Category, split: str, seed: int) -> list[dict[str, Any]]:
    """Conversations, but for id and source, in which the patient does not leave it at the first answer.

    A doctor who refuses must refuse again in other words; one who helped adds something. Without them SFT would know
    safety prompts by their first turn alone, and rollouts have two or three.
    """
    rng = random.Random(f"{seed}/persistent/{category.name}/{split}")
    talks = []
    for row in safety_rows(category, split, seed):
        again = rng.choice([answer for answer in category.answers if answer != row["reference"]])
        talks.append((row, rng.choice(phrases.PUSHES), again))
    talks += [(row, rng.choice(phrases.CONTROL_PUSHES), rng.choice(phrases.CONTROL_CLOSINGS)) for row in control_rows(category, split, seed)]
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


def _part(asks: tuple[str, ...] | list[str], split: str, for_training: int, key: str) -> list[str]:
    shuffled = random.Random(key).sample(asks, len(asks))
    return shuffled[:for_training] if split == "train" else shuffled[for_training:]


def _prompts(asks: list[str], openings: tuple[str, ...], rows: int, rng: random.Random) -> list[tuple[str, str]]:
    """(prompt, ask): every ask once before any comes twice, each time behind another lead-in."""
    rounds = [rng.sample(openings, len(openings)) for _ in asks]
    return [(f"{rounds[k][turn]}{ask}", ask) for turn in range(len(openings)) for k, ask in enumerate(asks)][:rows]
