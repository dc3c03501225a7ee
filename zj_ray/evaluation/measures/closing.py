"""What a doctor's words claim: which disease, which department, which examinations, or that it can't be told.

Written apart from the rules that PPO is paid by. What is excluded, denied, asked, supposed or to be prevented is not
claimed: 「考虑慢性胃炎，排除胃癌」 names the gastritis alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, lru_cache

from zj_ray.language.conditions import DEPARTMENTS, disease_names, load_conditions
from zj_ray.language.normal import normalise
from zj_ray.language.reading import READINGS, plain, questions, sentences

_CLAUSE = re.compile(r"[，,；;。！!\n]+|(?=但是?|而是|不过|建议)")
# Before a name in its clause: it is excluded, denied, supposed, of the past, or what might come of something else.
_NOT_CLAIMED = re.compile(
    r"排除|除外|鉴别|不像|不是|并非|不考虑|不支持|没有|无需|不用|不必|不需要|不要|(?<![特级])别(?!的)|除了|以免|避免|防止|预防|警惕|引起|导致"
    r"|发展|并发|诱发|以前|既往|是否|是不是|会不会|如果|若|要是|万一|一旦"
)
# After it: 「胃癌待排」, 「胃癌的可能性不大」.
_DROPPED = re.compile(r"^[^，。]{0,6}(待排|待除外|排除|可能性?(很|较|比较)?(不大|小|低)|依据不足|不支持)")
_BRACKET = re.compile(r"（([^（）]*)）")
_DISEASE_ENDS = ("证", "症", "病", "炎", "癌", "瘤", "寐")  # other brackets hold a degree or a side: 贫血（中度）
_LIST = re.compile(r"[\n；，、：]+|(?:^|(?<=\s))\d+[.。、]?\s*(?![\d型])")  # 「1. 胃溃疡\n2. 贫血」
_TOLD_APART = re.compile(r"(与|和|同|跟|从)[^，。；]*(鉴别|区别|区分)")  # 「与胃癌、胃溃疡鉴别」
_CANNOT_TELL = re.compile(
    r"(不能|无法|难以|不好|没法|不便|不足以|还不|尚不|暂不|不太)[^，。]{0,6}(确定|判断|确诊|明确|下诊断|下结论|说准|说清|断定|诊断)"
    r"|(原因|病因|诊断)[^，。]{0,4}(不明|未明|不清楚|不确定)|说不准|不好说|说不清|不确定|待查"
)


def named_conditions(text: str, diagnosis: str | None = None) -> frozenset[str]:
    """The diseases that the text claims: those of the clinic, and `diagnosis`, by their names."""
    names = _by_alias(disease_names() + ((diagnosis,) if diagnosis else ()))
    return frozenset(names[alias] for alias in _claimed(text, _pattern(tuple(names))))


def named_departments(text: str, department: str | None = None) -> frozenset[str]:
    """The departments that the text sends to: those of the clinic, and `department`."""
    found = _claimed(text, _departments(department or DEPARTMENTS[0]))
    return frozenset(found)


def named_exams(text: str, exams: Iterable[str] = ()) -> frozenset[str]:
    """The examinations that the text asks for: those of the clinic, and `exams`; the longest name that fits."""
    return frozenset(_claimed(text, _pattern(tuple(sorted({*_clinic_exams(), *exams})))))


def cannot_tell(text: str) -> bool:
    """Whether the text says that it can't be told what it is, and claims no disease all the same."""
    spoken = normalise(text)
    return any(_CANNOT_TELL.search(sentence) for sentence in _told(spoken)) and not named_conditions(text)


def same_condition(name: str, diagnosis: str) -> bool:
    """Whether one name is the other, or a part of it, in any of their forms."""
    return any(one in other or other in one for one in _aliases(name) for other in _aliases(diagnosis))


def _told(text: str) -> list[str]:
    """The sentences that ask nothing. A list that no patient could follow claims what is in it all the same."""
    return [sentence for sentence in sentences(text) if not questions(sentence)]


def _claimed(text: str, pattern: re.Pattern[str]) -> list[str]:
    found = []
    for sentence in _told(normalise(text)):
        for clause in filter(None, _CLAUSE.split(_TOLD_APART.sub("", sentence))):
            for match in pattern.finditer(clause):
                if not (_NOT_CLAIMED.search(clause[: match.start()]) or _DROPPED.search(clause[match.end() :])):
                    found.append(match.group())
    return found


def _aliases(name: str) -> set[str]:
    """The name as it is said: 失眠（不寐） is 失眠 and 不寐, 原发性高血压 is 高血压; a list is each of its diseases."""
    whole = normalise(name)
    bracketed = {inside for inside in _BRACKET.findall(whole) if inside.endswith(_DISEASE_ENDS)}
    parts = bracketed | {part.strip(" 。") for part in _LIST.split(_BRACKET.sub("", whole)) if len(plain(part)) >= 2}
    return parts | {part.removeprefix("原发性") for part in parts}


def _by_alias(names: Iterable[str]) -> dict[str, str]:
    return {alias: name for name in names for alias in sorted(_aliases(name))}


@lru_cache(READINGS)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    """Any of the names, the longest that fits."""
    return re.compile("|".join(map(re.escape, sorted(map(normalise, names), key=len, reverse=True))))


@cache
def _clinic_exams() -> frozenset[str]:
    return frozenset(exam for condition in load_conditions() for exam in condition.exams)


@cache
def _departments(department: str) -> re.Pattern[str]:
    names = sorted({*DEPARTMENTS, department}, key=len, reverse=True)
    return re.compile("|".join(f"{name}(?!手术)" if name.endswith("科") else _sent_to(name) for name in names))


def _sent_to(name: str) -> str:
    """The pattern of a department whose name is an everyday word: 「去其他做检查」, but not 「去其他医院」."""
    return rf"(?<=[到去挂看转]){re.escape(name)}(?!医院|科室|地方|医生)"
