"""JSON Lines and the typed loading of a data folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from zj_ray.data.datasets import (
    load_dialogues,
    load_general,
    load_moments,
    load_prompts,
    load_texts,
)
from zj_ray.data.messages import Message
from zj_ray.errors import DataError
from zj_ray.files import read_jsonl, write_jsonl

TALK = [{"role": "user", "content": "咳嗽怎么办？"}, {"role": "assistant", "content": "咳了多久了？"}]


def folder(tmp_path: Path, **sets: list[dict]) -> Path:
    for name, rows in sets.items():
        write_jsonl(tmp_path / "train" / f"{name}.jsonl", rows)
    return tmp_path


def test_rows_come_back_as_they_were_written_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "a" / "x.jsonl"
    assert write_jsonl(path, [{"id": "1", "text": "您好"}, {"id": "2"}]) == 2
    assert path.read_bytes() == '{"id": "1", "text": "您好"}\n{"id": "2"}\n'.encode()
    assert list(read_jsonl(path)) == [(f"{path}:1", {"id": "1", "text": "您好"}), (f"{path}:2", {"id": "2"})]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [{"id": "old"}])

    def rows():
        yield {"id": "new"}
        raise RuntimeError("full disk")

    with pytest.raises(RuntimeError):
        write_jsonl(path, rows())
    assert [row["id"] for _, row in read_jsonl(path)] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"id": 1}\n{"id": \n', "not JSON"),
        (b'{"id": 1}\n[1, 2]\n', "a list, not an object"),
        (b'{"id": 1}\n\xff\xfe\n', "not UTF-8"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_jsonl(path))
    assert caught.value.where == f"{path}:2" and fault in caught.value.what and caught.value.remedy


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data file"):
        list(read_jsonl(tmp_path / "none.jsonl"))


def test_dialogues_come_from_every_set_that_is_there_and_from_trusted_safety_answers(tmp_path: Path) -> None:
    safety = [
        {"id": f"s{quality}", "prompt": "自己加量行吗？", "reference": f"不行，{quality}", "reference_quality": quality}
        for quality in ("unchecked", "doubtful", "wrong")
    ]
    safety.append({"id": "open", "prompt": "自己停药行吗？", "reference": None, "reference_quality": "unchecked"})
    controls = [{"id": "c", "prompt": "叶酸有什么用？", "reference": "有助于神经管发育。"}]
    root = folder(
        tmp_path,
        sft_multi=[{"id": "m", "messages": TALK}],
        general=[{"id": "g", "messages": TALK}],
        safety=safety,
        safety_controls=controls,
    )
    dialogues = load_dialogues(root, "train")
    assert len(dialogues) == 4
    assert dialogues[2] == (Message("user", "自己加量行吗？"), Message("assistant", "不行，unchecked"))
    assert len(load_general(root, "train")) == 1


def test_moments_are_where_the_doctor_speaks_again_and_know_the_right_kind_of_answer(tmp_path: Path) -> None:
    long = [*TALK, {"role": "user", "content": "还是想试试。"}, {"role": "assistant", "content": "还是不行。"}]
    root = folder(
        tmp_path,
        sft_multi=[{"id": "m", "messages": long}],
        sft_single=[{"id": "s", "messages": TALK}],
        safety_multi=[{"id": "x", "messages": long, "expected": "refuse_and_refer"}],
    )
    moments = load_moments(root, "train")
    assert [(m.talk, m.cut, m.expected) for m in moments] == [("m", 3, None), ("x", 3, "refuse_and_refer")]
    assert all([m.content for m in moment.dialogue] == [m["content"] for m in long] for moment in moments)


def test_validation_dialogues_leave_safety_answers_out(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "valid" / "sft_single.jsonl", [{"id": "1", "messages": TALK}])
    write_jsonl(
        tmp_path / "valid" / "safety.jsonl",
        [{"id": "2", "prompt": "问", "reference": "答", "reference_quality": "unchecked"}],
    )
    assert len(load_dialogues(tmp_path, "valid")) == 1


def test_a_folder_without_any_of_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the files"):
        load_dialogues(tmp_path, "train")
    with pytest.raises(DataError, match="no split"):
        load_texts(tmp_path, "test")


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"id": "2", "messages": TALK[::-1]}, "must speak"),
        ({"id": "2", "messages": TALK[:1]}, "last message"),
        ({"id": "2", "messages": [TALK[0], {"role": "assistant", "content": " "}]}, "is empty"),
        ({"id": "1", "messages": TALK}, "already at"),
        ({"messages": TALK}, "lacks 'id'"),
        ({"id": "2"}, "neither 'messages' nor 'prompt'"),
    ],
)
def test_a_faulty_dialogue_is_named_by_file_and_line(tmp_path: Path, row: dict, fault: str) -> None:
    root = folder(tmp_path, sft_multi=[{"id": "1", "messages": TALK}, row])
    with pytest.raises(DataError, match=fault) as caught:
        load_dialogues(root, "train")
    assert caught.value.where.endswith("sft_multi.jsonl:2")


def test_prompts_are_cases_safety_prompts_and_controls(tmp_path: Path) -> None:
    case = {
        "id": "p",
        "opening": "我头痛",
        "facts": [{"slot": "起病", "ask": None, "answer": "昨天"}],
        "department": "内科",
        "red_flags": ["卒中"],
    }
    safety = {"id": "s", "prompt": "自己加量行吗？", "expected": "no_self_medication", "category": "dose"}
    control = {"id": "c", "prompt": "叶酸有什么用？", "expected": "answer_helpfully"}
    prompts = load_prompts(folder(tmp_path, patient_cases=[case], safety=[safety], safety_controls=[control]), "train")
    assert [(p.id, p.kind, p.expected) for p in prompts] == [
        ("p", "case", None), ("s", "safety", "no_self_medication"), ("c", "control", "answer_helpfully"),
    ]  # fmt: skip
    assert prompts[0].case is not None and prompts[0].case.facts[0].answer == "昨天"


@pytest.mark.parametrize(
    ("sets", "fault"),
    [
        ({"safety": [{"id": "s", "prompt": "问", "expected": "refuse"}]}, "unknown value 'refuse'"),
        ({"patient_cases": [{"id": "p", "opening": "痛", "facts": None}]}, "must be a list"),
        ({"patient_cases": [{"id": "p", "opening": "痛", "facts": [{"slot": "起病", "answer": ""}]}]}, "no answer"),
    ],
)
def test_a_faulty_prompt_is_named_by_file_and_line(tmp_path: Path, sets: dict, fault: str) -> None:
    with pytest.raises(DataError, match=fault) as caught:
        load_prompts(folder(tmp_path, **sets), "train")
    assert caught.value.where.endswith(".jsonl:1")


@pytest.mark.realdata
def test_the_real_data_loads_without_a_fault(real_data: Path) -> None:
    for split in ("train", "valid"):
        sizes = [len(load(real_data, split)) for load in (load_texts, load_dialogues, load_general, load_prompts)]
        files = {
            path.stem: len(path.read_text(encoding="utf-8").splitlines())
            for path in (real_data / split).glob("*.jsonl")
        }
        assert sizes[0] == files["pretrain"] and sizes[2] == files["general"]
        assert sizes[3] == files["patient_cases"] + files["safety"] + files["safety_controls"]
