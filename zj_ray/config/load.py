"""Reads a run's YAML file into a `Config`, and writes one back.

The file is read as YAML *nodes*, not as plain values, because every fault must name its file and line. A scalar is read
by the type that the schema wants, not by the type that YAML guesses: `2e-3` is a number here (to YAML 1.1 it is a
string). What a reader must not get wrong: a key counts as set when it is written, even with its default value.
"""

from __future__ import annotations

import difflib
import logging
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from zj_ray.config.checks import check, ineffective
from zj_ray.config.moved import MOVED, REMOVED
from zj_ray.config.schema import Config
from zj_ray.errors import ConfigError

logger = logging.getLogger(__name__)

_NULL = "tag:yaml.org,2002:null"
_BOOL = "tag:yaml.org,2002:bool"


@dataclass(frozen=True)
class _Written:
    """A value as it was written, and where: "configs/demo.yaml:12" or "--set ppo.steps=3"."""

    node: yaml.Node
    where: str


def load_config(path: str | Path, overrides: Sequence[str] = (), *, frozen: bool = False) -> Config:
    """The run that a YAML file and `--set` overrides ("ppo.steps=3") describe; overrides win.

    frozen: the file is a run folder's own, perhaps by an earlier version. Keys that have moved since then are read at their
    new place and keys that are gone left out, with one warning that names them; elsewhere they are refused.

    Raises ConfigError naming file and line (or the override), the key and the remedy for a missing file, bad YAML, an
    unknown or repeated key, a wrong type, a value out of range and a key that has no effect beside the others.
    """
    written = dict(_read_file(Path(path)))
    if frozen:
        written = _translated(written, path)
    for override in overrides:
        written.update(_read_override(override))
    _refuse_old_keys(written)
    config = _build(Config, "", written)
    check(config, {key: value.where for key, value in written.items()})
    return config


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
    for key, hint, default, text in _settings(config_class):
        if prefix and key != prefix and not key.startswith(prefix + "."):
            continue
        if "." in key and key.split(".")[0] != section:
            section = key.split(".")[0]
            lines += ["", f"{section}:"]
        lines += [f"  {key}: {_type_name(hint)} = {_plain(default)}", f"      {text}"]
    if not lines:
        names = sorted({part for key, *_ in _settings(config_class) for part in _prefixes(key)})
        raise ConfigError(f"there is no key or section {prefix!r}", remedy=_nearest(prefix, names))
    return "\n".join(lines).strip("\n") + "\n"


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_file(path: Path) -> Iterator[tuple[str, _Written]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("there is no such config file", where=str(path), remedy=_neighbours(path)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the file is not UTF-8 text (byte {error.start})", where=str(path), remedy="save it as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"the file can't be read: {error.strerror}", where=str(path), remedy="give a readable YAML file"
        ) from None
    root = _compose(text, lambda line: f"{path}:{line}")
    if root is not None:
        yield from _flatten(root, Config, "", lambda node: f"{path}:{node.start_mark.line + 1}", {})


def _read_override(override: str) -> Iterator[tuple[str, _Written]]:
    where = f"--set {override}"
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError("an override is KEY=VALUE", where=where, remedy="write for example --set ppo.steps=3")
    node = _compose(text, lambda line: where) or yaml.ScalarNode(_NULL, "")
    for part in reversed(key.split(".")):
        node = yaml.MappingNode("tag:yaml.org,2002:map", [(yaml.ScalarNode("tag:yaml.org,2002:str", part), node)])
    yield from _flatten(node, Config, "", lambda node: where, {})


def _compose(text: str, place: Callable[[int], str]) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        fault = error.problem or error.context or "it can't be parsed"
        raise ConfigError(
            f"not valid YAML: {fault}",
            where=place(line),
            remedy="check indentation (spaces, no tabs), colons and quotes",
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(
            f"not valid YAML: {error}", where=place(1), remedy="remove control characters and save the file as UTF-8"
        ) from None


def _flatten(
    node: yaml.Node, section: type, prefix: str, place: Callable[[yaml.Node], str], seen: dict[str, str]
) -> Iterator[tuple[str, _Written]]:
    """The written leaves of one section as (dotted key, value), old keys among them; rejects unknown and repeated keys."""
    if isinstance(node, yaml.ScalarNode) and node.tag == _NULL:
        return  # a section whose lines are all commented out
    if not isinstance(node, yaml.MappingNode):
        name = f"'{prefix[:-1]}' is a section" if prefix else "a run's configuration is a mapping"
        remedy = f"set a key of it, such as {prefix}{fields(section)[0].name}"
        raise ConfigError(f"{name}, not {_node_name(node)}", where=place(node), remedy=remedy)
    hints = _hints(section)
    for key_node, value in node.value:
        name = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else _node_name(key_node)
        key, where = prefix + name, place(key_node)
        if name not in hints and key not in MOVED and key not in REMOVED:
            raise ConfigError(f"unknown key '{key}'", where=where, remedy=_nearest_key(key, prefix, tuple(hints)))
        if key in seen:
            raise ConfigError(
                f"'{key}' is written twice", where=where, remedy=f"keep one of the two; the first is at {seen[key]}"
            )
        seen[key] = where
        if is_dataclass(hints.get(name)):
            yield from _flatten(value, hints[name], key + ".", place, seen)
        else:
            yield key, _Written(value, where)


def _translated(written: Mapping[str, _Written], path: str | Path) -> dict[str, _Written]:
    """What an earlier version wrote, by the keys of today."""
    old = [f"{key} is now {MOVED[key]}" for key in written if key in MOVED]
    old += [f"{key} is gone" for key in written if key in REMOVED]
    if old:
        logger.warning("%s is by an earlier version: %s", path, ", ".join(old))
    return {MOVED.get(key, key): value for key, value in written.items() if key not in REMOVED}


def _refuse_old_keys(written: Mapping[str, _Written]) -> None:
    for key, value in written.items():
        if key in MOVED:
            raise ConfigError(f"'{key}' moved", where=value.where, remedy=f"write {MOVED[key]}")
        if key in REMOVED:
            raise ConfigError(f"'{key}' is gone", where=value.where, remedy=REMOVED[key])


def _build(section: type, prefix: str, written: Mapping[str, _Written]) -> Any:
    values: dict[str, Any] = {}
    for name, hint in _hints(section).items():
        key = prefix + name
        if is_dataclass(hint):
            values[name] = _build(hint, key + ".", written)  # type: ignore[arg-type]
        elif key in written:
            values[name] = _parse(written[key].node, hint, key, written[key].where)
    return section(**values)


# --- values ----------------------------------------------------------------------------------------------------------


def _parse(node: yaml.Node, hint: Any, key: str, where: str) -> Any:
    """A node's value as the type that the schema names. Raises ConfigError when it isn't one."""
    if _is_optional(hint):
        if isinstance(node, yaml.ScalarNode) and node.tag == _NULL:
            return None
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is tuple:
        if not isinstance(node, yaml.SequenceNode):
            raise _wrong_type(node, hint, key, where)
        return tuple(_parse(item, get_args(hint)[0], f"{key}[{i}]", where) for i, item in enumerate(node.value))
    if not isinstance(node, yaml.ScalarNode) or node.tag == _NULL:
        raise _wrong_type(node, hint, key, where)
    if get_origin(hint) is Literal:
        return _parse_choice(node, hint, key, where)
    if hint is str:
        return node.value
    if hint is bool and node.tag == _BOOL:
        return node.value.lower() in ("true", "yes", "on")
    if hint in (int, float) and node.style is None and node.tag != _BOOL:
        try:
            number = hint(node.value)
        except ValueError:
            raise _wrong_type(node, hint, key, where) from None
        if math.isfinite(number):
            return number
    raise _wrong_type(node, hint, key, where)


def _parse_choice(node: yaml.ScalarNode, hint: Any, key: str, where: str) -> Any:
    choices = {str(choice): choice for choice in get_args(hint)}
    if node.value not in choices:
        raise ConfigError(f"'{key}' can't be {node.value!r}", where=where, remedy=f"use one of {', '.join(choices)}")
    return choices[node.value]


def _wrong_type(node: yaml.Node, hint: Any, key: str, where: str) -> ConfigError:
    examples = {
        "str": "text",
        "int": "3",
        "float": "0.5",
        "bool": "true",
        "tuple[str, ...]": "[sft, ppo]",
        "tuple[float, ...]": "[0.7, 1.0]",
    }
    examples["tuple[tuple[str, ...], ...]"] = "[[policy, reference], [critic, reward]]"
    name = _type_name(hint)
    quoted = isinstance(node, yaml.ScalarNode) and node.style is not None and hint in (int, float, bool)
    remedy = "write it without quotes" if quoted else f"write for example {key.partition('[')[0]}: {examples[name]}"
    return ConfigError(f"'{key}' must be {_article(name)}, not {_node_name(node)}", where=where, remedy=remedy)


def _article(name: str) -> str:
    kind = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}
    return kind.get(name) or "a list"


def _node_name(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return "empty" if node.tag == _NULL else repr(node.value)
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


# --- names -----------------------------------------------------------------------------------------------------------


@cache
def _hints(section: type) -> dict[str, Any]:
    """Field name → type, in the order of the schema."""
    hints = get_type_hints(section)
    return {field.name: hints[field.name] for field in fields(section)}


def _is_optional(hint: Any) -> bool:
    return get_origin(hint) in (types.UnionType, Union) and type(None) in get_args(hint)


def _settings(section: type, prefix: str = "") -> Iterator[tuple[str, Any, Any, str]]:
    """Every leaf of the schema as (dotted key, type, default, help)."""
    for field in fields(section):
        hint = _hints(section)[field.name]
        if is_dataclass(hint):
            yield from _settings(hint, f"{prefix}{field.name}.")  # type: ignore[arg-type]
        else:
            yield prefix + field.name, hint, field.default, field.metadata["help"]


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " | ".join(str(choice) for choice in get_args(hint))
    if _is_optional(hint):
        return " | ".join("null" if part is type(None) else _type_name(part) for part in get_args(hint))
    return str(hint) if get_origin(hint) is tuple else hint.__name__


def _prefixes(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _nearest_key(key: str, prefix: str, names: Sequence[str]) -> str:
    """The remedy for an unknown key: the same name in another section, or a sibling that looks like it."""
    everywhere = [full for full, *_ in _settings(Config)]
    moved = [full for full in everywhere if full.rpartition(".")[2] == key.rpartition(".")[2]]
    siblings = [prefix + name for name in difflib.get_close_matches(key.removeprefix(prefix), names, n=1, cutoff=0.7)]
    if moved or siblings:
        return f"did you mean '{(moved or siblings)[0]}'?"
    return f"'{prefix[:-1]}' has {', '.join(names)}" if prefix else _nearest(key, everywhere)


def _nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else "`zj config` lists every key."


def _neighbours(path: Path) -> str:
    found = sorted(
        str(other) for folder in {path.parent, Path("configs")} if folder.is_dir() for other in folder.glob("*.yaml")
    )
    close = difflib.get_close_matches(str(path), found, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else "give the path of a run's YAML file, for example configs/demo.yaml"


# --- writing ---------------------------------------------------------------------------------------------------------


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
    return (
        yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=math.inf)
        .removesuffix("\n")
        .removesuffix("\n...")
    )
