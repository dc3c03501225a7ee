"""Reward and rubric prefer good doctors to cheats: a small form of bench/doctors.py."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from bench.doctors import VALUES, Scored, clinic_cases, closings, consult, margin, score, written_cases
from bench.scripted_doctors import ALARM, BEST, CHEATS, Doctor, Talk, ask, oracle
from zj_ray.config.sections.ppo import RewardMixConfig
from zj_ray.data.case import Case, Prompt
from zj_ray.data.trajectory import Trajectory
from zj_ray.language.red_flags import voices
from zj_ray.rewards.mix import ScoreScale, score_turns
from zj_ray.rules import rubric

KNOWN = closings()
CLINIC, WRITTEN = clinic_cases(1)[::3], written_cases()
FLAGGED = [prompt for prompt in clinic_cases(2) + WRITTEN if prompt.case and prompt.case.red_flags]
RULES = ("new_facts", "red_flag", "advice", "repetition", "length", "format")


@pytest.fixture(scope="module", params=["clinic", "written by hand"])
def scored(request: pytest.FixtureRequest) -> dict[str, Scored]:
    """What every doctor's consultations with one set of cases are worth."""
    cases = CLINIC if request.param == "clinic" else WRITTEN
    return {name: score(doctor, cases, KNOWN) for name, doctor in (BEST | CHEATS).items()}


@pytest.mark.parametrize("value", VALUES)
def test_the_oracle_is_above_the_careful_script_and_that_above_every_cheat(
    scored: dict[str, Scored], value: str
) -> None:
    careful = getattr(scored["careful script"], value)
    leads = {name: margin(careful, getattr(scored[name], value)) for name in CHEATS}
    assert {name: lead for name, lead in leads.items() if lead[1][0] <= 0} == {}
    assert margin(getattr(scored["oracle"], value), careful)[1][0] > 0


def test_the_rubric_shares_no_grade_with_what_ppo_is_paid_by() -> None:
    """Its judge must not have the hole that a policy found in its pay."""
    tree = ast.parse(Path(rubric.__file__).read_text("utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"zj_ray.rules.consultation", "zj_ray.rules.prose", "zj_ray.rules.emergencies"}


def waits(turns: int) -> Doctor:
    """The oracle, but for so many turns after a red flag it goes on as if there were none."""
    waited: dict[int, int] = {}

    def doctor(talk: Talk) -> str:
        if not talk.flagged:
            return oracle(talk)
        waited[id(talk.messages)] = waited.get(id(talk.messages), -1) + 1
        on = waited[id(talk.messages)] < turns
        return oracle(replace(talk, flagged=False)) if on else ALARM

    return doctor


def test_asking_on_after_a_red_flag_never_pays_whatever_the_weights() -> None:
    """Rule by rule, over the whole talk: so no weights can make waiting pay."""
    for prompt in FLAGGED[::3]:
        parts = [sums(consult(waits(turns), prompt, KNOWN), prompt) for turns in range(4)]
        if parts[0] == parts[3]:  # the oracle never came to hear of it
            continue
        for waited in parts[1:]:
            assert all(parts[0][rule] >= waited[rule] for rule in RULES), (prompt.id, parts)
            assert parts[0]["red_flag"] > waited["red_flag"], (prompt.id, parts)


def sums(talk: Trajectory, prompt: Prompt) -> dict[str, float]:
    """What the talk is worth on every rule, unweighted."""
    parts = score_turns(talk, prompt, [0.0] * len(talk.turns), ScoreScale(0.0, 1.0), RewardMixConfig(), "weight").parts
    return {rule: sum(part[rule] for part in parts) for rule in RULES}


def test_to_find_a_red_flag_pays_more_than_to_ask_for_everything_else() -> None:
    """A talk ends with the referral, and so does its pay: not to hear of an emergency must not be the better deal."""

    def avoids(talk: Talk) -> str:
        case, calm = talk.case, ("起病", "诱因", "病程", "既往", "用药", "程度")
        facts = [fact for fact in case.facts if not voices(fact.answer, labels=case.red_flags, sayable=said(case))]
        known = replace(talk, case=replace(case, facts=tuple(facts), red_flags=()))
        turn = oracle(known)
        return ask(*calm[2 * talk.turn :][:2]) if "症状" in turn and not talk.last else turn

    def said(case: Case) -> list[str]:
        return [case.opening, *(fact.answer for fact in case.facts)]

    hidden = [p for p in FLAGGED if p.case and not voices(p.opening, labels=p.case.red_flags, sayable=said(p.case))]
    assert len(hidden) > 20
    finds, misses = (score(doctor, hidden, KNOWN) for doctor in (oracle, avoids))
    for value in VALUES:
        assert margin(getattr(finds, value), getattr(misses, value))[1][0] > 0


def test_no_cheat_gains_more_facts_a_question_than_the_careful_script(scored: dict[str, Scored]) -> None:
    def facts_a_question(name: str) -> float:
        turns = [turn for talk in scored[name].talks for turn in talk.turns]
        return sum(len(turn.new_facts) for turn in turns) / max(1, sum(turn.questions for turn in turns))

    stuffing = ("salad", "shuffled salad", "shuffled questions", "nine questions a turn", "twenty symptoms")
    assert all(facts_a_question(name) < facts_a_question("careful script") for name in stuffing)
