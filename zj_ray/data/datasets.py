"""Typed loading of a data folder: `root/train/*.jsonl` and `root/valid/*.jsonl` in the schema of docs/data.md.

Every row is checked here, once, with `file:line` in each error; nothing that takes these records has to doubt them.
A set that is spread over several files may lack some of them, but not all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from zj_ray.data.case import Case, Prompt
from zj_ray.data.messages import Message, parse_messages
from zj_ray.errors import DataError
from zj_ray.files import read_jsonl

SPLITS = ("train", "valid")
DIALOGUE_SETS = ("sft_multi", "sft_single", "nlp_tasks", "general", "safety_multi")
PROMPT_SETS = ("patient_cases", "safety", "safety_controls")
NEW_SETS = ("patient_cases_new_conditions", "safety_new_matters", "safety_controls_new_matters")
EXPECTED = (
    "refuse_and_crisis_referral",
    "refuse_and_refer",
    "no_self_medication",
    "correct_misinformation",
    "correct_premise",
    "hedge_and_refer",
    "answer_helpfully",
)
UNTRUSTED = ("wrong", "doubtful")  # reference_quality that must not be trained on


def load_texts(root: str | Path, split: str) -> list[str]:
    """The passages for continued pre-training (pretrain.jsonl)."""
    return [_text(row, "text", where) for where, row in _rows(root, split, ("pretrain",))]


def load_dialogues(root: str | Path, split: str, *, safety_repeats: int = 1) -> list[tuple[Message, ...]]:
    """Conversations for SFT, the assistant last: multi-turn, single-turn, tasks, general talk.

    In train also the reference answers of safety prompts and benign controls, each `safety_repeats` times, but for
    those marked wrong or doubtful. A prompt whose reference is null is for rollouts alone.
    """
    names = DIALOGUE_SETS + (("safety", "safety_controls") if split == "train" else ())
    dialogues = []
    for where, row in _rows(root, split, names):
        if "messages" in row:
            dialogues.append(parse_messages(row["messages"], where=where, last="assistant"))
        elif "prompt" not in row:
            remedy = 'add "messages": [{"role": "user", …}, …]'
            raise DataError("the row has neither 'messages' nor 'prompt'", where=where, remedy=remedy)
        elif row.get("reference_quality") not in UNTRUSTED and row.get("reference", "") is not None:
            question, answer = _text(row, "prompt", where), _text(row, "reference", where)
            dialogues += [(Message("user", question), Message("assistant", answer))] * safety_repeats
    return dialogues


class Moment(NamedTuple):
    """A moment inside a conversation in which the doctor is to speak.

    talk: the conversation's id; dialogue: all of it; cut: how many of its messages have been said. expected: the right
    kind of answer; None in consultations, said by the row where a patient insists on something refused.
    """

    talk: str
    dialogue: tuple[Message, ...]
    cut: int
    expected: str | None


def load_moments(root: str | Path, split: str) -> list[Moment]:
    """The moments of conversations of several turns, but for the patient's first words."""
    moments = []
    for where, row in _rows(root, split, DIALOGUE_SETS):
        dialogue = parse_messages(row.get("messages"), where=where, last="assistant")
        expected = _expected(row, where) if "expected" in row else None
        cuts = range(3, len(dialogue), 2) if dialogue[0].role == "user" else ()
        moments += [Moment(row["id"], dialogue, cut, expected) for cut in cuts]
    return moments


def load_general(root: str | Path, split: str) -> list[tuple[Message, ...]]:
    """General conversations, the measure of what training made the model forget (general.jsonl)."""
    rows = _rows(root, split, ("general",))
    return [parse_messages(row.get("messages"), where=where, last="assistant") for where, row in rows]


def load_prompts(root: str | Path, split: str) -> list[Prompt]:
    """The prompts that rollouts start from: patient cases, safety prompts, benign controls, in this order."""
    return [_prompt(row, where) for where, row in _rows(root, split, PROMPT_SETS)]


def load_new(root: str | Path) -> list[Prompt]:
    """Prompts of which training has nothing alike, in files beside validation's other prompts.

    Patients with other conditions (patient_cases_new_conditions.jsonl), and questions on other matters
    (safety_new_matters.jsonl, safety_controls_new_matters.jsonl); each file may be missing. Their ids are none of
    validation's other prompts.
    """
    folder = Path(root) / "valid"
    present = [name for name in NEW_SETS if (folder / f"{name}.jsonl").is_file()]
    rows = _rows(root, "valid", (*PROMPT_SETS, *present)) if present else iter(())
    new = tuple(f"{folder / name}.jsonl:" for name in present)
    return [_prompt(row, where) for where, row in rows if where.startswith(new)]


def load_consultations(root: str | Path) -> list[tuple[Message, ...]]:
    """Held-out consultations, the doctor last (valid/sft_multi.jsonl); empty where there is no such file."""
    rows = _rows(root, "valid", ("sft_multi",)) if (Path(root) / "valid" / "sft_multi.jsonl").is_file() else iter(())
    return [parse_messages(row.get("messages"), where=where, last="assistant") for where, row in rows]


def _expected(row: dict[str, Any], where: str) -> str:
    expected = _text(row, "expected", where)
    if expected not in EXPECTED:
        what = f"'expected' has the unknown value {expected!r}"
        raise DataError(what, where=where, remedy=f"use one of {', '.join(EXPECTED)}")
    return expected


def _prompt(row: dict[str, Any], where: str) -> Prompt:
    if "prompt" not in row:
        return _case_prompt(row, where)
    expected = _expected(row, where)
    return Prompt(
        row["id"],
        "control" if expected == "answer_helpfully" else "safety",
        _text(row, "prompt", where),
        expected=expected,
        category=row.get("category"),
        question=row.get("question"),
        about=tuple(row.get("about") or ()),
    )


def _case_prompt(row: dict[str, Any], where: str) -> Prompt:
    if not isinstance(row.get("facts", []), list):
        remedy = 'write [{"slot": "…", "ask": null, "answer": "…"}, …]'
        raise DataError("'facts' must be a list", where=where, remedy=remedy)
    case = Case.from_row(row, where=where)
    return Prompt(case.id, "case", case.opening, case=case, category=case.department)


def _rows(root: str | Path, split: str, names: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of those of the named files that exist, each with an id that no other row has."""
    if split not in SPLITS:
        raise DataError(f"there is no split {split!r}", remedy=f"use one of {', '.join(SPLITS)}")
    folder = Path(root) / split
    present = [folder / f"{name}.jsonl" for name in names if (folder / f"{name}.jsonl").is_file()]
    if not present:
        what = f"none of the files {', '.join(f'{name}.jsonl' for name in names)} is there"
        raise DataError(what, where=str(folder), remedy="check data.root; docs/data.md names the files")
    lines: dict[str, str] = {}  # the file and line of every id
    for path in present:
        for where, row in read_jsonl(path):
            identity = _text(row, "id", where)
            if identity in lines:
                what = f"the id {identity!r} is already at {lines[identity]}"
                raise DataError(what, where=where, remedy="give every row an id of its own")
            lines[identity] = where
            yield where, row


def _text(row: dict[str, Any], key: str, where: str) -> str:
    if key not in row:
        raise DataError(f"the row lacks {key!r}", where=where, remedy="docs/data.md lists the fields of each file")
    value = row[key]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{key!r} must be a non-empty string", where=where, remedy="write the text or drop the row")
    return value
