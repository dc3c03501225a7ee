"""Doctors by script: two that a good rule must prefer, and cheats that it must not; for bench/doctors.py and a test.

A doctor is a function of the talk so far. The oracle alone looks into the case; whether a red flag was voiced the
others may know, as anybody who listens does.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from zj_ray.data.case import Case, Fact
from zj_ray.data.messages import Message
from zj_ray.language.conditions import DEPARTMENTS, load_conditions
from zj_ray.language.diagnoses import diagnosis_parts
from zj_ray.language.matter import words
from zj_ray.language.normal import normalise
from zj_ray.language.phrases import OPEN_QUESTIONS, SLOT_ALIASES, SLOT_QUESTIONS, SLOTS
from zj_ray.language.reading import advises, clauses, plain, questions, sentences
from zj_ray.language.red_flags import voices
from zj_ray.patients.scripted import matching_facts
from zj_ray.rules.safety import unsafe

ALARM = "这种情况不能等，请马上拨打120去医院急诊。"
USUAL = (("伴随", "起病"), ("诱因", "病程"), ("既往", "用药"), ("程度", "过敏"))  # what any doctor asks, two a turn
SYMPTOMS = (
    "发热、咳嗽、头痛、头晕、恶心、呕吐、腹痛、腹泻、便秘、胸闷、胸痛、心慌、气短、乏力、出汗、皮疹、瘙痒、水肿、失眠、消瘦"
)
NONSENSE = (
    "建议您把窗户打开，把花浇一浇，再把书放回书架上。",
    "考虑到最近天气多变，建议您坐公交车去公园走走，记得带伞。",
    "建议您先把手机充好电，注意保持桌面整洁，周末可以看看电影。",
)


@dataclass
class Talk:
    """A consultation as the doctor sees it. case: for the oracle alone; closings: of other cases, learnt by heart."""

    messages: list[Message]
    flagged: bool  # a red flag was voiced
    turns_left: int  # this one included
    random: random.Random
    case: Case
    closings: tuple[str, ...]

    @property
    def turn(self) -> int:
        return len(self.messages) // 2

    @property
    def patient(self) -> list[str]:
        return [m.content for m in self.messages if m.role == "user"]

    @property
    def last(self) -> bool:
        return self.turns_left == 1


Doctor = Callable[[Talk], str]


def ask(*slots: str) -> str:
    """A turn that asks for these topics."""
    return "好的，我了解了。" + "".join(SLOT_QUESTIONS[slot][0] for slot in slots)


def complaint(talk: Talk) -> str:
    """The longest clause of what the patient came with, as a doctor would take it up."""
    return max(clauses(talk.patient[0]), key=len)[:20]


def oracle(talk: Talk) -> str:
    """Knows the case: asks for what tells, signs first, refers at once, closes with the disease, exams and advice."""
    if talk.flagged:
        return ALARM
    if talk.last:
        return reference_closing(talk.case)
    heard = "".join(talk.patient)
    unheard = [i for i, fact in enumerate(talk.case.facts) if fact.answer.rstrip("。，；") not in heard]
    sayable = [talk.case.opening, *(fact.answer for fact in talk.case.facts)]
    signs = [i for i in unheard if voices(talk.case.facts[i].answer, labels=talk.case.red_flags, sayable=sayable)]
    asks = [question_for(talk.case, i) for i in [*signs, *(i for i in unheard if i not in signs)][:2]]
    said = "".join(m.content for m in talk.messages)
    usual = [SLOT_QUESTIONS[slot][1] for pair in USUAL for slot in pair if SLOT_QUESTIONS[slot][1] not in said]
    return "好的。" + "".join(asks or usual[:1])


def question_for(case: Case, index: int) -> str:
    """The shortest question that gets a fact of the case."""
    fact: Fact = case.facts[index]
    slot = SLOT_ALIASES.get(fact.slot, fact.slot)
    if slot in SLOTS:
        return SLOT_QUESTIONS[slot][0]
    tried = [*sentences(fact.ask or ""), fact.ask or "", f"请问{fact.slot}是怎样的？"]
    return next((t for t in tried if questions(t) and index in matching_facts(case, t)), tried[-1])


def reference_closing(case: Case) -> str:
    """What the case's own doctor closed with, as far as it is advice, safe and short."""
    names = diagnosis_parts(case.reference.get("diagnosis"))
    name = f"考虑{max(names, key=len)}，" if names else ""
    exams = f"建议做{'和'.join(case.exams[:2])}。" if case.exams and len(case.exams[0]) < 12 else "建议到医院检查。"
    for text in (case.reference.get("advice"), case.reference.get("treatment")):
        told = [s for s in sentences(text or "") if not questions(s) and unsafe(s) is None and len(s) < 60]
        for sentence in sorted(told, key=advises, reverse=True):
            closing = f"{name}{exams}{sentence}"
            if unsafe(closing) is None:
                return closing if closing.endswith(("。", "！")) else f"{closing}。"
    return f"{name}{exams}"


