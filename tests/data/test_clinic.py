"""The synthetic clinic: its texts, and the data it writes."""

from __future__ import annotations

import filecmp
import json
import random
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from zj_ray.config.schema import ClinicConfig
from zj_ray.data.case import Case, Prompt
from zj_ray.data.clinic import write_clinic
from zj_ray.data.clinic.cases import case_row, draw_visit
from zj_ray.data.clinic.clinic import Patients, Written, split_conditions
from zj_ray.data.clinic.consultations import DOCTOR_TURN, STYLES, Consultation
from zj_ray.data.clinic.frames import load_frames
from zj_ray.data.clinic.safety import FRAMED, INVENTED, load_categories
from zj_ray.data.clinic.wordings import word, wordings
from zj_ray.data.datasets import (
    EXPECTED,
    load_dialogues,
    load_general,
    load_new,
    load_prompts,
    load_texts,
)
from zj_ray.errors import DataError
from zj_ray.language import phrases
from zj_ray.language.conditions import DEPARTMENTS, load_conditions
from zj_ray.language.diagnoses import cannot_tell
from zj_ray.language.reading import advises, asked_slots, asks_openly, questions, refers_to_emergency
from zj_ray.language.red_flags import RED_FLAG_PATTERNS, voiced_labels
from zj_ray.patients.scripted import ScriptedPatient
from zj_ray.rules.safety import judge, unsafe

DEMO = ClinicConfig(conditions=2, single_turn=600)  # as in configs/demo.yaml


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clinic")
    started = time.process_time()
    write_clinic(folder, ClinicConfig())
    assert time.process_time() - started < 10
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Written]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, write_clinic(folder, DEMO)


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
            and len(c.red_flags) >= 2
            and len(c.education) == 2
        ), c.name
        assert all(len(alternatives) == 3 for alternatives in c.facts.values()) and len(c.facts) >= 8, c.name
        assert all(flag.label in RED_FLAG_PATTERNS for flag in c.red_flags), c.name
        assert not any(c.name in complaint for complaint in c.complaints), c.name


def test_every_complaint_and_fact_has_many_wordings() -> None:
    taught = split_conditions(seed=0, known=2).known
    for c in load_conditions():
        openings = set().union(*map(wordings, c.openings))
        assert len(openings) >= 12, c.name
        assert not [text for text in openings if set(text) & set("()|") or c.name in text], c.name
        if c in taught:
            assert len(openings) >= 150 and len(c.red_flags) >= 3, c.name
            assert not [slot for slot, a in c.facts.items() if len(set().union(*map(wordings, a))) < 6], c.name


def test_a_pattern_stands_for_its_texts_and_for_nothing_else() -> None:
    texts = wordings("(这两天|昨天起)头痛，没有发烧")
    assert len(texts) == 12 and {"这两天头疼，不发烧", "昨天起头痛，没发烧"} <= texts
    rng = random.Random(0)
    assert {word("(这两天|昨天起)头痛，没有发烧", rng) for _ in range(300)} == texts
    assert wordings("来月经就痛经，止疼药也不管用") == {"来月经就痛经，止疼药也不管用"}  # names stay as they are


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
        assert len(set(c.asks)) == 30 and len(set(c.answers)) == 6 and len(set(c.controls)) == 24, c.name
    assert len({ask for c in categories for ask in c.asks}) == 300
    assert len({ask for c in categories for ask, _ in c.controls}) == 240


def alike(first: str, second: str) -> float:
    """The share of character pairs that two questions have in common."""
    texts = (first.rstrip("？。"), second.rstrip("？。"))
    one, other = ({text[i : i + 2] for i in range(len(text) - 1)} for text in texts)
    return len(one & other) / len(one | other)


def test_no_safety_question_is_another_in_other_words() -> None:
    assert alike("止痛药饭前吃还是饭后吃比较好？", "止痛药是饭前吃还是饭后吃好？") > 0.5
    for c in load_categories():
        for asks in (c.asks, [ask for ask, _ in c.controls]):
            pairs = [(alike(a, b), a, b) for i, a in enumerate(asks) for b in asks[:i]]
            assert max(pairs)[0] < 0.45, max(pairs)


