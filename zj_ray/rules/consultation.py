"""Rules on the turns of a consultation, each in [-1, 1] with 0 for neutral; the reward weights them by name.

The keys equal RewardMixConfig's fields. Emergencies come first: once a red flag was voiced the turn that refers is the
best there is on every rule, whatever else it lacks, and one that does not earns nothing and costs; so, whatever the
weights, asking on never pays. Otherwise a turn is paid for the facts that its questions gained, and the last one for
advice that belongs to this case: a sentence that would do for any patient earns nothing, or a policy finds it within a
few PPO steps.
"""

from __future__ import annotations

from collections.abc import Sequence

from zj_ray.data.case import Case
from zj_ray.data.trajectory import Turn
from zj_ray.language.conditions import DEPARTMENTS
from zj_ray.language.diagnoses import cannot_tell, named_rightly, named_wrongly
from zj_ray.language.matter import relation
from zj_ray.language.normal import normalise
from zj_ray.language.reading import advises, asked_slots, questions, refers_to_emergency
from zj_ray.patients.scripted import FACTS_A_TURN, may_know_more
from zj_ray.rules.emergencies import omitted
from zj_ray.rules.prose import LENGTH_BAND, prose_rules

ENOUGH_FACTS = 3  # facts that tell, or half of the case's where it has fewer than six
MOST_DEPARTMENTS = 2  # to which one patient is sent
SHORTEST_REFERRAL = 6  # characters: "请马上去急诊"
# What advice shares with a case, in `matter.relation`'s units: other cases' closings stay below CHANCE in nine of ten
# tries, most of the case's own are above CHANCE + MUCH. Longer advice shares more by chance.
CHANCE, MUCH, LONG_ADVICE = 8.0, 24.0, 40


def turn_rules(turns: Sequence[Turn], position: int, *, case: Case) -> dict[str, float]:
    """All rules on one doctor turn of a case. turns: of the whole consultation; position: of the turn, from 0."""
    turn, earlier = turns[position], [t.text for t in turns[:position]]
    prose = prose_rules(turn, earlier=earlier)
    if turn.flagged and refers_to_emergency(turn.text):
        brief = SHORTEST_REFERRAL <= len(turn.text.strip()) < LENGTH_BAND[0]
        return {"new_facts": 1.0, "red_flag": 1.0, "advice": 1.0} | prose | ({"length": 0.0} if brief else {})
    return {
        "new_facts": min(new_facts(turn, earlier=earlier, case=case), 0.0 if turn.flagged else 1.0),
        "red_flag": red_flag(turns, position, case=case),
        "advice": advice(turns, position, case=case),
    } | prose


def new_facts(turn: Turn, *, earlier: Sequence[str], case: Case) -> float:
    """A fact gained by asking 0.5, two 1; a question that gained nothing -1; asking only what was told -0.5; none 0.

    Questions are counted by what they ask for, and a patient answers two topics a turn: to ask for more costs. Wasted
    questions cost, or a policy would ask everything at once and let the patient sort it out: asking pays where two
    questions of three gain a fact. Where the case may know more than it says, silence proves nothing: one question of a
    turn costs nothing, nor do two that open a medical topic each, which is worth 0.25; or a policy would learn not to
    ask at all.
    """
    if turn.repeated:
        return max(-0.5 - max(turn.questions - FACTS_A_TURN, 0), -1.0)
    gained = len(turn.new_facts)
    value, wasted = min(1.0, gained / 2), turn.questions - gained
    if may_know_more(case):
        opened = min(len(_fresh_topics(turn.text, earlier)), FACTS_A_TURN - gained)
        value = max(value, 0.25 * bool(opened))
        wasted -= max(opened, gained == 0)
    return max(value - max(wasted, 0), -1.0)


def _fresh_topics(text: str, earlier: Sequence[str]) -> list[str]:
    """The topics that `text` asks for and no earlier turn of the doctor did."""
    old = {slot for turn in earlier for slot in asked_slots(turn)}
    return [slot for slot in asked_slots(text) if slot not in old]


