"""Writes the clinic's data folder: every set of docs/data.md but `ranking`, which annotators make.

Validation has other patients than training, of the same conditions, and a second set of cases whose conditions training
has not; and so with questions on safety. The same configuration writes the same bytes.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from zj_ray.config.schema import ClinicConfig
from zj_ray.data.clinic.cases import Visit, case_row, draw_visit
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
SPLITS = ("train", "valid")
NEW_CONDITIONS = "patient_cases_new_conditions"  # validation's second set of cases
NEW_MATTERS = "_new_matters"  # behind the name of a set: validation's second one of questions
CASE_FLAG_SHARE = 0.25  # patient cases with a red flag
VALID_PART = 6  # validation has a sixth of training's rows
NEW_PART = 2  # validation's second set has half as many cases as its first
TRIES = 200  # draws for one row that differs from all before

Row = dict[str, Any]
CATEGORY_SETS: dict[str, Callable[[Category, str, int], list[Row]]] = {
    "safety": safety_rows,
    "safety_controls": control_rows,
    "safety_multi": persistent_rows,
}


@dataclass(frozen=True)
class Written:
    """What `write_clinic` wrote.

    rows: their number by "split/set". seen_complaints: share of validation's cases whose complaint, without greeting
    and age, some patient of training words just so. seen_openings: the same of all that the patient says first.
    """

    rows: dict[str, int]
    seen_complaints: float
    seen_openings: float

    def __str__(self) -> str:
        seen = f"{self.seen_complaints:.0%} with a complaint that training has word for word"
        return f"{sum(self.rows.values())} rows; of validation's patients {seen}, {self.seen_openings:.0%} the opening"


def write_clinic(folder: Path, config: ClinicConfig) -> Written:
    """Write train/ and valid/ under `folder`.

    Raises DataError when the configuration asks for more different rows than the clinic's texts can make.
    """
    patients = Patients()
    counts = {}
    for place, rows in _sets(config, patients).items():
        split, name = place.split("/")
        numbered = ({"id": f"zc-{name}-{split}-{i:05d}", **row, "source": SOURCE} for i, row in enumerate(rows))
        counts[place] = write_jsonl(Path(folder) / f"{place}.jsonl", numbered)
    complaint, opening = (patients.seen(attribute) for attribute in ("complaint", "opening"))
    return Written(counts, complaint, opening)


class Conditions(NamedTuple):
    """Who comes to the clinic. known: what training is about, and validation's first set of cases.

    new: of validation's second set alone, one of each department. others: what training's doctors meet and can't name.
    """

    known: list[Condition]
    new: list[Condition]
    others: list[Condition]


def split_conditions(seed: int, known: int | None) -> Conditions:
    """known: how many conditions of a department are known, the first of its file; None: all but the new one."""
    rng = random.Random(f"{seed}/split")
    departments: dict[str, list[Condition]] = {}
    for condition in load_conditions():
        departments.setdefault(condition.department, []).append(condition)
    new = [rng.choice(conditions[known or 0 :]) for conditions in departments.values()]
    taught = [[condition for condition in conditions if condition not in new] for conditions in departments.values()]
    first = [conditions[: known or len(conditions)] for conditions in taught]
    rest = [conditions[known or len(conditions) :] for conditions in taught]
    return Conditions([c for some in first for c in some], new, [c for some in rest for c in some])


@dataclass
class Patients:
    """Everybody who comes to the clinic. Nobody comes twice: no two have the same opening and facts."""

    visits: dict[str, list[Visit]] = field(default_factory=dict)  # by "split/set"
    _known: set[tuple[str, ...]] = field(default_factory=set)

    def draw(self, place: str, condition: Condition, rng: random.Random, flag_share: float) -> Visit:
        """A patient of the set `place` with this condition. Arguments else as of `draw_visit`."""
        for _ in range(TRIES):
            visit = draw_visit(condition, rng, flag_share=flag_share)
            words = (visit.opening, *sorted(answer for _, answer in visit.facts))
            if words not in self._known:
                self._known.add(words)
                self.visits.setdefault(place, []).append(visit)
                return visit
        raise _too_many(f"patients with {condition.name}", len(self._known))

    def seen(self, attribute: str) -> float:
        """The share of validation's cases whose complaint or opening some patient of training has word for word."""
        training = ("train/patient_cases", "train/sft_multi")
        heard = {getattr(visit, attribute) for place in training for visit in self.visits[place]}
        cases = self.visits["valid/patient_cases"]
        return sum(getattr(visit, attribute) in heard for visit in cases) / len(cases)


