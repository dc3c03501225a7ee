"""Rules on the turns of a consultation, each in [-1, 1] with 0 for neutral; the reward weights them by name.

The keys equal RewardMixConfig's fields. Advice is graded by what it shares with the case's reference, so that "建议就医"
alone earns half: a policy finds the one sentence that a rule can't tell from good advice within a few PPO steps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from zj_ray.data.case import Case
from zj_ray.data.trajectory import Turn
from zj_ray.language.conditions import disease_names
from zj_ray.language.reading import advises, asked_slots, grams, plain, questions, refers_to_emergency
from zj_ray.patients.scripted import may_know_more

LENGTH_BAND = (12, 90)  # characters of a good doctor turn
COPIED_FREELY = 0.3  # share of a turn that may repeat earlier turns: courtesies and "还有没有" are no repetition
BROKEN = re.compile(
    r"\ufffd|<\|.*?\|>|</?(s|unk|pad|eos|bos)>|\[(PAD|UNK|CLS|SEP|MASK)\]|(^|\n)\s*(user|assistant|system|患者|用户)\s*[:：]",
    re.IGNORECASE,
)
_ENDED = re.compile(r"[。！？!?…~）)”」.]\s*$")


def turn_rules(turn: Turn, *, position: int, last: bool, earlier: Sequence[str], case: Case) -> dict[str, float]:
    """All rules on one doctor turn of a case. position: 0 for the first turn; earlier: texts of the doctor's turns before."""
    return {
        "new_facts": new_facts(turn, earlier=earlier, case=case),
        "red_flag": red_flag(turn) if last else 0.0,
        "advice": advice(turn.text, last=last, case=case, referred=turn.flagged and refers_to_emergency(turn.text)),
    } | prose_rules(turn, earlier=earlier)


def prose_rules(turn: Turn, *, earlier: Sequence[str]) -> dict[str, float]:
    """The rules on wording alone, which also hold for answers to safety prompts: repetition, length, format."""
    return {
        "repetition": repetition(turn.text, earlier),
        "length": length(turn.text),
        "format": well_formed(turn.text, finished=turn.finished),
    }


def new_facts(turn: Turn, *, earlier: Sequence[str], case: Case) -> float:
    """A fact gained by asking 0.5, two 1; each question that gained nothing -1; asking only what was told -0.5; no question 0.

    Wasted questions cost, or a policy would ask everything at once and let the patient sort it out: asking pays where
    two questions of three gain a fact. Where the case may know more than it says, silence proves nothing: one question of
    a turn costs nothing, and is worth 0.25 if it opens a medical topic, or a policy would learn not to ask at all.
    """
    if turn.repeated:
        return -0.5
    gained = len(turn.new_facts)
    if gained or not may_know_more(case):
        return max(min(1.0, gained / 2) - max(turn.questions - gained, 0), -1.0)
    return max(0.25 * bool(fresh_topics(turn.text, earlier)) - max(turn.questions - 1, 0), -1.0)


def fresh_topics(text: str, earlier: Sequence[str]) -> list[str]:
    """The topics that `text` asks for and no earlier turn of the doctor did."""
    known = {slot for said in earlier for slot in asked_slots(said)}
    return [slot for slot in asked_slots(text) if slot not in known]


def red_flag(turn: Turn) -> float:
    """On the last turn. A voiced red flag: 1 if sent to emergency care, else -1. None voiced: -0.5 if sent there all the same."""
    referred = refers_to_emergency(turn.text)
    if turn.flagged:
        return 1.0 if referred else -1.0
    return -0.5 if referred else 0.0


def advice(text: str, *, last: bool, case: Case, referred: bool) -> float:
    """The last turn should advise and not ask; before that, advising instead of asking costs a little.

    Last turn: -1 without advice, 0 if it also asks, else 0.5 to 1 by how specific to the case the advice is; sending a
    voiced red flag to emergency care (`referred`) is specific. Naming a wrong disease makes any advice -0.5: to say that
    one can't tell yet is better.
    """
    advised, asked = advises(text), bool(questions(text))
    if not last:
        return -0.3 if advised and not asked else 0.0
    if not advised:
        return -1.0
    if asked:
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
    """What advice shares with the case's reference, in [0, 1]: diagnosis, exams, and words of treatment and advice. 1 without a reference."""
    known = " ".join(part for part in case.reference.values() if part)
    if not known and not case.exams:
        return 1.0
    named = [name for name in (case.reference.get("diagnosis"), *case.exams) if name and name in text]
    shared = set(grams(text, 3)) & set(grams(known, 3))
    return min(1.0, 0.4 * min(len(named), 2) + len(shared) / 10)


def repetition(text: str, earlier: Sequence[str] = ()) -> float:
    """0 to -1: share of the turn's 4-grams said twice in it, plus the share copied from an earlier turn beyond what courtesy needs."""
    pieces = grams(text, 4)
    if not pieces:
        return 0.0
    within = 1 - len(set(pieces)) / len(pieces)
    copied = max((_copied(pieces, other) for other in earlier), default=0.0)
    return -min(1.0, within + max(0.0, copied - COPIED_FREELY) / (1 - COPIED_FREELY))


def _copied(pieces: list[str], other: str) -> float:
    said = set(grams(other, 4))
    return sum(piece in said for piece in pieces) / len(pieces)


def length(text: str) -> float:
    """0 within LENGTH_BAND characters, falling to -1 for nothing at all and for twice the upper end."""
    low, high = LENGTH_BAND
    count = len(text.strip())
    if count < low:
        return (count - low) / low
    return max(-1.0, (high - count) / high) if count > high else 0.0


def well_formed(text: str, *, finished: bool) -> float:
    """0 for a turn that the policy ended itself, with an end mark and without broken bytes or template text; -0.5 cut off; else -1."""
    if not plain(text) or BROKEN.search(text):
        return -1.0
    if not finished:
        return -0.5
    return 0.0 if _ENDED.search(text) else -1.0
