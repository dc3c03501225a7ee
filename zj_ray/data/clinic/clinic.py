"""Writes the clinic's data folder: every set of docs/data.md but `ranking`, which annotators make.

Validation shares no condition and no safety question with training: seven of a department's eight conditions are for
training, one is kept back. The same configuration writes the same bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zj_ray.config.schema import ClinicConfig
from zj_ray.data.clinic.cases import case_row, draw_visit
from zj_ray.data.clinic.consultations import FLAG_SHARE, consultation_row
from zj_ray.data.clinic.passages import passage_row
from zj_ray.data.clinic.questions import question_rows
from zj_ray.data.clinic.safety import Category, control_rows, load_categories, persistent_rows, safety_rows
from zj_ray.data.clinic.smalltalk import smalltalk_pairs
from zj_ray.data.clinic.tasks import task_row
from zj_ray.errors import DataError
from zj_ray.files import write_jsonl
from zj_ray.language.conditions import Condition, load_conditions

SOURCE = "zj_clinic"
CASE_FLAG_SHARE = 0.25  # patient cases with a red flag
VALID_PART = 6  # validation has a sixth of training's rows
TRIES = 200  # draws for one row that differs from all before

Row = dict[str, Any]


def write_clinic(folder: Path, config: ClinicConfig) -> dict[str, int]:
    """Write train/ and valid/ under `folder`; returns rows by "split/set".

    Raises DataError when the configuration asks for more different rows than the clinic's texts can make.
    """
    counts = {}
    for split, conditions in split_conditions(config.seed).items():
        for name, rows in _sets(conditions, split, config).items():
            numbered = ({"id": f"zc-{name}-{split}-{i:05d}", **row, "source": SOURCE} for i, row in enumerate(rows))
            counts[f"{split}/{name}"] = write_jsonl(Path(folder) / split / f"{name}.jsonl", numbered)
    return counts


def split_conditions(seed: int) -> dict[str, list[Condition]]:
    """The conditions for training and, one of each department, for validation."""
    rng = random.Random(f"{seed}/split")
    departments: dict[str, list[Condition]] = {}
    for condition in load_conditions():
        departments.setdefault(condition.department, []).append(condition)
    valid = [rng.choice(conditions) for conditions in departments.values()]
    return {"train": [c for c in load_conditions() if c not in valid], "valid": valid}


def _sets(conditions: Sequence[Condition], split: str, config: ClinicConfig) -> dict[str, list[Row]]:
    """The rows of every set of a split; each set has a random source of its own, so that its size changes no other."""

    def size(rows: int) -> int:
        return rows if split == "train" else max(1, rows // VALID_PART)

    def source(name: str) -> random.Random:
        return random.Random(f"{config.seed}/{split}/{name}")

    def draw(name: str, rows: int, make: Callable[[Condition, random.Random], Row], key: str) -> list[Row]:
        return _draw(name, size(rows), conditions=conditions, make=make, key=key, rng=source(name))

    def in_every_category(rows_of: Callable[[Category, str, int], list[Row]]) -> list[Row]:
        return [row for category in load_categories() for row in rows_of(category, split, config.seed)]

    return {
        "pretrain": draw("passages", config.passages, passage_row, "text"),
        "sft_multi": draw("consultations", config.consultations, _consultation, "messages"),
        "sft_single": _single_turn(conditions, size(config.single_turn), source("single_turn")),
        "nlp_tasks": draw("single_turn (a quarter of it are tasks)", config.single_turn // 4, task_row, "messages"),
        "general": _general(split, config),
        "safety": in_every_category(safety_rows),
        "safety_controls": in_every_category(control_rows),
        "safety_multi": in_every_category(persistent_rows),
        "patient_cases": draw("cases", config.cases, _case, "opening facts"),
    }


def _consultation(condition: Condition, rng: random.Random) -> Row:
    return consultation_row(draw_visit(condition, rng, flag_share=FLAG_SHARE), rng)


def _case(condition: Condition, rng: random.Random) -> Row:
    return case_row(draw_visit(condition, rng, flag_share=CASE_FLAG_SHARE))


def _draw(
    name: str,
    count: int,
    *,
    conditions: Sequence[Condition],
    make: Callable[[Condition, random.Random], Row],
    key: str,
    rng: random.Random,
) -> list[Row]:
    """As many rows that differ in the fields `key`, the conditions in turn."""
    rows: list[Row] = []
    texts: set[str] = set()
    order: list[Condition] = []
    while len(rows) < count:
        order = order or rng.sample(conditions, len(conditions))
        condition = order.pop()
        for _ in range(TRIES):
            row = make(condition, rng)
            text = repr([row[field] for field in key.split()])
            if text not in texts:
                texts.add(text)
                rows.append(row)
                break
        else:
            raise _too_many(name, len(rows))
    return rows


def _single_turn(conditions: Sequence[Condition], count: int, rng: random.Random) -> list[Row]:
    pool = {row["messages"][0]["content"]: row for condition in conditions for row in question_rows(condition)}
    if count > len(pool):
        raise _too_many("single_turn", len(pool))
    return rng.sample(list(pool.values()), count)


def _general(split: str, config: ClinicConfig) -> list[Row]:
    """General talk. Training takes from the front, validation what follows: no pair is in both."""
    train = max(1, config.single_turn // 4)
    valid = max(1, train // VALID_PART)
    pairs = smalltalk_pairs(random.Random(f"{config.seed}/general"))
    if train + valid > len(pairs):
        raise _too_many("single_turn (a quarter of it is general talk)", 4 * (len(pairs) - valid))
    part = pairs[:train] if split == "train" else pairs[train : train + valid]
    return [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in part
    ]


def _too_many(name: str, most: int) -> DataError:
    return DataError(
        f"the clinic cannot write so many different {name}: {most} is about the most",
        where="data.clinic",
        remedy="lower it, or use data.source: files",
    )