def test_every_answer_fits_its_own_question_and_hardly_any_of_another_kind() -> None:
    rng = random.Random(0)
    asks = [(c.name, c.expected, ask) for c in load_categories() for ask in c.asks]
    controls = [(c.name, "answer_helpfully", ask) for c in load_categories() for ask, _ in c.controls]
    elsewhere = []
    for c in load_categories():
        for pairs, expected, others in ((c.requests, c.expected, asks), (c.controls, "answer_helpfully", controls)):
            strangers = [other for other in others if other[0] != c.name]
            for ask, answer in pairs:
                assert judge(answer, expected, ask).passed, (ask, answer)
                elsewhere += [judge(answer, kind, prompt).passed for _, kind, prompt in rng.sample(strangers, 8)]
    assert sum(elsewhere) / len(elsewhere) < 0.05


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    small = ClinicConfig(consultations=60, single_turn=60, passages=60, cases=60)
    for name in ("a", "b"):
        write_clinic(tmp_path / name, small)
    write_clinic(tmp_path / "c", ClinicConfig(seed=1, consultations=60, single_turn=60, passages=60, cases=60))
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.jsonl"))
    assert len(files) == 21
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
    assert (
        len(rows(clinic, "valid", "patient_cases")) == 66
        and len(rows(clinic, "valid", "patient_cases_new_conditions")) == 33
    )
    for name, kind, single in (("safety", "asks", 200), ("safety_controls", "controls", 140)):
        frames = [frame for c in load_categories() for frame in load_frames(c.name, kind)]
        named = sum(bool(frame.invented(1, random.Random(0))) for frame in frames)
        assert named > len(frames) / 3
        framed = (FRAMED["answered"] + FRAMED["unanswered"]) * len(frames)
        assert len(rows(clinic, "train", name)) == single + framed + sum(INVENTED.values()) * named
        assert len(rows(clinic, "valid", name)) == 3 * len(frames) >= 100
        assert len(rows(clinic, "valid", f"{name}_new_matters")) == 100
    assert Counter(prompt.kind for prompt in load_new(clinic)) == {"case": 33, "safety": 100, "control": 100}


def test_no_text_comes_twice_and_none_is_in_both_splits(clinic: Path) -> None:
    for name in (path.stem for path in (clinic / "train").glob("*.jsonl")):
        texts = [
            json.dumps({k: v for k, v in row.items() if k != "id"}, ensure_ascii=False)
            for split in ("train", "valid")
            for row in rows(clinic, split, name)
        ]
        assert len(set(texts)) == len(texts), name


@pytest.mark.parametrize(("known", "taught"), [(None, 98), (2, 28), (7, 98)])
def test_new_conditions_are_one_of_each_department_and_never_taught(known: int | None, taught: int) -> None:
    for seed in range(5):
        train, new, others = split_conditions(seed, known)
        assert len(train) == taught and len(new) == 14 and {c.department for c in new} == set(DEPARTMENTS)
        assert sorted(c.name for c in (*train, *new, *others)) == sorted(c.name for c in load_conditions())
    assert "偏头痛" in {c.name for c in split_conditions(0, 2).known}  # what the demo's endpoint is asked about


def test_validation_has_other_patients_of_the_conditions_that_were_taught(demo: tuple[Path, Written]) -> None:
    folder, written = demo
    train, new, others = split_conditions(DEMO.seed, DEMO.conditions)

    def patients(prompts: list[Prompt]) -> set[tuple[str, ...]]:
        return {(p.opening, *sorted(fact.answer for fact in p.case.facts)) for p in prompts if p.case is not None}

    taught, unseen = (patients(load_prompts(folder, split)) for split in ("train", "valid"))
    assert len(taught) == DEMO.cases and len(unseen) == DEMO.cases // 6 and not taught & unseen
    for split in ("train", "valid"):
        named = {row["reference"]["diagnosis"] for row in rows(folder, split, "patient_cases")}
        strangers = named - {c.name for c in train}
        assert named >= {c.name for c in train} and strangers <= {c.name for c in others if split == "train"}
        for name in ("sft_multi", "sft_single", "nlp_tasks", "pretrain"):
            said = (folder / split / f"{name}.jsonl").read_text(encoding="utf-8")
            assert not [c.name for c in new if c.name in said], name
    second = load_new(folder)
    assert {p.case.reference["diagnosis"] for p in second if p.case is not None} == {c.name for c in new}
    ids = [p.id for p in (*second, *load_prompts(folder, "valid"), *load_prompts(folder, "train"))]
    assert len(set(ids)) == len(ids)
    assert load_new(folder / "train") == []
    first = {row["messages"][0]["content"] for row in rows(folder, "train", "sft_multi")}
    first |= {row["opening"] for row in rows(folder, "train", "patient_cases")}
    seen = [row["opening"] in first for row in rows(folder, "valid", "patient_cases")]
    assert written.seen_openings == sum(seen) / len(seen)
    assert written.seen_complaints < 0.2 and f"{written.seen_complaints:.0%} with a complaint" in str(written)


def test_a_complaint_that_was_taught_word_for_word_is_seen() -> None:
    clinic, condition = Patients(), load_conditions()[0]
    for place in ("train/patient_cases", "train/sft_multi", "valid/patient_cases"):
        clinic.draw(place, condition, random.Random(place), 0.0)
    (told,) = clinic.visits["train/sft_multi"]
    clinic.visits["valid/patient_cases"].append(replace(told, opening="再说一遍。"))
    assert clinic.seen("complaint") >= 0.5 and clinic.seen("opening") < 1


def test_nobody_comes_to_the_clinic_twice() -> None:
    clinic, condition = Patients(), load_conditions()[0]
    one, other = (clinic.draw("train/sft_multi", condition, random.Random(7), 0.0) for _ in range(2))
    assert one.opening != other.opening or set(one.facts) != set(other.facts)


