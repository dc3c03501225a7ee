"""Textbook-like passages, case records and written consultations for continued pre-training."""

from __future__ import annotations

import random
from typing import Any

from zj_ray.data.clinic.cases import draw_visit
from zj_ray.data.clinic.wordings import word
from zj_ray.language.conditions import Condition

ORDERS = (
    ("overview", "exams", "treatment"),
    ("overview", "treatment", "advice"),
    ("signs", "exams", "advice"),
    ("overview", "flags", "treatment"),
)


def textbook(condition: Condition, rng: random.Random) -> dict[str, Any]:
    """A few sentences on one condition, as a textbook for families would put them."""
    first, second = (text.rstrip("。") for text in rng.sample(condition.advice, 2))
    flag = rng.choice(condition.red_flags)
    signs = "；".join(word(opening, rng) for opening in rng.sample(condition.openings, 2))
    parts = {
        "overview": condition.overview,
        "signs": f"{condition.name}患者常这样说：{signs}。",
        "exams": f"{condition.name}常用的检查有{'、'.join(rng.sample(condition.exams, len(condition.exams)))}。",
        "treatment": f"{'' if condition.treatment.startswith(condition.name) else '治疗上，'}{condition.treatment}",
        "advice": f"日常生活中，{first}；{second}。",
        "flags": f"若患者说“{flag.sign}”，提示{flag.label}，处理：{flag.action.rstrip('。')}。",
    }
    text = "".join(parts[part] for part in rng.choice(ORDERS))
    return {"text": f"【{condition.department}·{condition.name}】{text}", "doc_type": "textbook"}


def case_record(condition: Condition, rng: random.Random) -> dict[str, Any]:
    """A record: complaint, history, diagnosis, treatment."""
    visit = draw_visit(condition, rng, flag_share=0.0)
    history = "；".join(f"{slot}：{answer}" for slot, answer in visit.facts)
    course = f"检查：{'、'.join(condition.exams)}。\n诊断：{condition.name}。\n治疗：{condition.treatment}"
    return {"text": f"主诉：{visit.complaint}。\n病史：{history}。\n{course}", "doc_type": "case_record"}


def written_consultation(condition: Condition, rng: random.Random) -> dict[str, Any]:
    """Department, patient, doctor, as a health site would print them."""
    visit = draw_visit(condition, rng, flag_share=0.2)
    words = visit.opening
    if visit.red_flag is not None and visit.flag_in_opening:
        answer = f"{visit.red_flag.action.rstrip('。')}。"
    elif rng.random() < 0.5:
        question, answer = rng.choice(condition.education)
        words += question
    else:
        first, second = (text.rstrip("。") for text in rng.sample(condition.advice, 2))
        answer = f"考虑{condition.name}的可能，建议查{rng.choice(condition.exams)}。{first}。{second}。"
    return {"text": f"科室：{condition.department}\n患者：{words}\n医生：{answer}", "doc_type": "consult"}


GENRES = (textbook, case_record, textbook, written_consultation)


def passage_row(condition: Condition, rng: random.Random) -> dict[str, Any]:
    """The fields of a pretrain row, but for id and source."""
    return rng.choice(GENRES)(condition, rng)
