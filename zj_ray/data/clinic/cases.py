"""Patients of the clinic: who comes, with what words, and what they answer when asked."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

from zj_ray.data.clinic.wordings import word
from zj_ray.language.conditions import Condition, RedFlag
from zj_ray.language.reading import mask

LEAD_INS = (
    "医生您好，", "医生你好，", "大夫您好，", "您好，", "你好，", "医生，", "大夫，", "您好医生，想咨询一下，",
    "医生，麻烦问一下，", "想请教一下，", "",
)  # fmt: skip
# None asks what to do: that is how the single questions end, which are answered at once.
ENDINGS = ("。", "，这是怎么回事？", "，想请您看看。", "，心里有点担心。", "，要紧吗？", "，麻烦您给看看。")
FACTS = (5, 8)  # facts of a patient, fewest and most
FLAG_IN_OPENING = 0.4  # share of the patients with a red flag who say it at once; the others when asked for other signs
CHILD = 14  # up to this age somebody else speaks
FERTILE = (15, 50)
_SOMEBODY_ELSE = re.compile(r"孩子|宝宝|娃|儿子|女儿|老人|爸|妈|家人|老婆|老公|爱人|他|她")


@dataclass(frozen=True)
class Visit:
    """One patient with one condition."""

    condition: Condition
    complaint: str  # the opening without greeting, age and end
    opening: str
    facts: tuple[tuple[str, str], ...]  # (slot, answer), in the order in which an open question gets them
    red_flag: RedFlag | None
    flag_in_opening: bool

    @property
    def red_flags(self) -> list[str]:
        return [self.red_flag.label] if self.red_flag else []


def draw_visit(condition: Condition, rng: random.Random, *, flag_share: float) -> Visit:
    """A patient with this condition. flag_share: probability in [0, 1] of one of its red flags."""
    red_flag = rng.choice(condition.red_flags) if condition.red_flags and rng.random() < flag_share else None
    flag_in_opening = red_flag is not None and rng.random() < FLAG_IN_OPENING
    sex = rng.choice(("female", "male")) if condition.sex == "any" else condition.sex
    age = rng.randint(*condition.age)
    complaint = word(rng.choice(condition.openings), rng).rstrip("。，")
    opening = _opening(condition, complaint, rng, sex, age, red_flag.sign if red_flag and flag_in_opening else None)
    fertile = sex == "female" and FERTILE[0] <= age <= FERTILE[1]
    slots = [slot for slot in condition.facts if slot != "妊娠" or fertile]
    topics = set(rng.sample(slots, min(len(slots), rng.randint(*FACTS))))
    sign = red_flag.sign if red_flag and not flag_in_opening else None  # to be said when asked
    if sign and "伴随" not in topics:
        topics = (topics - {rng.choice(sorted(topics))}) | {"伴随"}
    facts = []
    for slot in rng.sample(slots, len(slots)):
        if slot in topics:
            answer = sign if sign and slot == "伴随" else word(rng.choice(condition.facts[slot]), rng)
            facts.append((slot, mask(answer, condition.name)))
    return Visit(condition, complaint, opening, tuple(facts), red_flag, flag_in_opening)


def _opening(condition: Condition, complaint: str, rng: random.Random, sex: str, age: int, sign: str | None) -> str:
    who = ""
    if condition.age[1] <= CHILD:
        who = f"孩子{age}岁了，" if age >= 1 and rng.random() < 0.5 else ""
    elif age > CHILD and not _SOMEBODY_ELSE.search(complaint) and rng.random() < 0.5:
        who = rng.choice((f"我今年{age}岁，", f"{'女' if sex == 'female' else '男'}，{age}岁，"))
    ending = f"，{sign}。" if sign else rng.choice(ENDINGS)
    return mask(f"{rng.choice(LEAD_INS)}{who}{complaint}{ending}", condition.name)


def case_row(visit: Visit, *, unfamiliar: bool = False) -> dict[str, Any]:
    """The fields of a patient_cases row, but for id and source. unfamiliar: the doctors don't know the condition."""
    condition = visit.condition
    advice = condition.advice if visit.red_flag is None else (visit.red_flag.action, condition.advice[0])
    return {
        "kind": "clinic",
        "department": condition.department,
        "opening": visit.opening,
        "facts": [{"slot": slot, "ask": None, "answer": answer} for slot, answer in visit.facts],
        "exams": list(condition.exams),
        "reference": {
            "diagnosis": condition.name,
            "treatment": condition.treatment,
            "advice": f"{'。'.join(advice)}。",
            "basis": condition.overview,
        },
        "red_flags": visit.red_flags,
        "unfamiliar": unfamiliar,
    }
