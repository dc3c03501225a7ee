"""The house stands as docs/architecture.md draws it: floors and doors are read from its tables, broken rules are named.

An import goes to a lower floor, or stays in its room. A room is a folder by itself: a folder inside it is a room of its
own.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "zj_ray"
ROOM_LINES, FILE_LINES, FUNCTION_LINES, COLUMNS = 1500, 350, 50, 120
LOOSE = {"__init__", "__main__", "errors", "progress", "files", "pipeline"}  # the only files at the top

Sources = Mapping[str, str]  # path below the package → text


@dataclass(frozen=True)
class House:
    """floors: of every room. only, never: the files that may, or must not, import a third-party package."""

    floors: dict[str, int]
    only: dict[str, tuple[str, ...]]
    never: dict[str, tuple[str, ...]]


def read_house(page: str) -> House:
    """The tables below "The floors" and "Doors" of docs/architecture.md."""
    floors = {name: int(floor) for floor, names, _ in _rows(page, "| floor |") for name in _names(names)}
    doors = _rows(page, "| package |")
    return House(
        floors,
        only={package: _names(paths) for cell, paths, _ in doors for package in _names(cell) if _names(paths)},
        never={package: _names(paths) for cell, _, paths in doors for package in _names(cell) if _names(paths)},
    )


def _rows(page: str, head: str) -> list[list[str]]:
    lines = page[page.index(head) :].splitlines()[2:]
    end = next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:end]]


def _names(cell: str) -> tuple[str, ...]:
    """What stands in backquotes, without the slash after a folder."""
    return tuple(name.rstrip("/") for name in cell.split("`")[1::2])


@cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def room(path: str) -> str:
    """The folder of a file below the package; a loose file is a room by itself."""
    parent = str(PurePosixPath(path).parent)
    return PurePosixPath(path).stem if parent == "." else parent


def faults(sources: Sources, house: House) -> Iterator[str]:
    """Every rule of the house that `sources` break, with file and line."""
    yield from _misplaced(sources, house)
    yield from _too_large(sources)
    stairs: dict[str, set[str]] = {}
    for path, text in sources.items():
        for node in ast.walk(_parsed(text)):
            for name in _imported(node, sources):
                location = f"{path}:{getattr(node, 'lineno', 0)}"
                if name.startswith(f"{PACKAGE}/"):
                    stairs.setdefault(room(path), set()).add(room(name.removeprefix(f"{PACKAGE}/")))
                    yield from _goes_up(location, path, name.removeprefix(f"{PACKAGE}/"), house)
                else:
                    yield from _wrong_door(location, path, name, house)
    yield from _circles({here: there - {here} for here, there in stairs.items()})


def _misplaced(sources: Sources, house: House) -> Iterator[str]:
    for path in sources:
        if "/" not in path and PurePosixPath(path).stem not in LOOSE:
            yield f"{path}: a loose file: every file has a room"
        elif path != "__init__.py" and room(path) not in house.floors:
            yield f"{path}: the room {room(path)} stands in no row of docs/architecture.md"


def _too_large(sources: Sources) -> Iterator[str]:
    rooms: dict[str, int] = {}
    for path, text in sources.items():
        lines = text.splitlines()
        rooms[room(path)] = rooms.get(room(path), 0) + len(lines)
        if len(lines) > FILE_LINES:
            yield f"{path}: {len(lines)} lines, {FILE_LINES} are allowed"
        yield from (f"{path}:{n}: {len(line)} columns" for n, line in enumerate(lines, 1) if len(line) > COLUMNS)
        for node in ast.walk(_parsed(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    yield f"{path}:{node.lineno}: {node.name} has {length} lines, {FUNCTION_LINES} are allowed"
    yield from (
        f"{name}: {n} lines in the room, {ROOM_LINES} are allowed" for name, n in rooms.items() if n > ROOM_LINES
    )


def _imported(node: ast.AST, sources: Sources) -> Iterator[str]:
    """What an import names: files of the package as `zj_ray/room/file.py`, others by their package."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0 and node.module, f"line {node.lineno}: say where an import comes from"
        modules = (f"{node.module}.{alias.name}" for alias in node.names)
        names = [m if _file(m, sources) else node.module for m in modules]
    else:
        return
    yield from dict.fromkeys(
        f"{PACKAGE}/{_file(n, sources)}" if n.split(".")[0] == PACKAGE else n.split(".")[0] for n in names
    )


