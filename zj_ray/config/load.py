"""Reads a run's YAML file into a `Config`.

The file is read as YAML *nodes*, not as plain values, because every fault must name its file and line. A scalar is read
by the type that the schema wants, not by the type that YAML guesses: `2e-3` is a number here (to YAML 1.1 it is a
string). What a reader must not get wrong: a key counts as set when it is written, even with its default value.
"""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from zj_ray.config.checks import check
from zj_ray.config.moved import BEFORE, MOVED, REMOVED
from zj_ray.config.schema import Config
from zj_ray.config.sections.setting import is_optional, is_union, leaves, nearest, type_hints, type_name
from zj_ray.errors import ConfigError

logger = logging.getLogger(__name__)

_NULL = "tag:yaml.org,2002:null"
_BOOL = "tag:yaml.org,2002:bool"
_KINDS = {  # of a key's type: what its value is called, and an example
    "str": ("text", "text"),
    "int": ("a whole number", "3"),
    "float": ("a number", "0.5"),
    "bool": ("true or false", "true"),
    "sft | float": ("sft or a number", "sft"),
    "tuple[str, ...]": ("a list", "[sft, ppo]"),
    "tuple[float, ...]": ("a list", "[0.7, 1.0]"),
    "tuple[tuple[str, ...], ...]": ("a list", "[[policy, reference], [critic, reward]]"),
}


@dataclass(frozen=True)
class _Setting:
    """A value as it was written, and where: "configs/demo.yaml:12" or "--set ppo.steps=3"."""

    node: yaml.Node
    where: str