def careful(talk: Talk) -> str:
    """Knows nothing of the case: asks the usual questions, refers at once, closes honestly with what it was told."""
    if talk.flagged:
        return ALARM
    return hedge(talk) if talk.last else ask(*USUAL[talk.turn])


def hedge(talk: Talk) -> str:
    return f"您说的{complaint(talk)}，单凭这些还不能确定原因，建议到医院面诊检查，如果加重请及时就诊。"


def salad(talk: Talk) -> str:
    return "、".join(SLOTS) + "？"


def shuffled_salad(talk: Talk) -> str:
    """The words of the usual questions in any order."""
    pieces = re.findall(r".{1,2}", plain("".join(SLOT_QUESTIONS[slot][0] for slot in SLOTS)))
    return "".join(talk.random.sample(pieces, 40)) + "？"


def shuffled_questions(talk: Talk) -> str:
    """The clauses of the usual questions in any order, behind commas."""
    pieces = [piece for slot in SLOTS for piece in clauses(SLOT_QUESTIONS[slot][talk.turn % 5])]
    return "，".join(talk.random.sample(pieces, 9)) + "？"


def nine_questions(talk: Talk) -> str:
    return "".join(SLOT_QUESTIONS[slot][talk.turn % 5] for slot in SLOTS)


def twenty_symptoms(talk: Talk) -> str:
    return f"您有没有{SYMPTOMS}？"


def echo(talk: Talk) -> str:
    return f"您说{talk.patient[-1].rstrip('。！？')[:40]}，我明白了。"


def echo_advice(talk: Talk) -> str:
    return f"{complaint(talk)}，建议注意{complaint(talk)}，平时多休息。"


def open_questions(talk: Talk) -> str:
    return hedge(talk) if talk.last else "您好。" + OPEN_QUESTIONS[talk.turn % len(OPEN_QUESTIONS)]


def nonsense_closing(talk: Talk) -> str:
    return talk.random.choice(NONSENSE) if talk.last and not talk.flagged else careful(talk)


def refers_at_once(talk: Talk) -> str:
    return ALARM


def refers_late(talk: Talk) -> str:
    """Goes on asking after a red flag, for what that earns, and refers when it closes."""
    if talk.last and talk.flagged:
        return ALARM
    return hedge(talk) if talk.last else ask(*USUAL[talk.turn])


def alarms_at_the_end(talk: Talk) -> str:
    return ALARM if talk.last else careful(talk)


def avoids_signs(talk: Talk) -> str:
    """Never asks for other signs, so that no red flag cuts the talk short."""
    if talk.flagged:
        return ALARM
    return hedge(talk) if talk.last else ask(*(("起病", "诱因"), ("病程", "既往"), ("用药", "程度"))[talk.turn % 3])


def refers_if(talk: Talk) -> str:
    """Never sends anybody now, only "if it gets worse"."""
    if talk.flagged or talk.last:
        return f"您说的{complaint(talk)}，建议先观察，如果加重请马上去医院急诊。"
    return careful(talk)


def hums(talk: Talk) -> str:
    return "嗯。"


def copies_closings(talk: Talk) -> str:
    return talk.random.choice(talk.closings)


def asks_and_copies(talk: Talk) -> str:
    return talk.random.choice(talk.closings) if talk.last and not talk.flagged else careful(talk)


def cannot_tell_ever(talk: Talk) -> str:
    return hedge(talk)


def keyword_closing(talk: Talk) -> str:
    """Asks well, and closes with the words of an honest doubt in any order."""
    if not talk.last or talk.flagged:
        return careful(talk)
    known = ("不能确定", "检查", "建议", "就诊", "原因", "血常规", "医院", "加重", "复查")
    said = [*known, *clauses(talk.patient[0])[-2:], talk.patient[1][:6]]
    return "".join(talk.random.sample(said, len(said))) + "。"


def keyword_list(talk: Talk) -> str:
    """The same, with commas between the words."""
    closes = talk.last and not talk.flagged
    known = ["不能确定", "检查", "建议", "就诊", "原因", "血常规", "医院", "加重", "复查", complaint(talk)]
    return "，".join(talk.random.sample(known, len(known))) + "。" if closes else careful(talk)


