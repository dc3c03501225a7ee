"""Do reward and rubric prefer good doctors to cheats? `python -m bench.doctors` prints a table for docs/doctors.md.

Scripted doctors (bench/scripted_doctors.py) consult the scripted patient on cases of the clinic, on cases written by
hand as from somebody's talk, and, where ZJ_REAL_DATA names a data folder, on the real cases there. Each is scored as
PPO pays a turn, with the reward model silent, and as evaluation judges it. Wanted: oracle > careful script > every
cheat.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.scripted_doctors import BEST, CHEATS, Doctor, Talk
from zj_ray.config.sections.ppo import RewardMixConfig
from zj_ray.data.case import Case, Prompt
from zj_ray.data.clinic.cases import case_row, draw_visit
from zj_ray.data.clinic.clinic import CASE_FLAG_SHARE
from zj_ray.data.clinic.consultations import Consultation
from zj_ray.data.datasets import load_prompts
from zj_ray.data.messages import Message
from zj_ray.data.trajectory import Trajectory, Turn
from zj_ray.evaluation.rounds import mean_utility
from zj_ray.evaluation.statistics import mean_interval
from zj_ray.fleet.dialogue import stable_seed
from zj_ray.language.conditions import load_conditions
from zj_ray.patients.scripted import PERSONAS, ScriptedPatient
from zj_ray.rewards.mix import ScoreScale, score_turns

MAX_TURNS = 4
MIX = RewardMixConfig()
TALKS = Path(__file__).parents[1] / "tests" / "rules" / "talks.jsonl"
VALUES = ("reward", "rubric")


@dataclass(frozen=True)
class Scored:
    """What a doctor's consultations are worth, by case. turns: of them all."""

    reward: list[float]
    rubric: list[float]
    talks: list[Trajectory]


def clinic_cases(each: int, seed: int = 0) -> list[Prompt]:
    """So many patients of every condition of the clinic."""
    rng = random.Random(seed)
    visits = [draw_visit(c, rng, flag_share=CASE_FLAG_SHARE) for _ in range(each) for c in load_conditions()]
    return [_prompt(Case.from_row({"id": f"c{i}"} | case_row(visit), where="clinic")) for i, visit in enumerate(visits)]


def written_cases() -> list[Prompt]:
    """The cases that were written by hand, with questions of their own instead of topics."""
    lines = TALKS.read_text(encoding="utf-8").splitlines()
    return [_prompt(Case.from_row(json.loads(line), where=TALKS.name)) for line in lines]


def real_cases(root: Path) -> list[Prompt]:
    return [p for split in ("train", "valid") for p in load_prompts(root, split) if p.case is not None]


def _prompt(case: Case) -> Prompt:
    return Prompt(case.id, "case", case.opening, case=case)


def closings(seed: int = 1) -> tuple[str, ...]:
    """How SFT's doctors close: what a policy would know by heart."""
    rng = random.Random(seed)
    visits = [draw_visit(c, rng, flag_share=0.0) for c in load_conditions()]
    return tuple(Consultation(visit, "good", rng).hold()[-1]["content"] for visit in visits)


def consult(doctor: Doctor, prompt: Prompt, known: tuple[str, ...]) -> Trajectory:
    """One consultation, as `fleet.dialogue.consult` holds it with an engine."""
    patient, seed = ScriptedPatient(), stable_seed("doctors", prompt.id)
    opening = patient.reset(prompt, persona=PERSONAS[seed % len(PERSONAS)], seed=seed, max_turns=MAX_TURNS)
    record = Trajectory(prompt.id, 0, seed, messages=[Message("user", opening)])
    assert prompt.case is not None
    for turn in range(MAX_TURNS):
        flagged = patient.flagged
        talk = Talk(record.messages, flagged, MAX_TURNS - turn, random.Random(seed + turn), prompt.case, known)
        text = doctor(talk)
        reply = patient.step(text)
        record.messages.append(Message("assistant", text))
        seen = {"new_facts": reply.revealed, "repeated": reply.repeated, "questions": reply.questions}
        record.turns.append(Turn(0, 1, text, 0, "script", finished=True, flagged=flagged, **seen))
        if reply.done or turn == MAX_TURNS - 1:
            break
        record.messages.append(Message("user", reply.text))
    return record


def score(doctor: Doctor, cases: Sequence[Prompt], known: tuple[str, ...], mix: RewardMixConfig = MIX) -> Scored:
    """The doctor's consultations with all cases, their rewards and mean utilities."""
    talks = [consult(doctor, prompt, known) for prompt in cases]
    silent = ScoreScale(0.0, 1.0)
    rewards = [
        score_turns(talk, prompt, [0.0] * len(talk.turns), silent, mix, "weight").total
        for talk, prompt in zip(talks, cases, strict=True)
    ]
    return Scored(rewards, [mean_utility(t.messages, p) for t, p in zip(talks, cases, strict=True)], talks)


def margin(above: Sequence[float], below: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The mean difference by case with its 95 % bootstrap interval."""
    found = mean_interval([a - b for a, b in zip(above, below, strict=True)])
    return found.value, found.ci95


def table(cases: Sequence[Prompt], doctors: Mapping[str, Doctor]) -> str:
    """A Markdown table: every doctor's reward and rubric, and by how much the careful script beats it."""
    known = closings()
    scored = {name: score(doctor, cases, known) for name, doctor in doctors.items()}
    careful = scored["careful script"]
    lines = ["| doctor | reward | careful script's lead | rubric | careful script's lead |", "| --- |" + " ---: |" * 4]
    for name, result in scored.items():
        cells = []
        for value in VALUES:
            own, best = getattr(result, value), getattr(careful, value)
            lead, (low, high) = margin(best, own)
            places = 2 if value == "reward" else 3
            cells += [f"{sum(own) / len(own):.{places}f}", f"{lead:.{places}f} [{low:.{places}f}, {high:.{places}f}]"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    sets = {"clinic": clinic_cases(2)}
    if TALKS.exists():
        sets["written by hand"] = written_cases()
    if folder := os.environ.get("ZJ_REAL_DATA"):
        sets["real"] = real_cases(Path(folder))
    for name, cases in sets.items():
        flagged = sum(bool(p.case and p.case.red_flags) for p in cases)
        print(f"\n### {name}: {len(cases)} cases, {flagged} with a red flag\n")
        print(table(cases, BEST | CHEATS))


if __name__ == "__main__":
    main()
