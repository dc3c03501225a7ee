"""One key of the configuration: its type, its default, what it means, and which numbers it may hold.

All of it stands on a dataclass field that `setting` makes; `leaves` walks over the keys of a whole config.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Bound:
    """The numbers a key may hold; open ends exclude their limit."""

    low: float = -float("inf")
    high: float = float("inf")
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        low = f"{'more than' if self.open_low else 'at least'} {self.low:g}"
        high = f"{'less than' if self.open_high else 'at most'} {self.high:g}"
        return low if self.high == float("inf") else high if self.low == -float("inf") else f"{low} and {high}"


POSITIVE = Bound(0, open_low=True)
NOT_NEGATIVE = Bound(0)
AT_LEAST_ONE = Bound(1)
SHARE = Bound(0, 1)
INNER_SHARE = Bound(0, 1, open_low=True, open_high=True)
PORT = Bound(0, 65535)


def setting(default: Any, help: str, bound: Bound | None = None, hint: str = "choose a value in that range") -> Any:
    """A documented config key.

    bound: the numbers that it may hold, in a tuple each of them. hint: the remedy for a number outside.
    """
    return field(default=default, metadata={"help": help, "bound": bound, "hint": hint})


class Leaf(NamedTuple):
    """A key with its value in some config. key: with its sections ("ppo.mix.length"); meta: help, bound and hint."""

    key: str
    hint: Any
    value: Any
    meta: Any


def leaves(section: Any, prefix: str = "") -> Iterator[Leaf]:
    """Every key of a section of a config, sections inside it included, in the order of the schema."""
    hints = type_hints(section.__class__)
    for item in fields(section):
        key, value = prefix + item.name, getattr(section, item.name)
        if is_dataclass(value):
            yield from leaves(value, f"{key}.")
        else:
            yield Leaf(key, hints[item.name], value, item.metadata)


@cache
def type_hints(section: type) -> dict[str, Any]:
    """Field name → type, in the order of the schema."""
    hints = get_type_hints(section)
    return {item.name: hints[item.name] for item in fields(section)}


def is_union(hint: Any) -> bool:
    return get_origin(hint) in (types.UnionType, Union)


def is_optional(hint: Any) -> bool:
    return is_union(hint) and type(None) in get_args(hint)


def type_name(hint: Any) -> str:
    """A type as a reader of the YAML file would say it: its name, its choices, null where it may be empty."""
    if get_origin(hint) is Literal:
        return " | ".join(str(choice) for choice in get_args(hint))
    if is_union(hint):
        return " | ".join("null" if part is type(None) else type_name(part) for part in get_args(hint))
    return str(hint) if get_origin(hint) is tuple else hint.__name__


def nearest(name: str, names: Sequence[str]) -> str:
    """The remedy for a name that is none of `names`."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else "`zj config` lists every key."
