"""Single-turn questions and answers: every condition asked about from several sides."""

from __future__ import annotations

import random

from zj_ray.data.clinic.wordings import word
from zj_ray.language.conditions import Condition

COMPLAINTS = 16  # questions of a condition that begin with a complaint
LEAD_INS = ("", "医生，", "请问，", "想问一下，")
GREETINGS = ("", "医生，", "医生你好，", "医生您好，", "您好，")
TAILS = ("，怎么办？", "，该怎么办？", "，可能是什么问题？", "，要去看什么科？")
ABOUT = ("{name}{ask}", "医生您好，{name}{ask}", "家里人得了{name}，{ask}")


def question_rows(condition: Condition, rng: random.Random) -> list[dict]:
    """The sft_single rows of a condition, but for id and source; the patient's words vary with `rng`."""
    pairs = [(f"{lead}{question}", answer, "consult") for question, answer in condition.education for lead in LEAD_INS]
    for i in range(COMPLAINTS):
        complaint = word(rng.choice(condition.openings), rng)
        question = f"{rng.choice(GREETINGS)}{complaint}{TAILS[i % len(TAILS)]}"
        pairs.append((question, _first_advice(condition, i), "consult"))
    pairs += [
        (template.format(name=condition.name, ask=ask), answer, "kg")
        for ask, answer in _topics(condition)
        for template in ABOUT
    ]
    return [
        {
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
            "department": condition.department,
            "qa_type": kind,
            "ad_suspect": False,
            "red_flags": [],
        }
        for question, answer, kind in pairs
    ]


def _first_advice(condition: Condition, index: int) -> str:
    exam = condition.exams[index % len(condition.exams)]
    advice = condition.advice[index % len(condition.advice)].rstrip("。")
    return f"您说的情况可能是{condition.name}，可以挂{condition.department}，做{exam}来明确。{advice}。"


def _topics(condition: Condition) -> list[tuple[str, str]]:
    flags = "；".join(flag.action.rstrip("。") for flag in condition.red_flags[:2])
    signs = "或者".join(f"“{flag.sign}”" for flag in condition.red_flags[:2])
    first, second = (text.rstrip("。") for text in condition.advice[:2])
    return [
        ("要做哪些检查？", f"{condition.name}常做的检查有{'、'.join(condition.exams)}，具体由医生面诊后决定。"),
        ("怎么治疗？", condition.treatment),
        ("平时要注意什么？", f"{first}。{second}。"),
        ("是怎么回事？", condition.overview),
        ("应该挂什么科？", f"{condition.name}可以挂{condition.department}，由医生面诊后决定检查和治疗。"),
        ("什么情况要去急诊？", f"像{signs}这样的情况，不要等待。{flags}。"),
    ]
