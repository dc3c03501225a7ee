"""What a simulated annotator knows of a patient beyond the talk so far: as if the whole chart lay before them.

Of a patient case that is the case. Of a consultation that somebody held it is what the rest of the talk shows: what the
patient was yet to tell, and what the doctor came to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache

from zj_ray.data.case import Case, Fact
from zj_ray.data.messages import Message
from zj_ray.language import phrases
from zj_ray.language.conditions import Condition, load_conditions
from zj_ray.language.normal import normalise
from zj_ray.language.reading import asked_slots, clauses, questions
from zj_ray.language.red_flags import voiced_labels
from zj_ray.patients.scripted import matching_facts

_EMPTY_REPLIES = frozenset(
    (
        *phrases.REPEATED,
        *phrases.UNKNOWN,
        *phrases.NOTHING_MORE,
        *phrases.THANKS,
        phrases.ASK_BACK,
        phrases.FOLLOW_UP,
        phrases.CUE,
    )
)
_RULED_OUT = re.compile(r"排除|除外|鉴别|区分|不像|不是|并非|以免|预防|警惕|发展成|变成|有别于|不考虑")
_RULED_OUT_AFTER = re.compile(r"^[^，。]{0,4}(排除|除外|鉴别|可能性?(不大|很?小))")


def case_of_talk(name: str, dialogue: Sequence[Message]) -> Case:
    """The patient of a consultation, as the whole of it shows them. name: the case's id; the user speaks first."""
    doctor = [m.content for m in dialogue if m.role == "assistant"]
    patient = [m.content for m in dialogue if m.role == "user"]
    condition = next((_conditions()[name] for text in reversed(doctor) for name in named_diseases(text)), None)
    facts = tuple(_facts(dialogue))
    if condition is None:
        reference = {"diagnosis": None, "treatment": None, "advice": doctor[-1], "basis": None}
        flags = {label for words in patient for label in voiced_labels(words)}
        return Case(name, None, patient[0], facts, (), reference, tuple(sorted(flags)))
    reference = {
        "diagnosis": condition.name,
        "treatment": condition.treatment,
        "advice": "。".join(condition.advice),
        "basis": condition.overview,
    }
    flags = {flag.label for flag in condition.red_flags if any(flag.sign in words for words in patient)}
    return Case(name, condition.department, patient[0], facts, condition.exams, reference, tuple(sorted(flags)))


def _facts(dialogue: Sequence[Message]) -> Iterator[Fact]:
    """What the patient told when asked. The slot is the question's own words: the talk may lack what is also true."""
    for doctor, patient in zip(dialogue, dialogue[1:], strict=False):
        if doctor.role == "assistant" and questions(doctor.content):
            words = patient.content.removesuffix(phrases.CUE)
            if words and words not in _EMPTY_REPLIES:
                yield Fact("", words, ask="".join(questions(doctor.content)))


def named_diseases(text: str) -> tuple[str, ...]:
    """The clinic's diseases that the text takes to be the patient's, not those that it rules out or warns of."""
    found: dict[str, None] = {}
    for clause in clauses(normalise(text)):
        names = [name for name in _conditions() if normalise(name) in clause]
        for name in names:
            whole = not any(name != other and name in other for other in names)  # 胃炎 within 慢性胃炎
            before, _, after = clause.partition(normalise(name))
            if whole and not _RULED_OUT.search(before) and not _RULED_OUT_AFTER.search(after):
                found[name] = None
    return tuple(found)


def untold(case: Case, patient: Sequence[str]) -> list[int]:
    """The case's facts that the patient has not told in these words, by index."""
    answers = [fact.answer.rstrip("。，；") for fact in case.facts]
    return [i for i, answer in enumerate(answers) if not any(answer in words for words in patient)]


def elicited(case: Case, answer: str) -> set[int]:
    """The case's facts that the questions in `answer` ask for, by index."""
    slots = set(asked_slots(answer))
    alike = {i for i, fact in enumerate(case.facts) if fact.ask and slots & set(asked_slots(fact.ask))}
    return alike | set(matching_facts(case, answer))


@cache
def _conditions() -> dict[str, Condition]:
    return {condition.name: condition for condition in load_conditions()}
