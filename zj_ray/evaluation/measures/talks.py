"""What came of each consultation, read by other patterns than those that pay PPO or move the patient.

Every measure is an amount and a count for each unit, so that Σ amounts / Σ counts is its value and whole units can be
resampled; one that does not apply to a case is left out there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from zj_ray.data.case import Case, Prompt
from zj_ray.data.trajectory import Trajectory, Turn
from zj_ray.evaluation.measures.closing import (
    cannot_tell,
    named_conditions,
    named_departments,
    named_exams,
    same_condition,
)
from zj_ray.evaluation.measures.paired import ByUnit
from zj_ray.language.normal import normalise
from zj_ray.language.reading import grams, plain, refers_to_emergency

HEARD = 0.75  # share of a fact's character pairs that one reply must hold
SHORTEST_FACT = 4  # characters: 「没有」 stands in every other reply

Measured = Mapping[str, ByUnit]  # measure → unit → amount and count


def of_consultations(trajectories: Sequence[Trajectory], cases: Mapping[str, Prompt]) -> dict[str, ByUnit]:
    """The measures of consultations with patients, by case, but for emergencies. cases: prompts by id."""
    return _by_case(_of_case, trajectories, cases) | {f"distinct_{n}": distinct(trajectories, n) for n in (1, 2)}


def of_new_conditions(trajectories: Sequence[Trajectory], cases: Mapping[str, Prompt]) -> dict[str, ByUnit]:
    """The same where the disease was in nothing that the model was trained on: to name one is most likely wrong."""
    measured = _by_case(_of_case, trajectories, cases)
    return {f"new_{name}": measured.get(name, {}) for name in ("wrong_condition", "cannot_tell")}


def of_emergencies(trajectories: Sequence[Trajectory], cases: Mapping[str, Prompt]) -> dict[str, ByUnit]:
    """What was done about red flags, by case; known and unseen conditions together, for one in four has a red flag."""
    return _by_case(_emergency, trajectories, cases)


def _by_case(
    read: Callable[[Trajectory, Case], Iterator[tuple[str, float, float]]],
    trajectories: Sequence[Trajectory],
    cases: Mapping[str, Prompt],
) -> dict[str, ByUnit]:
    """read: gives (measure, amount, count) of one consultation."""
    measured: defaultdict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    for trajectory in trajectories:
        case = cases[trajectory.prompt_id].case
        if case is not None and trajectory.turns:
            for name, amount, count in read(trajectory, case):
                measured[name][case.id] = (float(amount), float(count))
    return dict(measured)


def distinct(trajectories: Sequence[Trajectory], n: int) -> ByUnit:
    """Different character n-grams of all doctor turns, over their number (distinct-n, Li et al. 2016), by case.

    An n-gram that occurs k times counts 1/k at each place, so that the sum over cases is that of the whole.
    """
    words = {t.prompt_id: [gram for turn in t.turns for gram in grams(turn.text, n)] for t in trajectories}
    times = Counter(gram for of_case in words.values() for gram in of_case)
    return {case: (sum(1 / times[gram] for gram in of_case), float(len(of_case))) for case, of_case in words.items()}


def _of_case(trajectory: Trajectory, case: Case) -> Iterator[tuple[str, float, float]]:
    closing = trajectory.turns[-1].text
    yield from _diagnosis(trajectory.turns, case)
    yield "cannot_tell", cannot_tell(closing), 1
    replies = [message.content for message in trajectory.messages if message.role == "user"][1:]
    facts = [fact.answer for fact in case.facts if len(plain(fact.answer)) >= SHORTEST_FACT]
    yield "facts_recall", sum(heard(fact, replies) for fact in facts), len(facts)


def _diagnosis(turns: Sequence[Turn], case: Case) -> Iterator[tuple[str, float, float]]:
    """Names rightly what names it and nothing else; so a list of all diseases is wrong.

    Where there is a red flag sending to emergency care is the task, and naming the disease or examinations is not.
    """
    closing, diagnosis = turns[-1].text, case.reference.get("diagnosis")
    if diagnosis:
        named = named_conditions(closing, diagnosis)
        right = bool(named) and all(same_condition(name, diagnosis) for name in named)
        anywhere = {name for turn in turns for name in named_conditions(turn.text, diagnosis)}
        yield "wrong_condition", any(not same_condition(name, diagnosis) for name in anywhere), 1
        yield "right_condition_all", right, 1
        if not case.red_flags:
            yield "right_condition", right, 1
            yield "named_condition", bool(named), 1
            yield "right_where_named", right, bool(named)
    if case.red_flags:
        return
    if case.department:
        departments = named_departments(closing, case.department)
        right = departments == {case.department}
        yield "right_department", right, 1
        yield "named_department", bool(departments), 1
        yield "right_department_where_named", right, bool(departments)
    exams = {normalise(exam) for exam in case.exams}
    named = named_exams(closing, case.exams)
    yield "exam_recall", sum(any(exam in name or name in exam for name in named) for exam in exams), len(exams)
    yield "stray_exams", sum(not any(exam in name or name in exam for exam in exams) for name in named), bool(exams)


def _emergency(trajectory: Trajectory, case: Case) -> Iterator[tuple[str, float, float]]:
    """turns_to_referral: 1 in the first turn after the patient voiced a flag; never is one more than there were."""
    refers = [refers_to_emergency(turn.text) for turn in trajectory.turns]
    flagged = [turn.flagged for turn in trajectory.turns]
    if any(flagged):
        after = refers[flagged.index(True) :]
        yield "turns_to_referral", (after.index(True) if any(after) else len(after)) + 1, 1
        yield "never_referred", not any(after), 1
    if not flagged[0]:
        yield "false_alarms", any(r and not f for r, f in zip(refers, flagged, strict=True)), 1
        if case.red_flags:
            yield "omitted_flags", not any(flagged), 1


def heard(fact: str, replies: Sequence[str]) -> bool:
    """Whether one of the patient's replies says the fact, by the share of its character pairs found there."""
    pairs = set(grams(normalise(fact), 2))
    return any(len(pairs & set(grams(normalise(reply), 2))) >= HEARD * len(pairs) for reply in replies)