def test_safety_questions_are_never_in_both_splits(clinic: Path) -> None:
    for name, single in (("safety", "asks"), ("safety_controls", "controls")):
        train, known, new = (
            rows(clinic, split, file)
            for split, file in (("train", name), ("valid", name), ("valid", f"{name}_new_matters"))
        )
        taught = {row["question"] for row in train}
        assert not taught & {row["question"] for row in (*known, *new)}
        # A known matter is about something else than in training, and its answer says so.
        assert not {row["reference"] for row in train} & {row["reference"] for row in known}
        assert all(row["about"] and all(thing in row["reference"] for thing in row["about"]) for row in known)
        # A new one is a question of its own.
        texts = {c.name: dict(c.requests if single == "asks" else c.controls) for c in load_categories()}
        assert all(row["question"] in texts[row["category"]] and not row["about"] for row in new)


def test_answers_to_known_matters_are_right_and_name_what_was_asked() -> None:
    for c in load_categories():
        for kind, expected in (("asks", c.expected), ("controls", "answer_helpfully")):
            for frame in load_frames(c.name, kind):
                pairs = frame.pairs(random.Random(0))
                assert len({pair.answer for pair in pairs}) == len(pairs) >= sum(FRAMED.values()), frame
                for pair in pairs[:40]:
                    assert judge(pair.answer, expected, pair.question).passed, pair
                    assert len(pair.answer) <= DOCTOR_TURN[1] and pair.about, pair


def test_invented_names_stand_in_question_and_answer_and_never_in_validation(clinic: Path) -> None:
    drug = next(frame for frame in load_frames("overdose_dose", "asks") if "混着吃" in frame.question)
    for pair in drug.invented(50, random.Random(0)):
        (name,) = pair.about
        assert name in pair.question and name in pair.answer and name not in drug.things["drug"]
        assert judge(pair.answer, "no_self_medication", pair.question).passed, pair
    course = load_frames("stop_medication", "asks")[0].invented(1, random.Random(0))[0]
    assert len(course.about) == 2  # the disease is a real one, with its department; the medicine is not
    kinds = ("asks", "controls")
    for name in ("safety", "safety_controls"):
        frames = [frame for c in load_categories() for kind in kinds for frame in load_frames(c.name, kind)]
        known = {thing for frame in frames for pair in frame.pairs(random.Random(0)) for thing in pair.about}
        assert all(set(row["about"]) <= known for row in rows(clinic, "valid", name))


def test_a_frame_without_answer_or_pool_says_where(tmp_path: Path) -> None:
    for number, frame in enumerate(("{q: 一}", "{q: '{thing}', a: 二}")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(f"pools: {{}}\nframes: {{x: {{asks: [{frame}]}}}}\n", encoding="utf-8")
        with pytest.raises(DataError, match=f"{number}.yaml, x, asks 1: the frame lacks '{('a', 'thing')[number]}'"):
            load_frames("x", "asks", path)


def test_part_of_the_safety_questions_is_for_rollouts_alone(clinic: Path) -> None:
    for name in ("safety", "safety_controls"):
        train = rows(clinic, "train", name)
        assert 0.2 < sum(row["reference"] is None for row in train) / len(train) < 0.35
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


def test_no_doctor_of_the_clinic_says_what_the_safety_gate_stops(clinic: Path, demo: tuple[Path, Written]) -> None:
    talks = rows(clinic, "train", "sft_multi") + rows(demo[0], "train", "sft_multi")
    spoken = {m["content"] for row in talks for m in row["messages"] if m["role"] == "assistant"}
    spoken |= {f"您好，考虑是{c.name}，{advice}" for c in load_conditions() for advice in c.advice}
    spoken |= {f"这种情况不能等，{flag.action}" for c in load_conditions() for flag in c.red_flags}
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


def test_doctors_do_not_name_what_they_do_not_know() -> None:
    rng = random.Random(0)
    for condition in load_conditions():
        for style in ("good", "lazy"):
            messages = Consultation(draw_visit(condition, rng, flag_share=0.0), style, rng, stranger=True).hold()
            doctor = [m["content"] for m in messages if m["role"] == "assistant"]
            assert not any(condition.name in text for text in doctor) and cannot_tell(doctor[-1]), doctor


def test_strangers_are_a_share_of_training_that_validation_has_not(demo: tuple[Path, Written]) -> None:
    known = {c.name for c in split_conditions(DEMO.seed, DEMO.conditions).known}
    cases = {part: rows(demo[0], part, "patient_cases") for part in ("train", "valid")}
    strange = {
        part: sum(row["reference"]["diagnosis"] not in known for row in part_cases) / len(part_cases)
        for part, part_cases in cases.items()
    }
    assert abs(strange["train"] - DEMO.strangers) < 0.06 and strange["valid"] == 0


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
