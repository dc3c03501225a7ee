"""What a turn says of the patient's disease: which it names, which it only weighs or excludes, and that it can't tell.

「考虑慢性胃炎，排除胃癌」 names one disease, not two, and 「不像是荨麻疹」 none. To say what something is not, or must
be told apart from, is no diagnosis, right or wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from zj_ray.language.claims import claims, negated
from zj_ray.language.conditions import disease_names
from zj_ray.language.normal import normalise
from zj_ray.language.reading import READINGS

# Before a disease in its clause: it is excluded, compared, feared, somebody else's or long ago.
_WEIGHED = re.compile(
    r"是不是|是否|有没有|会不会|排除|除外|鉴别|区[别分]|相似|警惕|当心|防止|预防|以免|避免|变成|发展[成为]|转[成为]|引起|导致|诱发|并发|合并|继发"
    r"|[^，]{0,4}(?:史|家族)|以前|曾经|既往|得过|(?:和|与|跟|同)(?![^，]{0,10}(?:有关|一致|符合))"
)
_TOLD_APART = re.compile(r"(?:相)?(?:鉴别|区[别分])|待排|除外|排除")
# Behind it: it is improbable, excluded, a history, or only part of another word.
_DISMISSED = re.compile(
    r"^[^，]{0,6}(?:可能性?(?:不大|很?小|较小|低)|不支持|不像|不符|待排|除外|排除|鉴别|区[别分]|也?不能确定)"
    r"|^(?:史|患者|病人|的人|疫苗|筛查|抗体|家族)"
)
_CANNOT_TELL = re.compile(
    r"(?:不能|无法|没法|难以?|还没|尚未|尚不|未能|不好|不便|暂不)[^，。？]{0,6}(?:确定|确诊|判断|诊断|定论|明确|说清|断定|区分|下结论)"
    r"|(?:说不准|说不清|看不出|定不了|不清楚是|不(?:太)?明确|下不了结论|原因不明|有待(?:检查|明确|查明))"
)
_CONCLUDES = re.compile(r"考虑|可能|像是|应该?是|属于|初步|多半|诊断|倾向")
_PARTS = re.compile(r"[\n；;，,、。（）()+]|\d+[.．]")


@lru_cache(READINGS)
def asserted(text: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the names that the text takes for the patient's disease, each longest name once."""
    found: list[str] = []
    for clause in claims(normalise(text)):
        # "根据您说的情况，考虑……" reports the patient's words and then concludes.
        reported = clause.reported and not _CONCLUDES.match(clause.text)
        asks = clause.asks and "？" in clause.sentence  # "查一查有没有息肉" asks nobody
        if not (asks or reported or clause.supposed):
            found += _asserted_in(clause.text, names)
    return tuple(dict.fromkeys(found))


def _asserted_in(clause: str, names: Sequence[str]) -> list[str]:
    present = [(name, at) for name in names if (at := clause.find(normalise(name))) >= 0]
    longest = [
        (name, at)
        for name, at in present
        if not any(name in other and name != other and at >= start for other, start in present)
    ]
    return [name for name, at in longest if not _weighed(clause[:at], clause[at + len(name) :])]


def _weighed(before: str, behind: str) -> bool:
    if negated(before) or _DISMISSED.search(behind):
        return True
    return bool(_WEIGHED.search(before)) or bool(_TOLD_APART.search(behind[:12]))


def diagnosis_parts(diagnosis: str | None) -> tuple[str, ...]:
    """The diseases of a case's diagnosis, which may be a numbered list; empty where none is known."""
    return tuple(part for piece in _PARTS.split(diagnosis or "") if len(part := piece.strip()) >= 2)


def named_rightly(text: str, diagnosis: str | None) -> tuple[str, ...]:
    """The parts of the diagnosis that the text asserts."""
    return asserted(text, diagnosis_parts(diagnosis))


def named_wrongly(text: str, diagnosis: str | None) -> tuple[str, ...]:
    """The clinic's diseases that the text asserts and the diagnosis has not. Empty where no diagnosis is known."""
    if not diagnosis:
        return ()
    parts = diagnosis_parts(diagnosis)
    return tuple(
        name
        for name in asserted(text, disease_names())
        if name not in diagnosis and not any(part in name for part in parts)
    )


def cannot_tell(text: str) -> bool:
    """Whether the text says that it can't be known yet what the patient has."""
    return any(_CANNOT_TELL.search(clause.text) for clause in claims(normalise(text)) if not clause.asks)
