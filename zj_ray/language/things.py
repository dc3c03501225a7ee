"""Which medicines, vaccines, diseases and foods a text names, and whether an answer is about another than its question.

things.yaml lists them by class, with other names, and with the things that are of another: who asks about painkillers
may be answered on ibuprofen, and who asks about ibuprofen on painkillers, but not on codeine.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from pathlib import Path

import yaml

from zj_ray.language.reading import READINGS

FILE = Path(__file__).with_name("things.yaml")
HEDGES = "hedge_and_refer"
# An answer's first clause says what it is about; a verdict or a courtesy before it says nothing.
_VERDICT = re.compile(r"^[^吃喝]{0,6}$|^[^，。]{0,5}(?:谣言|误区|误解|骗人的|不对|不是真的|不行|您好|理解)$")
_DIFFERENTIAL = re.compile(r"(?:也|都)(?:会|可|能|有)|原因|几种|、")
_CLAUSE = re.compile(r"[，。！？；：\n]")
_WHERE = {
    "vaccine": r"(?!疫苗一起)(?:的)?(?:\w{0,3})?疫?苗",
    "medicine": "",
    "disease": r"(?!的?(?:\w{0,3})?疫苗)",
    "food": "",
}


def about_another_thing(answer: str, prompt: str, expected: str) -> bool:
    """Whether the answer names a thing of a class of which the prompt names others alone. Both in their normal form."""
    if named(prompt, "medicine") and not named(prompt, "food") and named(_subject(answer), "food"):
        return expected.startswith("correct") and not named(answer, "medicine")
    return any(_conflict(of, answer, prompt, expected) for of in _classes())


def about_the_same(answer: str, prompt: str) -> bool:
    """Whether the answer names a thing of the prompt by another name. Both in their normal form."""
    return any(named(answer, of) & named(prompt, of) for of in _classes())


def _conflict(of: str, answer: str, prompt: str, expected: str) -> bool:
    asked = named(prompt, of)
    if not asked or not (given := named(answer, of)):
        return False
    if of == "food" and any(one in other or other in one for one in asked for other in given):  # 白醋, 醋
        return False
    related = asked | {other for thing in asked for other in _classes()[of][1].get(thing, ())}
    if given & related:
        return False
    if of in ("medicine", "vaccine"):
        return True
    if expected == HEDGES:  # several are a differential: 「甲亢、药物也会」
        return len(given) == 1 and not _DIFFERENTIAL.search(answer)
    return bool(named(_subject(answer), of))


def _subject(answer: str) -> str:
    clauses = [clause for clause in _CLAUSE.split(answer) if clause]
    return next((clause for clause in clauses if not _VERDICT.search(clause)), answer)


@lru_cache(READINGS)
def named(text: str, of: str) -> frozenset[str]:
    """The things of a class that a text names, by their first names."""
    pattern, _, first = _classes()[of]
    return frozenset(name for match in pattern.finditer(text) for name in first[match.group("thing")])


@cache
def _classes() -> dict[str, tuple[re.Pattern[str], dict[str, set[str]], dict[str, set[str]]]]:
    """For each class: a pattern of all names, what each thing is related to, and the first names of each name."""
    raw = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {of: _read(of, lines) for of, lines in raw.items()}


def _read(of: str, lines: list[str | dict[str, str]]) -> tuple[re.Pattern[str], dict, dict]:
    related: dict[str, set[str]] = {}
    first: dict[str, set[str]] = {}
    for line in lines:
        heads, members = next(iter(line.items())) if isinstance(line, dict) else (line, "")
        parent, *_ = names = str(heads).split()
        for name in names:
            first.setdefault(name, set()).add(parent)
        for member in members.split():
            child, *_ = others = member.split("=")
            for name in others:
                first.setdefault(name, set()).add(child)
            related.setdefault(parent, set()).add(child)
            related.setdefault(child, set()).add(parent)
    any_name = "|".join(map(re.escape, sorted(first, key=len, reverse=True)))
    return re.compile(f"(?P<thing>{any_name}){_WHERE[of]}"), related, first
