"""What a run's summary.json lacks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

from zj_ray.runs.summary import KEYS


def missing_keys(summary: Mapping[str, Any]) -> list[str]:
    """The dotted keys that `summary` lacks or holds as null."""
    return [key for key in KEYS if reduce(_inside, key.split("."), summary) is None]


def _inside(value: Any, part: str) -> Any:
    return value.get(part) if isinstance(value, Mapping) else None
