"""Emergencies in a consultation: when a voiced red flag was referred, what was referred without one, what nobody asked.

The first turn after a red flag was voiced is the one that must refer; the patient leaves when it does. All functions
read the turns of one consultation, in their order, and are for the reward and for evaluation alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from zj_ray.data.case import Case
from zj_ray.data.trajectory import Turn
from zj_ray.language.reading import asked_slots, refers_to_emergency
from zj_ray.language.red_flags import voiced_labels, voices
from zj_ray.patients.scripted import FACTS_A_TURN, matching_facts

SIGNS = "伴随"  # the slot of questions for other signs, where red flags show


def turns_to_referral(turns: Sequence[Turn]) -> int | None:
    """Turns from the first that knew of a red flag to the first that referred it: 0 where that was the same one.

    None where no turn knew of a red flag, or none that did referred it: `never_referred` tells which.
    """
    flagged = [turn for turn in turns if turn.flagged]
    return next((i for i, turn in enumerate(flagged) if refers_to_emergency(turn.text)), None)


def never_referred(turns: Sequence[Turn]) -> bool:
    """Whether a red flag was voiced before some turn, and no turn after that sent the patient to emergency care."""
    return any(turn.flagged for turn in turns) and turns_to_referral(turns) is None


def false_alarms(turns: Sequence[Turn]) -> int:
    """The turns that sent the patient to emergency care though no red flag had been voiced."""
    return sum(not turn.flagged and refers_to_emergency(turn.text) for turn in turns)


def omitted(turns: Sequence[Turn], case: Case) -> bool:
    """Whether the case holds a red flag that the patient never voiced, and no turn asked about.

    A turn asks about it by asking for other signs, for the sign by name, or for the fact that holds it. What a turn
    asks beyond the topics that a patient answers is not asked.
    """
    if not case.red_flags or any(turn.flagged for turn in turns):
        return False
    return not any(_asks_about_flag(turn.text, case) for turn in turns)


def _asks_about_flag(text: str, case: Case) -> bool:
    if SIGNS in asked_slots(text)[:FACTS_A_TURN] or set(voiced_labels(text)) & set(case.red_flags):
        return True
    sayable = [case.opening, *(fact.answer for fact in case.facts)]
    answered = [case.facts[i].answer for i in matching_facts(case, text)[:FACTS_A_TURN]]
    return any(voices(words, labels=case.red_flags, sayable=sayable) for words in answered)
