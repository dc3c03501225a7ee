"""Writes a config as YAML, and lists the keys that a run's file may set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import yaml

from zj_ray.config.schema import Config
from zj_ray.config.sections.setting import leaves, nearest, type_name
from zj_ray.config.unused import ineffective
from zj_ray.errors import ConfigError


def dump_config(config: Config) -> str:
    """Every key of a run as YAML that `load_config` reads back to an equal Config.

    Keys without effect under the other settings stay visible, but commented out: written as keys they'd be rejected.
    """
    return "\n".join(_dump_section(config, "", ineffective(config))) + "\n"


def explain(config_class: type, prefix: str = "") -> str:
    """All keys below `prefix` ("" for all, "ppo", "ppo.mix"), each with its type, default and meaning, as plain text.

    Raises ConfigError for a prefix that no key has.
    """
    lines, section = [], None
    for key, hint, default, meta in leaves(config_class()):
        if prefix and not f"{key}.".startswith(f"{prefix}."):
            continue
        if "." in key and key.split(".")[0] != section:
            section = key.split(".")[0]
            lines += ["", f"{section}:"]
        lines += [f"  {key}: {type_name(hint)} = {_plain(default)}", f"      {meta['help']}"]
    if not lines:
        names = sorted({part for leaf in leaves(config_class()) for part in _prefixes(leaf.key)})
        raise ConfigError(f"there is no key or section {prefix!r}", remedy=nearest(prefix, names))
    return "\n".join(lines).strip("\n") + "\n"


def _prefixes(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _dump_section(section: Any, prefix: str, unused: Mapping[str, str]) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for field in fields(section):
        key, value = prefix + field.name, getattr(section, field.name)
        if is_dataclass(value):
            yield f"{indent}{field.name}:"
            yield from _dump_section(value, key + ".", unused)
        elif key in unused and value == field.default:
            yield f"{indent}# {field.name}: {_plain(value)}  # no effect: {unused[key]}"
        else:
            yield f"{indent}{field.name}: {_plain(value)}"


def _plain(value: Any) -> str:
    """A value as YAML on one line."""
    plain = [list(item) if isinstance(item, tuple) else item for item in value] if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")