def load_config(path: str | Path, overrides: Sequence[str] = (), *, frozen: bool = False) -> Config:
    """The run that a YAML file and `--set` overrides ("ppo.steps=3") describe; overrides win.

    frozen: the file is a run folder's own, perhaps by an earlier version. Keys that have moved since then are read at
    their new place, keys that are gone left out, and what the version did before a key came is kept, with one warning
    that names them; elsewhere old keys are refused.

    Raises ConfigError naming file and line (or the override), the key and the remedy for a missing file, bad YAML, an
    unknown or repeated key, a wrong type, a value out of range and a key that has no effect beside the others.
    """
    settings = dict(_read_file(Path(path)))
    if frozen:
        settings = _translated(settings, path)
    for override in overrides:
        settings.update(_read_override(override))
    _refuse_old_keys(settings)
    config = _build(Config, "", settings)
    check(config, {key: value.where for key, value in settings.items()})
    return config


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_file(path: Path) -> Iterator[tuple[str, _Setting]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("there is no such config file", where=str(path), remedy=_neighbours(path)) from None
    except UnicodeDecodeError as error:
        what = f"the file is not UTF-8 text (byte {error.start})"
        raise ConfigError(what, where=str(path), remedy="save it as UTF-8") from None
    except OSError as error:
        what = f"the file can't be read: {error.strerror}"
        raise ConfigError(what, where=str(path), remedy="give a readable YAML file") from None
    root = _compose(text, lambda line: f"{path}:{line}")
    if root is not None:
        yield from _flatten(root, Config, "", lambda node: f"{path}:{node.start_mark.line + 1}", {})


def _read_override(override: str) -> Iterator[tuple[str, _Setting]]:
    where = f"--set {override}"
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError("an override is KEY=VALUE", where=where, remedy="write for example --set ppo.steps=3")
    node = _compose(text, lambda line: where) or yaml.ScalarNode(_NULL, "")
    for part in reversed(key.split(".")):
        node = yaml.MappingNode("tag:yaml.org,2002:map", [(yaml.ScalarNode("tag:yaml.org,2002:str", part), node)])
    yield from _flatten(node, Config, "", lambda node: where, {})


def _compose(text: str, locate: Callable[[int], str]) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        fault = error.problem or error.context or "it can't be parsed"
        remedy = "check indentation (spaces, no tabs), colons and quotes"
        raise ConfigError(f"not valid YAML: {fault}", where=locate(line), remedy=remedy) from None
    except yaml.YAMLError as error:
        remedy = "remove control characters and save the file as UTF-8"
        raise ConfigError(f"not valid YAML: {error}", where=locate(1), remedy=remedy) from None


def _flatten(
    node: yaml.Node, section: type, prefix: str, locate: Callable[[yaml.Node], str], lines: dict[str, str]
) -> Iterator[tuple[str, _Setting]]:
    """What is written in one section as (dotted key, setting), old keys too; rejects unknown and repeated keys."""
    if isinstance(node, yaml.ScalarNode) and node.tag == _NULL:
        return  # a section whose lines are all commented out
    if not isinstance(node, yaml.MappingNode):
        name = f"'{prefix[:-1]}' is a section" if prefix else "a run's configuration is a mapping"
        remedy = f"set a key of it, such as {prefix}{fields(section)[0].name}"
        raise ConfigError(f"{name}, not {_node_name(node)}", where=locate(node), remedy=remedy)
    hints = type_hints(section)
    for key_node, value in node.value:
        name = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else _node_name(key_node)
        key, where = prefix + name, locate(key_node)
        if name not in hints and key not in MOVED and key not in REMOVED:
            raise ConfigError(f"unknown key '{key}'", where=where, remedy=_nearest_key(key, prefix, tuple(hints)))
        if key in lines:
            remedy = f"keep one of the two; the first is at {lines[key]}"
            raise ConfigError(f"'{key}' is written twice", where=where, remedy=remedy)
        lines[key] = where
        if is_dataclass(hints.get(name)):
            yield from _flatten(value, hints[name], key + ".", locate, lines)
        else:
            yield key, _Setting(value, where)


def _translated(settings: Mapping[str, _Setting], path: str | Path) -> dict[str, _Setting]:
    """What an earlier version wrote, by the keys of today."""
    old = [f"{key} is now {MOVED[key]}" for key in settings if key in MOVED]
    old += [f"{key} is gone" for key in settings if key in REMOVED]
    kept = {key: value for key, value in BEFORE.items() if key not in settings}
    old += [f"{key} did not exist, which is {value}" for key, value in kept.items()]
    if old:
        logger.warning("%s is by an earlier version: %s", path, ", ".join(old))
    translated = {MOVED.get(key, key): value for key, value in settings.items() if key not in REMOVED}
    return translated | {key: _Setting(yaml.ScalarNode("", value), str(path)) for key, value in kept.items()}


def _refuse_old_keys(settings: Mapping[str, _Setting]) -> None:
    for key, value in settings.items():
        if key in MOVED:
            raise ConfigError(f"'{key}' moved", where=value.where, remedy=f"write {MOVED[key]}")
        if key in REMOVED:
            raise ConfigError(f"'{key}' is gone", where=value.where, remedy=REMOVED[key])


def _build(section: type, prefix: str, settings: Mapping[str, _Setting]) -> Any:
    values: dict[str, Any] = {}
    for name, hint in type_hints(section).items():
        key = prefix + name
        if is_dataclass(hint):
            values[name] = _build(hint, key + ".", settings)  # type: ignore[arg-type]
        elif key in settings:
            values[name] = _parse(settings[key].node, hint, key, settings[key].where)
    return section(**values)


# --- values ----------------------------------------------------------------------------------------------------------


def _parse(node: yaml.Node, hint: Any, key: str, where: str) -> Any:
    """A node's value as the type that the schema names. Raises ConfigError when it isn't one."""
    if is_optional(hint):
        if isinstance(node, yaml.ScalarNode) and node.tag == _NULL:
            return None
        hint = next(part for part in get_args(hint) if part is not type(None))
    if is_union(hint):  # a word or a number
        words, number = get_args(hint)
        if isinstance(node, yaml.ScalarNode) and node.value in get_args(words):
            return node.value
        try:
            return _parse(node, number, key, where)
        except ConfigError:
            raise _wrong_type(node, hint, key, where) from None
    if get_origin(hint) is tuple:
        if not isinstance(node, yaml.SequenceNode):
            raise _wrong_type(node, hint, key, where)
        return tuple(_parse(item, get_args(hint)[0], f"{key}[{i}]", where) for i, item in enumerate(node.value))
    if get_origin(hint) is Literal:
        return _parse_choice(node, hint, key, where)
    if not isinstance(node, yaml.ScalarNode) or node.tag == _NULL:
        raise _wrong_type(node, hint, key, where)
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


def _parse_choice(node: yaml.Node, hint: Any, key: str, where: str) -> Any:
    choices = {str(choice): choice for choice in get_args(hint)}
    if not isinstance(node, yaml.ScalarNode) or node.value not in choices:
        remedy = f"use one of {', '.join(choices)}"
        raise ConfigError(f"'{key}' can't be {_node_name(node)}", where=where, remedy=remedy)
    return choices[node.value]


def _wrong_type(node: yaml.Node, hint: Any, key: str, where: str) -> ConfigError:
    kind, example = _KINDS[type_name(hint)]
    quoted = isinstance(node, yaml.ScalarNode) and node.style is not None and hint in (int, float, bool)
    remedy = "write it without quotes" if quoted else f"write for example {key.partition('[')[0]}: {example}"
    return ConfigError(f"'{key}' must be {kind}, not {_node_name(node)}", where=where, remedy=remedy)


def _node_name(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return "empty" if node.tag == _NULL else repr(node.value)
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


# --- names -----------------------------------------------------------------------------------------------------------


def _nearest_key(key: str, prefix: str, names: Sequence[str]) -> str:
    """The remedy for an unknown key: the same name in another section, or a sibling that looks like it."""
    everywhere = [leaf.key for leaf in leaves(Config())]
    namesakes = [full for full in everywhere if full.rpartition(".")[2] == key.rpartition(".")[2]]
    siblings = [prefix + name for name in difflib.get_close_matches(key.removeprefix(prefix), names, n=1, cutoff=0.7)]
    if namesakes or siblings:
        return f"did you mean '{(namesakes or siblings)[0]}'?"
    return f"'{prefix[:-1]}' has {', '.join(names)}" if prefix else nearest(key, everywhere)


def _neighbours(path: Path) -> str:
    folders = [folder for folder in {path.parent, Path("configs")} if folder.is_dir()]
    others = sorted(str(other) for folder in folders for other in folder.glob("*.yaml"))
    close = difflib.get_close_matches(str(path), others, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else "give the path of a run's YAML file, for example configs/demo.yaml"