def _file(module: str, sources: Sources) -> str:
    """Its path below the package, or nothing where it is none of the package's files."""
    inside = module.removeprefix(PACKAGE).lstrip(".").replace(".", "/") if module.split(".")[0] == PACKAGE else "?"
    return next((path for path in (f"{inside}.py", f"{inside}/__init__.py".lstrip("/")) if path in sources), "")


def _goes_up(location: str, path: str, imported: str, house: House) -> Iterator[str]:
    here, there = room(path), room(imported)
    both = here in house.floors and there in house.floors
    if both and here != there and house.floors[here] <= house.floors[there]:
        yield f"{location}: {here} (floor {house.floors[here]}) imports {imported} (floor {house.floors[there]})"


def _wrong_door(location: str, path: str, package: str, house: House) -> Iterator[str]:
    if package in house.only and not _inside(path, house.only[package]):
        yield f"{location}: {package} may only be imported in {', '.join(house.only[package])}"
    if _inside(path, house.never.get(package, ())):
        yield f"{location}: {package} may not be imported in {', '.join(house.never[package])}"


def _inside(path: str, paths: tuple[str, ...]) -> bool:
    return any(path == f"{location}.py" or path.startswith(f"{location}/") for location in paths)


def _circles(stairs: Mapping[str, set[str]]) -> Iterator[str]:
    """Rooms from which a walk along the imports leads back, whatever the table says of their floors."""
    for start in stairs:
        seen: set[str] = set()
        ahead = list(stairs[start])
        while ahead:
            here = ahead.pop()
            if here == start:
                yield f"{start}: a circle of rooms leads back here"
                break
            if here not in seen:
                seen.add(here)
                ahead += stairs.get(here, ())


def sources_on_disk() -> Sources:
    folder = ROOT / PACKAGE
    return {str(p.relative_to(folder)): p.read_text(encoding="utf-8") for p in sorted(folder.rglob("*.py"))}


PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
HOUSE = read_house(PAGE)


def test_the_house_stands_as_it_is_drawn() -> None:
    assert list(faults(sources_on_disk(), HOUSE)) == []


def test_every_room_of_the_page_is_there() -> None:
    assert set(HOUSE.floors) == {room(path) for path in sources_on_disk() if path != "__init__.py"}


FUNCTION = "def long() -> None:\n" + "    pass\n" * 50
PLANTED = {
    "an import that goes up": ("algorithms/kl.py", "from zj_ray.roles.batch import pad\n", "(floor"),
    "an import between neighbours": ("rankings/store.py", "import zj_ray.runs.lock\n", "(floor"),
    "an import inside a function": (
        "errors.py",
        "def f() -> None:\n    from zj_ray.files import write_json\n",
        "(floor",
    ),
    "a circle of rooms": ("weights/bucket.py", "from zj_ray.training import packing\n", "circle"),
    "vllm outside its doors": ("roles/policy.py", "from vllm import LLM\n", "vllm may only"),
    "deepspeed outside its door": ("roles/rank.py", "import deepspeed.comm\n", "deepspeed may only"),
    "peft outside its door": ("training/model.py", "import peft\n", "peft may only"),
    "ray among the pure": ("fleet/states.py", "import ray\n", "ray may not"),
    "the 351st line": ("roles/batch.py", "#\n" * 351, "351 lines"),
    "the 1,501st line of a room": ("roles/huge.py", "#\n" * 1501, "lines in the room"),
    "the 51st line of a function": ("roles/batch.py", FUNCTION, "long has 51 lines"),
    "the 121st column": ("roles/batch.py", f"# {'x' * 119}\n", "121 columns"),
    "a loose file": ("helpers.py", "", "loose file"),
    "a room that the page does not know": ("utils/many.py", "", "no row"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_named(name: str) -> None:
    path, text, message = PLANTED[name]
    whole = dict(sources_on_disk())
    before = set(faults(whole, HOUSE))
    whole[path] = text if "line" in name else whole.get(path, "") + text
    assert any(message in fault for fault in set(faults(whole, HOUSE)) - before)
