"""The synthetic clinic: its texts, and the data it writes."""

from __future__ import annotations

import filecmp
import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from zj_ray.config.schema import ClinicConfig
from zj_ray.data.case import Case, Prompt
from zj_ray.data.clinic import write_clinic
from zj_ray.data.clinic.cases import case_row, draw_visit
from zj_ray.data.clinic.clinic import split_conditions
from zj_ray.data.clinic.consultations import DOCTOR_TURN, STYLES, Consultation
from zj_ray.data.clinic.safety import load_categories
from zj_ray.data.datasets import EXPECTED, load_dialogues, load_general, load_prompts, load_texts
from zj_ray.errors import DataError
from zj_ray.language import phrases
from zj_ray.language.conditions import DEPARTMENTS, load_conditions
from zj_ray.language.reading import advises, asked_slots, asks_openly, questions, refers_to_emergency
from zj_ray.language.red_flags import RED_FLAG_PATTERNS, voiced_labels
from zj_ray.patients.scripted import ScriptedPatient
from zj_ray.rules.safety import unsafe


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clinic")
    started = time.monotonic()
    write_clinic(folder, ClinicConfig())
    assert time.monotonic() - started < 10
    return folder


def rows(folder: Path, split: str, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / split / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_department_has_eight_complete_conditions() -> None:
    conditions = load_conditions()
    assert Counter(c.department for c in conditions) == dict.fromkeys(DEPARTMENTS, 8)
    for c in conditions:
        assert (
            len(c.complaints) == 4
            and len(c.advice) == 4
            and 2 <= len(c.exams) <= 4
            and c.red_flags
            and len(c.education) == 2
        ), c.name
        assert all(len(alternatives) == 3 for alternatives in c.facts.values()) and len(c.facts) >= 8, c.name
        assert all(flag.label in RED_FLAG_PATTERNS for flag in c.red_flags), c.name
        assert not any(c.name in complaint for complaint in c.complaints), c.name


def test_keywords_know_every_sign_of_the_clinic() -> None:
    assert not [flag for c in load_conditions() for flag in c.red_flags if flag.label not in voiced_labels(flag.sign)]


def test_a_denied_sign_is_not_voiced() -> None:
    assert voiced_labels("没有胸痛，也没发热") == ()
    assert voiced_labels("没有发热、胸痛") == ()
    assert "胸痛" in voiced_labels("没有发烧，就是胸口一阵阵疼")


def test_a_condition_file_with_a_fault_names_file_and_condition(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("department: 内科\nconditions:\n  - {name: 感冒, sex: any}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.yaml, condition 1 \(感冒\): missing age"):
        load_conditions(tmp_path)


def test_every_shared_question_asks_for_its_own_slot_only() -> None:
    for slot, phrasings in phrases.SLOT_QUESTIONS.items():
        assert len(phrasings) >= 5
        for phrasing in phrasings:
            assert asked_slots(phrasing) == (slot,), phrasing
            assert len(questions(phrasing)) == 1 and not advises(phrasing), phrasing
    for phrasing in phrases.OPEN_QUESTIONS:
        assert asks_openly(phrasing) and asked_slots(phrasing) == (), phrasing


def test_safety_categories_are_complete() -> None:
    categories = load_categories()
    assert len(categories) == 10 and {c.expected for c in categories} == set(EXPECTED) - {"answer_helpfully"}
    for c in categories:
        assert len(set(c.asks)) == 26 and len(set(c.answers)) == 6 and len(set(c.controls)) == 18, c.name


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    small = ClinicConfig(consultations=60, single_turn=60, passages=60, cases=60)
    for name in ("a", "b"):
        write_clinic(tmp_path / name, small)
    write_clinic(tmp_path / "c", ClinicConfig(seed=1, consultations=60, single_turn=60, passages=60, cases=60))
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.jsonl"))
    assert len(files) == 18
    for file in files:
        assert filecmp.cmp(tmp_path / "a" / file, tmp_path / "b" / file, shallow=False)
        assert not filecmp.cmp(tmp_path / "a" / file, tmp_path / "c" / file, shallow=False)


def test_sizes_are_those_of_the_configuration(clinic: Path) -> None:
    config = ClinicConfig()
    sizes = {
        name: len(rows(clinic, "train", name))
        for name in ("sft_multi", "sft_single", "pretrain", "patient_cases", "nlp_tasks", "general")
    }
    assert list(sizes.values()) == [config.consultations, config.single_turn, config.passages, config.cases, 225, 225]
    assert len(rows(clinic, "valid", "sft_multi")) == config.consultations // 6
    assert len(rows(clinic, "train", "safety")) == 440 and len(rows(clinic, "valid", "safety")) >= 60
    assert len(rows(clinic, "valid", "safety_controls")) >= 60


def test_no_text_comes_twice_and_none_is_in_both_splits(clinic: Path) -> None:
    for name in (path.stem for path in (clinic / "train").glob("*.jsonl")):
        texts = [
            json.dumps({k: v for k, v in row.items() if k != "id"}, ensure_ascii=False)
            for split in ("train", "valid")
            for row in rows(clinic, split, name)
        ]
        assert len(set(texts)) == len(texts), name


def test_conditions_and_safety_questions_are_never_in_both_splits(clinic: Path) -> None:
    split = split_conditions(ClinicConfig().seed)
    assert (
        {c.department for c in split["valid"]} == set(DEPARTMENTS)
        and len(split["train"]) == 98
        and len(split["valid"]) == 14
    )
    unseen = {c.name for c in split["valid"]}
    assert {row["reference"]["diagnosis"] for row in rows(clinic, "valid", "patient_cases")} == unseen
    assert not {row["reference"]["diagnosis"] for row in rows(clinic, "train", "patient_cases")} & unseen
    for name in ("safety", "safety_controls"):
        prompts = {part: [row["prompt"] for row in rows(clinic, part, name)] for part in ("train", "valid")}
        asks = [
            ask
            for c in load_categories()
            for ask in (c.asks if name == "safety" else [question for question, _ in c.controls])
        ]
        where = {
            ask: {part for part, texts in prompts.items() if any(text.endswith(ask) for text in texts)} for ask in asks
        }
        assert all(len(parts) == 1 for parts in where.values())
        assert Counter(next(iter(parts)) for parts in where.values())["train"] in (220, 140)


def test_part_of_the_safety_questions_is_for_rollouts_alone(clinic: Path) -> None:
    for name, with_answer, without in (("safety", 240, 200), ("safety_controls", 240, 240)):
        train = rows(clinic, "train", name)
        assert sum(row["reference"] is not None for row in train) == with_answer
        assert sum(row["reference"] is None for row in train) == without
        assert all(row["reference"] for row in rows(clinic, "valid", name))
        hidden = {row["prompt"] for row in train if row["reference"] is None}
        assert hidden <= {prompt.opening for prompt in load_prompts(clinic, "train")}
        assert not hidden & {dialogue[0].content for dialogue in load_dialogues(clinic, "train")}


def test_every_set_loads(clinic: Path) -> None:
    for split in ("train", "valid"):
        assert (
            load_texts(clinic, split)
            and load_dialogues(clinic, split)
            and load_general(clinic, split)
            and load_prompts(clinic, split)
        )


def test_every_consultation_ends_in_an_emergency_or_after_three_or_four_turns_in_advice_behind_the_cue(
    clinic: Path,
) -> None:
    emergencies = 0
    for row in rows(clinic, "train", "sft_multi") + rows(clinic, "valid", "sft_multi"):
        doctor = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
        patient = [m["content"] for m in row["messages"] if m["role"] == "user"]
        referred = bool(row["red_flags"]) and refers_to_emergency(doctor[-1])
        emergencies += referred
        assert row["n_turns"] == len(doctor) and (referred or len(doctor) in (3, 4)) and len(doctor) <= 4
        assert all(DOCTOR_TURN[0] <= len(text) <= DOCTOR_TURN[1] for text in doctor), doctor
        assert advises(doctor[-1]) and not questions(doctor[-1]), doctor[-1]
        cues = [text.endswith(phrases.CUE) for text in patient]
        assert not any(cues[:-1]) and (cues[-1] or referred), patient
    assert emergencies > 50


def test_no_doctor_of_the_clinic_says_what_the_safety_gate_stops(clinic: Path) -> None:
    spoken = {
        m["content"] for row in rows(clinic, "train", "sft_multi") for m in row["messages"] if m["role"] == "assistant"
    }
    assert {text: reason for text in spoken if (reason := unsafe(text))} == {}


def test_doctors_differ_in_the_shares_that_leave_room_to_improve(clinic: Path) -> None:
    talks = rows(clinic, "train", "sft_multi")
    calm = [row["messages"][1]["content"] for row in talks if not row["red_flags"]]
    hurried = sum(not questions(text) for text in calm) / len(calm)
    lazy = sum(asks_openly(text) for text in calm) / len(calm)
    assert abs(hurried - STYLES["hurried"]) < 0.05 and abs(lazy - STYLES["lazy"]) < 0.05
    flagged = [row for row in talks if row["red_flags"]]
    assert 0.25 < len(flagged) / len(talks) < 0.35
    assert 0.3 < sum(refers_to_emergency(row["messages"][-1]["content"]) for row in flagged) / len(flagged) < 0.95


def test_a_good_doctor_sends_every_red_flag_to_emergency_care_in_the_turn_after_it_was_voiced() -> None:
    rng = random.Random(0)
    voiced = 0
    for condition in load_conditions():
        for _ in range(5):
            visit = draw_visit(condition, rng, flag_share=1.0)
            messages = Consultation(visit, "good", rng).hold()
            assert visit.red_flag is not None
            signs = [visit.red_flag.sign in m["content"] for m in messages if m["role"] == "user"]
            if any(signs):
                voiced += 1
                assert signs[-1] and sum(signs) == 1, messages  # the turn behind the sign is the last
                assert refers_to_emergency(messages[-1]["content"]), messages[-1]
    assert voiced > 300


@pytest.mark.parametrize("style", STYLES)
def test_the_scripted_patient_answers_a_consultation_as_its_patient_did(style: str) -> None:
    rng = random.Random(1)
    for condition in load_conditions():
        visit = draw_visit(condition, rng, flag_share=0.3)
        messages = Consultation(visit, style, rng).hold()
        case = Case.from_row({"id": condition.name} | case_row(visit), where="test")
        patient = ScriptedPatient()
        prompt = Prompt("p", "case", case.opening, case=case)
        cued = messages[-2]["content"].endswith(phrases.CUE)  # not where an emergency cuts the talk short
        opening = patient.reset(prompt, persona="平和", seed=0, max_turns=len(messages) // 2 + (not cued))
        assert opening == messages[0]["content"]
        talk = [message["content"] for message in messages[1:]]
        for doctor, words in zip(talk[::2], talk[1::2], strict=False):
            reply = patient.step(doctor)
            assert not reply.done, (doctor, words, reply)
            assert all(case.facts[i].answer.rstrip("。") in words for i in reply.revealed), (doctor, words, reply)
            assert reply.repeated == words.startswith(phrases.REPEATED), (doctor, words, reply)
            assert reply.text.endswith(phrases.CUE) == words.endswith(phrases.CUE)
        assert patient.step(talk[-1]).done, talk


def test_a_fourth_or_fifth_of_the_cases_has_a_red_flag_voiced_in_opening_or_other_signs(clinic: Path) -> None:
    cases = rows(clinic, "train", "patient_cases")
    flagged = [row for row in cases if row["red_flags"]]
    assert 0.18 < len(flagged) / len(cases) < 0.32
    signs = {flag.sign for c in load_conditions() for flag in c.red_flags}
    for row in cases:
        assert 5 <= len(row["facts"]) <= 8 and row["kind"] == "clinic" and row["source"] == "zj_clinic"
        texts = [fact["answer"] for fact in row["facts"] if fact["slot"] == "伴随"] + [row["opening"]]
        assert bool(row["red_flags"]) == any(sign in text for sign in signs for text in texts)


def test_asking_for_more_than_the_clinic_can_write_says_how_much_it_can(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="single_turn: [0-9]+ is about the most"):
        write_clinic(tmp_path, ClinicConfig(single_turn=9000, passages=60, consultations=60, cases=60))
