"""Rules on the turns of a consultation, each in [-1, 1] with 0 for neutral; the reward weights them by name.

The keys equal RewardMixConfig's fields. Advice is graded by what it shares with the case's reference, so that
"建议就医" alone earns half: a policy finds the one sentence that a rule can't tell from good advice within a few PPO
steps.
"""

from __future__ import annotations

from collections.abc import Sequence

from zj_ray.data.case import Case
from zj_ray.data.trajectory import Turn
from zj_ray.language.conditions import disease_names
from zj_ray.language.reading import advises, asked_slots, grams, questions, refers_to_emergency
from zj_ray.patients.scripted import may_know_more
from zj_ray.rules.prose import prose_rules


def turn_rules(turn: Turn, *, position: int, last: bool, earlier: Sequence[str], case: Case) -> dict[str, float]:
    """All rules on one doctor turn of a case.

    position: 0 for the first turn; last: whether it is the doctor's last; earlier: texts of the doctor's turns before.
    """
    return {
        "new_facts": new_facts(turn, earlier=earlier, case=case),
        "red_flag": red_flag(turn) if last else 0.0,
        "advice": advice(turn.text, last=last, case=case, referred=turn.flagged and refers_to_emergency(turn.text)),
    } | prose_rules(turn, earlier=earlier)


def new_facts(turn: Turn, *, earlier: Sequence[str], case: Case) -> float:
    """A fact gained by asking 0.5, two 1; a question that gained nothing -1; asking only what was told -0.5; none 0.

    Wasted questions cost, or a policy would ask everything at once and let the patient sort it out: asking pays where
    two questions of three gain a fact. Where the case may know more than it says, silence proves nothing: one question
    of a turn costs nothing, and is worth 0.25 if it opens a medical topic, or a policy would learn not to ask at all.
    """
    if turn.repeated:
        return -0.5
    gained = len(turn.new_facts)
    if gained or not may_know_more(case):
        return max(min(1.0, gained / 2) - max(turn.questions - gained, 0), -1.0)
    return max(0.25 * bool(fresh_topics(turn.text, earlier)) - max(turn.questions - 1, 0), -1.0)


def fresh_topics(text: str, earlier: Sequence[str]) -> list[str]:
    """The topics that `text` asks for and no earlier turn of the doctor did."""
    old = {slot for turn in earlier for slot in asked_slots(turn)}
    return [slot for slot in asked_slots(text) if slot not in old]


def red_flag(turn: Turn) -> float:
    """Grades the last turn: after a voiced red flag 1 for sending to emergency care, else -1.

    Without a voiced red flag sending costs 0.5.
    """
    referred = refers_to_emergency(turn.text)
    if turn.flagged:
        return 1.0 if referred else -1.0
    return -0.5 if referred else 0.0


def advice(text: str, *, last: bool, case: Case, referred: bool) -> float:
    """The last turn should advise and not ask; before that, advising instead of asking costs a little.

    Last turn: -1 without advice, 0 if it also asks, else 0.5 to 1 by how specific to the case the advice is; sending a
    voiced red flag to emergency care (`referred`) is specific. Naming a wrong disease makes any advice -0.5: to say
    that one can't tell yet is better.
    """
    asks = bool(questions(text))
    if not last:
        return -0.3 if advises(text) and not asks else 0.0
    if not advises(text):
        return -1.0
    if asks:
        return 0.0
    if referred:
        return 1.0
    return -0.5 if misdiagnoses(text, case) else 0.5 + 0.5 * specificity(text, case)


def misdiagnoses(text: str, case: Case) -> bool:
    """Whether the turn names a disease of the clinic that is not the case's. False where the diagnosis is not known."""
    diagnosis = case.reference.get("diagnosis") or ""
    return diagnosis != "" and any(
        name in text and name not in diagnosis and diagnosis not in name for name in disease_names()
    )


def specificity(text: str, case: Case) -> float:
    """What advice shares with the case's reference, in [0, 1]: diagnosis, exams, and words of treatment and advice.

    1 where the case has no reference.
    """
    reference = " ".join(part for part in case.reference.values() if part)
    if not reference and not case.exams:
        return 1.0
    names = [name for name in (case.reference.get("diagnosis"), *case.exams) if name and name in text]
    common = set(grams(text, 3)) & set(grams(reference, 3))
    return min(1.0, 0.4 * min(len(names), 2) + len(common) / 10)