def _sets(config: ClinicConfig, patients: Patients) -> dict[str, list[Row]]:
    """The rows of every set by "split/set"; each has a random source of its own, so that its size changes no other."""
    conditions = split_conditions(config.seed, config.conditions)
    sets = _single_turn(conditions.known, config)
    said: dict[str, set[str]] = defaultdict(set)  # the texts of each set: none comes twice, in whatever split

    def draw(place: str, asked: str, rows: int, make: Callable[[Condition, random.Random], Row]) -> None:
        chosen = conditions.new if place.endswith(NEW_CONDITIONS) else conditions.known
        rng = random.Random(f"{config.seed}/{place}")
        sets[place] = _draw(asked, rows, conditions=chosen, make=make, said=said[place.split("/")[1]], rng=rng)

    def visit(place: str, condition: Condition, rng: random.Random, flag_share: float) -> Visit:
        others = conditions.others if place.startswith("train/") else []
        if others and rng.random() < config.strangers:
            condition = rng.choice(others)
        return patients.draw(place, condition, rng, flag_share)

    def consultation(place: str) -> Callable[[Condition, random.Random], Row]:
        def row(condition: Condition, rng: random.Random) -> Row:
            patient = visit(place, condition, rng, FLAG_SHARE)
            return consultation_row(patient, rng, stranger=patient.condition in conditions.others)

        return row

    def case(place: str) -> Callable[[Condition, random.Random], Row]:
        def row(condition: Condition, rng: random.Random) -> Row:
            patient = visit(place, condition, rng, CASE_FLAG_SHARE)
            return case_row(patient, unfamiliar=patient.condition not in conditions.known)

        return row

    for split in SPLITS:
        part = 1 if split == "train" else VALID_PART
        multi, cases, tasks = (f"{split}/{name}" for name in ("sft_multi", "patient_cases", "nlp_tasks"))
        draw(f"{split}/pretrain", "passages", config.passages // part, passage_row)
        draw(multi, "consultations", config.consultations // part, consultation(multi))
        draw(cases, "cases", config.cases // part, case(cases))
        draw(tasks, "single_turn (a quarter of it are tasks)", config.single_turn // 4 // part, task_row)
        sets[f"{split}/general"] = _general(split, config)
        for name, rows_of in CATEGORY_SETS.items():
            sets[f"{split}/{name}"] = [row for c in load_categories() for row in rows_of(c, split, config.seed)]
    for name in ("safety", "safety_controls"):
        rows_of = CATEGORY_SETS[name]
        sets[f"valid/{name}{NEW_MATTERS}"] = [row for c in load_categories() for row in rows_of(c, "new", config.seed)]
    second = f"valid/{NEW_CONDITIONS}"
    draw(second, "cases", config.cases // VALID_PART // NEW_PART, case(second))
    return sets


def _draw(
    name: str,
    count: int,
    *,
    conditions: Sequence[Condition],
    make: Callable[[Condition, random.Random], Row],
    said: set[str],
    rng: random.Random,
) -> list[Row]:
    """As many rows, at least one, that differ from each other and from those in `said`, the conditions in turn."""
    rows: list[Row] = []
    order: list[Condition] = []
    while len(rows) < max(1, count):
        order = order or rng.sample(conditions, len(conditions))
        condition = order.pop()
        for _ in range(TRIES):
            row = make(condition, rng)
            text = repr(row)
            if text not in said:
                said.add(text)
                rows.append(row)
                break
        else:
            raise _too_many(name, len(rows))
    return rows


def _single_turn(conditions: Sequence[Condition], config: ClinicConfig) -> dict[str, list[Row]]:
    rng = random.Random(f"{config.seed}/single_turn")
    pool = {row["messages"][0]["content"]: row for condition in conditions for row in question_rows(condition, rng)}
    train = config.single_turn
    valid = max(1, train // VALID_PART)
    if train + valid > len(pool):
        raise _too_many("single_turn", len(pool) * VALID_PART // (VALID_PART + 1))
    rows = rng.sample(list(pool.values()), train + valid)
    return {"train/sft_single": rows[:train], "valid/sft_single": rows[train:]}


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
