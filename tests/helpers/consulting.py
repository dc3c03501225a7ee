"""Scripted doctors, and their consultations with the scripted patient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zj_ray.data.case import Case, Prompt
from zj_ray.data.messages import Message
from zj_ray.data.trajectory import Trajectory, Turn
from zj_ray.language.conditions import clinic_signs
from zj_ray.language.phrases import SLOT_QUESTIONS
from zj_ray.patients.scripted import ScriptedPatient

Doctor = Callable[[Case, int, Sequence[str]], str]  # case, number of the turn, the patient's words so far
TURNS = 4


def hold(prompt: Prompt, doctor: Doctor) -> Trajectory:
    """A consultation with the scripted patient, as a fleet would record it, each message two tokens long."""
    assert prompt.case is not None
    patient = ScriptedPatient()
    talk = Trajectory(prompt.id, 0, 0)
    talk.messages.append(Message("user", patient.reset(prompt, persona="平和", seed=0, max_turns=TURNS)))
    flagged = patient.flagged
    for number in range(TURNS):
        text = doctor(prompt.case, number, [m.content for m in talk.messages if m.role == "user"])
        reply = patient.step(text)
        facts = {"new_facts": reply.revealed, "questions": reply.questions}
        talk.append_context([5, 5])
        start, end = talk.append_generated([6, 7], [0.0, 0.0])
        talk.turns.append(Turn(start, end, text, 1, "e", finished=True, flagged=flagged, **facts))
        talk.messages.append(Message("assistant", text))
        flagged = reply.flagged
        if reply.done or number == TURNS - 1:
            break
        talk.messages.append(Message("user", reply.text))
    return talk


def ask(number: int) -> str:
    slots = (("伴随", "起病"), ("病程", "诱因"), ("既往", "程度"))[number]
    return "".join(SLOT_QUESTIONS[slot][0] for slot in slots)


def careful(case: Case, number: int, words: Sequence[str]) -> str:
    """Asks, refers what is dangerous at once, and names disease, department and examinations rightly."""
    if case.red_flags and any(sign in "".join(words) for sign in clinic_signs()):
        return f"{words[-1][:8]}，这很危险，请马上去医院急诊。"
    if number < TURNS - 1:
        return ask(number)
    disease, advice = case.reference["diagnosis"], (case.reference["advice"] or "")[:20]
    return f"考虑是{disease}，建议到{case.department}做{'和'.join(case.exams)}。{advice}。"


def ending(closing: Callable[[Case], str]) -> Doctor:
    """Careful but for the last turn."""
    return lambda case, number, words: closing(case) if number == TURNS - 1 else careful(case, number, words)


def every_turn(text: str) -> Doctor:
    return lambda case, number, words: text
