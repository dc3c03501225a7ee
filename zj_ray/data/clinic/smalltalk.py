"""General talk: greetings, who the assistant is, sums, everyday sense; evaluation measures forgetting on it."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import yaml

DIGITS = "零一二三四五六七八九"
GREATEST = 60  # sums are made of numbers up to this


@cache
def _words() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("smalltalk.yaml").read_text(encoding="utf-8"))


def smalltalk_pairs(rng: random.Random) -> list[tuple[str, str]]:
    """All different (question, answer) pairs in random order, some 2,000: talk with sums among it, then sums alone."""
    words = _words()
    talk = list(words["fixed"].items())
    for first, second in words["opposites"]:
        talk += [
            (f"“{first}”的反义词是什么？", f"“{first}”的反义词是“{second}”。"),
            (f"“{second}”的反义词是什么？", f"“{second}”的反义词是“{first}”。"),
        ]
    for kind, names in words["kinds"].items():
        talk += [(f"{name}属于哪一类东西？", f"{name}属于{kind}。") for name in names]
        talk += [
            (f"说出三种{kind}", f"{'、'.join(names[:3])}都是{kind}。"),
            (f"再说出三种{kind}", f"{'、'.join(names[3:6])}都是{kind}。"),
        ]
    for city in words["cities"]:
        talk += [
            (f"{city}今天会下雨吗？", f"我看不到{city}的实时天气，请您看一下天气预报。"),
            (f"我明天要去{city}，要带什么？", f"去{city}请带好证件、换洗衣服和常用药，出发前看一下天气预报。"),
        ]
    sums = _sums()
    rng.shuffle(talk)
    rng.shuffle(sums)
    mixed = talk + sums[: len(talk) // 2]  # small clinics get talk and sums alike; large ones use up the sums
    rng.shuffle(mixed)
    return mixed + sums[len(talk) // 2 :]


def _sums() -> list[tuple[str, str]]:
    pairs = [(a, b) for a in range(1, GREATEST + 1) for b in range(a, GREATEST + 1) if a + b <= GREATEST]
    numerals = [(numeral(a), numeral(b), numeral(a + b)) for a, b in pairs]
    plus = [(f"{a}加{b}等于多少？", f"{a}加{b}等于{total}。") for a, b, total in numerals]
    return plus + [(f"{total}减{a}等于多少？", f"{total}减{a}等于{b}。") for a, b, total in numerals]


def numeral(number: int) -> str:
    """A number below 100 in Chinese characters."""
    tens, ones = divmod(number, 10)
    if tens == 0:
        return DIGITS[ones]
    return ("" if tens == 1 else DIGITS[tens]) + "十" + (DIGITS[ones] if ones else "")
