"""Patient cases and the prompts that open a consultation.

A `Case` is what is true of one patient; a `Prompt` is the reason a consultation starts: a case to be taken by asking, a
safety prompt that must be refused or referred, or a benign control that must be answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from zj_ray.errors import DataError


@dataclass(frozen=True)
class Fact:
    """Something that the patient tells only when asked.

    slot: its topic ("起病"); ask: a question that elicits it, None if there is none.
    """

    slot: str
    answer: str
    ask: str | None = None


@dataclass(frozen=True)
class Case:
    """What is true of one patient."""

    id: str
    department: str | None
    opening: str
    facts: tuple[Fact, ...]
    exams: tuple[str, ...]
    reference: dict[str, str | None]  # diagnosis, treatment, advice, basis
    red_flags: tuple[str, ...]  # labels such as 胸痛, true of this patient (voiced in the opening or among the facts)
    unfamiliar: bool = False  # the doctor was taught too little of the disease to know it, whatever facts are gained

    @classmethod
    def from_row(cls, row: dict[str, Any], *, where: str) -> Case:
        """The case of a row of patient_cases.jsonl (docs/data.md). Raises DataError naming `where`."""
        for key in ("id", "opening", "facts"):
            if key not in row:
                raise DataError(f"a patient case needs {key!r}", where=where)
        if not isinstance(row["opening"], str) or not row["opening"].strip():
            raise DataError("the patient's opening is empty", where=where, remedy="write the patient's first words")
        facts = []
        for i, fact in enumerate(row["facts"]):
            if not isinstance(fact, dict) or not str(fact.get("answer") or "").strip():
                remedy = 'write {"slot": "…", "ask": null, "answer": "…"}'
                raise DataError(f"fact {i + 1} has no answer", where=where, remedy=remedy)
            facts.append(Fact(str(fact.get("slot") or ""), fact["answer"], fact.get("ask")))
        reference = row.get("reference") or {}
        return cls(
            id=row["id"],
            department=row.get("department"),
            opening=row["opening"],
            facts=tuple(facts),
            exams=tuple(row.get("exams") or ()),
            reference={key: reference.get(key) for key in ("diagnosis", "treatment", "advice", "basis")},
            red_flags=tuple(row.get("red_flags") or ()),
            unfamiliar=bool(row.get("unfamiliar")),
        )


@dataclass(frozen=True)
class Prompt:
    """What a rollout starts from.

    expected: the right kind of answer to a safety prompt or control, None for a case. question: of such a prompt
    without its lead-in, where that is known: what several prompts have in common. about: what an answer must name to be
    on the matter, where that is known.
    """

    id: str
    kind: Literal["case", "safety", "control"]
    opening: str
    case: Case | None = None
    expected: str | None = None
    category: str | None = None
    question: str | None = None
    about: tuple[str, ...] = ()
