"""The clinic's conditions: what the YAML files under conditions/ say, checked once when they are read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from zj_ray.errors import DataError
from zj_ray.language.phrases import SLOTS

FOLDER = Path(__file__).parent / "conditions"
DEPARTMENTS = (
    "皮肤科", "外科", "儿科", "整形美容", "妇产科", "五官科", "中医科", "肿瘤科", "内科", "家居健康", "男科",
    "传染病科", "心理科", "其他",
)  # fmt: skip
SEXES = ("any", "female", "male")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is ten times faster where PyYAML has it


@dataclass(frozen=True)
class RedFlag:
    """A sign of a condition that calls for emergency care."""

    label: str
    sign: str  # the patient's words
    action: str  # the doctor's words


@dataclass(frozen=True)
class Condition:
    """A condition of the clinic, with all the texts that are made of it."""

    name: str  # the diagnosis
    department: str
    sex: str
    age: tuple[int, int]  # years
    overview: str
    complaints: tuple[str, ...]
    openings: tuple[str, ...]  # patterns of a complaint in many wordings (data/clinic/wordings.py)
    facts: dict[str, tuple[str, ...]]  # slot -> patterns of alternatives of which one is true of a patient
    red_flags: tuple[RedFlag, ...]
    exams: tuple[str, ...]
    treatment: str
    advice: tuple[str, ...]
    education: tuple[tuple[str, str], ...]  # question, answer


@cache
def load_conditions(folder: Path = FOLDER) -> tuple[Condition, ...]:
    """All conditions, in the order of file names and of each file.

    Raises DataError naming file, condition and fault.
    """
    files = sorted(folder.glob("*.yaml"))
    if not files:
        remedy = "reinstall zj_ray: its data files are missing"
        raise DataError("there are no condition files", where=str(folder), remedy=remedy)
    conditions: list[Condition] = []
    homes: dict[str, str] = {}
    for path in files:
        for condition in _load_file(path):
            if condition.name in homes:
                what = f"the condition {condition.name} is also in {homes[condition.name]}"
                raise DataError(what, where=path.name, remedy="rename one of them")
            homes[condition.name] = path.name
            conditions.append(condition)
    return tuple(conditions)


@cache
def clinic_signs() -> frozenset[str]:
    """Every red flag's sign, word for word."""
    return frozenset(flag.sign for condition in load_conditions() for flag in condition.red_flags)


def _load_file(path: Path) -> list[Condition]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except yaml.YAMLError as fault:
        what = f"the file is not YAML: {fault}"
        raise DataError(what, where=path.name, remedy="quote strings with ': ' in them") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("conditions"), list):
        raise DataError("the file needs 'department' and a list of 'conditions'", where=path.name)
    department = raw.get("department")
    if department not in DEPARTMENTS:
        remedy = f"use one of {', '.join(DEPARTMENTS)}"
        raise DataError(f"unknown department {department!r}", where=path.name, remedy=remedy)
    entries = enumerate(raw["conditions"], start=1)
    return [_parse(entry, department, f"{path.name}, condition {number}") for number, entry in entries]


def _parse(raw: Any, department: str, where: str) -> Condition:
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        raise DataError("a condition needs a 'name'", where=where)
    where = f"{where} ({raw['name']})"
    keys = ("sex", "age", "overview", "complaints", "facts", "red_flags", "exams", "treatment", "advice", "education")
    if missing := [key for key in keys if key not in raw]:
        raise DataError(f"missing {', '.join(missing)}", where=where, remedy="see the other conditions of the file")
    if raw["sex"] not in SEXES:
        raise DataError(f"unknown sex {raw['sex']!r}", where=where, remedy=f"use one of {', '.join(SEXES)}")
    if unknown := [slot for slot in raw["facts"] if slot not in SLOTS]:
        what = f"unknown fact slots {', '.join(unknown)}"
        raise DataError(what, where=where, remedy=f"use some of {', '.join(SLOTS)}")
    try:
        low, high = raw["age"]
        flags = tuple(RedFlag(f["label"], f["sign"], f["action"]) for f in raw["red_flags"])
        education = tuple((pair["q"], pair["a"]) for pair in raw["education"])
    except (KeyError, TypeError, ValueError):
        what = "'age' is [low, high]; red_flags have label, sign, action; education has q, a"
        raise DataError(what, where=where) from None
    return Condition(
        name=raw["name"],
        department=department,
        sex=raw["sex"],
        age=(low, high),
        overview=_strings([raw["overview"]], "overview", where)[0],
        complaints=_strings(raw["complaints"], "complaints", where),
        openings=_strings(raw.get("openings", raw["complaints"]), "openings", where),
        facts={slot: _strings(raw["facts"][slot], slot, where) for slot in SLOTS if slot in raw["facts"]},
        red_flags=flags,
        exams=_strings(raw["exams"], "exams", where),
        treatment=_strings([raw["treatment"]], "treatment", where)[0],
        advice=_strings(raw["advice"], "advice", where),
        education=education,
    )


def _strings(raw: Any, key: str, where: str) -> tuple[str, ...]:
    if not isinstance(raw, list) or not raw or not all(isinstance(text, str) and text.strip() for text in raw):
        raise DataError(f"{key!r} must be a list of non-empty texts", where=where)
    return tuple(text.strip() for text in raw)


@cache
def disease_names() -> tuple[str, ...]:
    """The names of all conditions."""
    return tuple(condition.name for condition in load_conditions())