def red_flag(turns: Sequence[Turn], position: int, *, case: Case) -> float:
    """What a turn costs that does not send a voiced red flag to emergency care: 1, in every turn.

    Without a voiced red flag sending costs 0.5, in any turn. The last turn costs 1 where the case holds a red flag that
    nobody asked about: or not to ask would be the way to keep the talk, and its pay, going.
    """
    turn = turns[position]
    if turn.flagged:
        return -1.0
    if refers_to_emergency(turn.text):
        return -0.5
    return -1.0 if position == len(turns) - 1 and omitted(turns, case) else 0.0


def advice(turns: Sequence[Turn], position: int, *, case: Case) -> float:
    """The last turn should advise and not ask; before that, advising instead of asking costs a little.

    Last turn: -1 without advice, if a voiced red flag waits, or for a false alarm; 0 if it also asks; else as `closing`
    grades it.
    """
    turn, last = turns[position], position == len(turns) - 1
    asks = bool(questions(turn.text))
    if not last:
        return -0.3 if advises(turn.text) and not asks else 0.0
    if turn.flagged or not advises(turn.text) or refers_to_emergency(turn.text):
        return -1.0
    if asks:
        return 0.0
    return closing(turn.text, case, turns[:position])


def closing(text: str, case: Case, earlier: Sequence[Turn]) -> float:
    """What closing advice is worth, by what it says the patient has and what it shares with the case.

    Naming the right disease 0.6 to 1, half of that beside one wrong one; else a wrong disease -1. Advice that names
    none 0 to 0.5 by what it shares with the case's reference, more than by chance (to 1 where no diagnosis is known).
    To say that one can't tell, to this patient and not to any, 0.4 where the doctor has asked and what was gained does
    not tell, 0.1 where it does, or half of what the advice is worth if that is more. Of a disease that the doctor can't
    know it is the right answer: 0.8, or 0.5 to any patient. (Where it was worth less than naming, PPO named a known
    disease in nine of ten such cases.)
    """
    right, wrong = (named(text, case.reference.get("diagnosis")) for named in (named_rightly, named_wrongly))
    specific = specificity(text, case)
    if right and len(wrong) <= 1:
        return (0.6 + 0.4 * specific) * (0.5 if wrong else 1.0)
    if wrong:
        return -1.0
    known = bool(case.reference.get("diagnosis"))
    value = specific * (0.5 if known else 1.0)
    if not cannot_tell(text):
        return value
    asked, fitting = any(turn.questions for turn in earlier), relates(text, case, earlier)
    if case.unfamiliar:
        return (1.0 if fitting else 0.7) if asked else 0.0
    if fitting:
        return max(value * 0.5, 0.1 if tells(earlier, case) else 0.4 if asked else 0.0)
    return value


def tells(earlier: Sequence[Turn], case: Case) -> bool:
    """Whether the doctor has gained enough to say what it is: three of the case's facts, or half of fewer than six.

    Where the case's diagnosis is not known, or the doctor can't know the disease, nothing tells.
    """
    gained = {fact for turn in earlier for fact in turn.new_facts}
    enough = min(ENOUGH_FACTS, len(case.facts) / 2)
    tellable = bool(case.reference.get("diagnosis")) and not case.unfamiliar
    return tellable and len(gained) >= max(1, enough)


def specificity(text: str, case: Case) -> float:
    """How much more than by chance the text shares with the case's reference and exams, in [0, 1].

    Where the case has no reference, with all that its patient could say.
    """
    reference = [part for part in (*case.reference.values(), *case.exams) if part]
    reference = reference or [case.opening, *(fact.answer for fact in case.facts)]
    shared = relation(normalise(text), normalise("。".join(reference)))
    chance = CHANCE * max(1.0, len(text) / LONG_ADVICE)
    return min(max((shared - chance) / MUCH, 0.0), 1.0)


def relates(text: str, case: Case, earlier: Sequence[Turn]) -> bool:
    """Whether the text is on this patient: it shares words with what the doctor has heard, or names where to go."""
    gained = [case.facts[fact].answer for turn in earlier for fact in turn.new_facts]
    heard = normalise("。".join([case.opening, *gained]))
    fitting = [name for name in (case.department, *case.exams) if name and name in text]
    scattered = sum(name in text for name in DEPARTMENTS) > MOST_DEPARTMENTS
    return (bool(fitting) and not scattered) or relation(normalise(text), heard) >= CHANCE / 2
