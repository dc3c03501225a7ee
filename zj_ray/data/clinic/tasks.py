"""Medical language tasks as instructions: classify, extract, recognise, name, summarise."""

from __future__ import annotations

import random
from typing import Any

from zj_ray.data.clinic.cases import draw_visit
from zj_ray.data.clinic.wordings import word
from zj_ray.language.conditions import DEPARTMENTS, Condition


def classify_department(condition: Condition, rng: random.Random) -> tuple[str, str]:
    complaint = word(rng.choice(condition.openings), rng)
    return (
        f"根据患者的主诉选择就诊科室。\n主诉：{complaint}\n选项：{'、'.join(DEPARTMENTS)}\n答：",
        f"就诊科室：{condition.department}",
    )


def extract_facts(condition: Condition, rng: random.Random) -> tuple[str, str]:
    facts = rng.sample(draw_visit(condition, rng, flag_share=0.0).facts, 2)
    words, slots = "，".join(answer for _, answer in facts), "和".join(slot for slot, _ in facts)
    answer = "\n".join(f"{slot}：{answer}" for slot, answer in facts)
    return f"从患者的话里抽取{slots}。\n患者：{words}\n答：", answer


def recognise_exams(condition: Condition, rng: random.Random) -> tuple[str, str]:
    exams = rng.sample(condition.exams, 2)
    template = rng.choice(("建议完善{}，明确是否为{}。", "先查{}，排除{}以后再用药。", "患者做了{}，结果支持{}。"))
    sentence = template.format("和".join(exams), condition.name)
    return f"找出句子中的检查项目。\n句子：{sentence}\n答：", f"检查项目：{'、'.join(exams)}"


def name_condition(condition: Condition, rng: random.Random) -> tuple[str, str]:
    described = condition.overview.replace(condition.name, "该病")
    ask = rng.choice(("下面的描述说的是哪种疾病？", "根据描述写出疾病名称。", "请判断这段话介绍的疾病。"))
    return f"{ask}\n描述：{described}\n答：", f"疾病：{condition.name}"


def summarise(condition: Condition, rng: random.Random) -> tuple[str, str]:
    visit = draw_visit(condition, rng, flag_share=0.0)
    facts = visit.facts[:3]
    talk = "\n".join(f"患者：{answer}" for answer in (visit.opening, *(answer for _, answer in facts)))
    summary = "；".join(f"{slot}：{answer}" for slot, answer in facts)
    return f"把问诊记录写成摘要。\n{talk}\n医生：考虑{condition.name}。\n答：", f"{summary}。诊断：{condition.name}。"


TASKS = {
    "ZJ-DEPARTMENT": ("text_classification", classify_department),
    "ZJ-FACTS": ("information_extraction", extract_facts),
    "ZJ-EXAMS": ("named_entity_recognition", recognise_exams),
    "ZJ-CONDITION": ("knowledge", name_condition),
    "ZJ-SUMMARY": ("summarisation", summarise),
}


def task_row(condition: Condition, rng: random.Random) -> dict[str, Any]:
    """The fields of an nlp_tasks row, but for id and source."""
    task = rng.choice(tuple(TASKS))
    task_type, make = TASKS[task]
    question, answer = make(condition, rng)
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        "task": task,
        "task_type": task_type,
        "answer_choices": list(DEPARTMENTS) if task == "ZJ-DEPARTMENT" else None,
    }
