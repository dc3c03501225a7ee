"""Which configurations can't run: values out of range, keys that contradict each other, keys without effect.

`check` raises the first fault, at the file and line where its key was written. A key without effect is refused as well:
whoever writes it believes that it does something.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

from zj_ray.config.faults import Fault, contradictions
from zj_ray.config.schema import Config
from zj_ray.config.sections.setting import leaves
from zj_ray.config.unused import ineffective
from zj_ray.errors import ConfigError


def check(config: Config, set_keys: Mapping[str, str]) -> None:
    """Raises ConfigError for the first fault of a run.

    set_keys: every key that was written → where ("demo.yaml:12").
    """
    for fault in chain(_out_of_range(config), contradictions(config)):
        key = next((key for key in fault.keys if key in set_keys), fault.keys[0])
        raise ConfigError(fault.what, where=set_keys.get(key, f"{key} (default)"), remedy=fault.remedy)
    unused = ineffective(config)
    for key, where in set_keys.items():
        if key in unused:
            remedy = "remove the key, or change the setting it depends on"
            raise ConfigError(f"'{key}' has no effect: {unused[key]}", where=where, remedy=remedy)


def _out_of_range(config: Config) -> Iterator[Fault]:
    for key, _, value, meta in leaves(config):
        bound = meta["bound"]
        for number in value if isinstance(value, tuple) else (value,):
            if bound is not None and isinstance(number, (int, float)) and not bound.holds(number):
                yield Fault((key,), f"'{key}' is {number:g} and must be {bound}", meta["hint"])