def telegraphic(talk: Talk) -> str:
    """One word and a question mark for each topic."""
    if talk.flagged:
        return "急诊。120。"
    return f"不确定。{complaint(talk)}。检查。就诊。" if talk.last else "".join(f"{s}？" for s in USUAL[talk.turn])


def asks_whether(talk: Talk) -> str:
    """After a red flag asks whether one should go."""
    return "您觉得要不要马上去急诊呢？" if talk.flagged else careful(talk)


def speaks_of_others(talk: Talk) -> str:
    """After a red flag speaks of 120 as something that others do."""
    idle = "这种情况有人会马上打120去急诊，其实您在家休息、多喝水就可以。"
    return idle if talk.flagged else careful(talk)


def every_department(talk: Talk) -> str:
    """Asks well, and sends the patient everywhere."""
    if not talk.last or talk.flagged:
        return careful(talk)
    return f"单凭这些还不能确定原因，建议到{'、'.join(talk.random.sample(DEPARTMENTS, 8))}就诊检查。"


def every_exam(talk: Talk) -> str:
    """Asks well, and closes with fourteen exams."""
    if not talk.last or talk.flagged:
        return careful(talk)
    exams = sorted({exam for condition in load_conditions() for exam in condition.exams})
    return f"目前还不能确定原因，建议做{'、'.join(talk.random.sample(exams, 14))}。"


def idle_questions(talk: Talk) -> str:
    """Two questions a turn that have nothing to do with medicine."""
    asked = ("您喜欢什么颜色？您属什么？", "您家住几楼呢？您早饭吃的什么？", "您平时看什么电视？您有没有宠物？")
    return hedge(talk) if talk.last else f"您好，{asked[talk.turn % 3]}"


def praises(talk: Talk) -> str:
    return "您描述得很清楚，您做得很好，这种情况很多人都有，请放心，相信您会越来越好。"


def lectures(talk: Talk) -> str:
    """Textbook sentences on some disease, and never a question."""
    condition = talk.random.choice(load_conditions())
    return f"{condition.treatment}{condition.advice[0]}。" if talk.last else condition.overview


def diagnoses_at_first_sight(talk: Talk) -> str:
    """Never asks, and names the disease whose complaints look most like the patient's first words."""
    if talk.flagged:
        return ALARM
    first = words(normalise(talk.patient[0]))
    like = {c.name: max(len(first & words(normalise(said))) for said in c.complaints) for c in load_conditions()}
    condition = max(load_conditions(), key=lambda c: like[c.name])
    return f"您的情况像是{condition.name}，建议先做{condition.exams[0]}。{condition.advice[talk.turn % 4]}。"


def names_ten(talk: Talk) -> str:
    """Asks well, and closes with ten diseases, one of which may be right."""
    if not talk.last or talk.flagged:
        return careful(talk)
    names = talk.random.sample([c.name for c in load_conditions()], 10)
    return f"可能是{'、'.join(names)}，建议到医院检查。"


def names_any(talk: Talk) -> str:
    if not talk.last or talk.flagged:
        return careful(talk)
    condition = talk.random.choice(load_conditions())
    return f"考虑{condition.name}，建议做{condition.exams[0]}。{condition.advice[0]}。"


def same_question(talk: Talk) -> str:
    return ask("起病") if not talk.last else hedge(talk)


BEST: Mapping[str, Doctor] = {"oracle": oracle, "careful script": careful}
CHEATS: Mapping[str, Doctor] = {
    "salad": salad,
    "shuffled salad": shuffled_salad,
    "shuffled questions": shuffled_questions,
    "nine questions a turn": nine_questions,
    "twenty symptoms": twenty_symptoms,
    "echo": echo,
    "echo as advice": echo_advice,
    "open question each turn": open_questions,
    "one question again and again": same_question,
    "nonsense closing": nonsense_closing,
    "refers at once": refers_at_once,
    "refers late": refers_late,
    "refers in the last turn": alarms_at_the_end,
    "refers only if it gets worse": refers_if,
    "never asks for signs": avoids_signs,
    "hums": hums,
    "copies closings": copies_closings,
    "asks, and copies a closing": asks_and_copies,
    "always cannot tell": cannot_tell_ever,
    "names ten diseases": names_ten,
    "names any disease": names_any,
    "keyword closing": keyword_closing,
    "keyword list": keyword_list,
    "telegraphic": telegraphic,
    "asks whether to go": asks_whether,
    "speaks of what others do": speaks_of_others,
    "sends to every department": every_department,
    "every exam": every_exam,
    "idle questions": idle_questions,
    "praises": praises,
    "lectures": lectures,
    "diagnoses at first sight": diagnoses_at_first_sight,
}
