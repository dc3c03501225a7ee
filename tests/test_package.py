"""What is installed from a wheel is the whole package; what pages and docstrings name is in the tree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tokenize
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORDS = (tokenize.STRING, tokenize.COMMENT)


def test_a_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "zj_ray", source / "zj_ray", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True, timeout=300
    )
    [wheel] = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("zj_ray/")}
    there = {str(path.relative_to(source)) for path in (source / "zj_ray").rglob("*") if path.is_file()}
    assert packed == there and "zj_ray/labelling/static/Sortable.min.js" in packed


PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "Makefile", *(ROOT / "configs").glob("*.yaml")]
CODE = ("zj_ray", "bench", "tests")
FOLDERS = "zj_ray|tests|bench|docs|configs|requirements"
# A path from the top of the checkout, or some folder's file.py: `fleet/states.py`.
PATH = re.compile(rf"(?<![\w./-])(?:(?:{FOLDERS})/(?:[\w*-]+/)*(?:[\w*-]+\.\w+)?|(?:\w+/)*\w+\.py)(?![\w/])")
MADE_UP = {"configs/mine.yaml", "zj_ray/room/file.py", "file.py", "bench.NAME"}
DOTTED = re.compile(r"(?<![\w./])(?:zj_ray|tests|bench)(?:\.\w+)+")


def _texts() -> Iterator[tuple[str, str]]:
    """Every page, and every docstring and comment of the code, by name."""
    yield from ((str(page.relative_to(ROOT)), page.read_text(encoding="utf-8")) for page in PAGES)
    for folder in CODE:
        for path in (ROOT / folder).rglob("*.py"):
            with path.open("rb") as file:
                tokens = [token for token in tokenize.tokenize(file.readline) if token.type in WORDS]
            prose = (token.string for token in tokens if token.string.startswith(('"""', "#")))
            yield str(path.relative_to(ROOT)), "\n".join(prose)


def _is_there(path: str) -> bool:
    """Whether a path from the top, from the package or from the tests names something; a name alone may be anywhere."""
    if "/" not in path:
        return any(any((ROOT / folder).rglob(path)) for folder in CODE)
    return any(any(ROOT.glob(f"{above}{path.rstrip('/')}")) for above in ("", "zj_ray/", "tests/"))


def _is_defined(name: str) -> bool:
    """Whether a dotted name is a module, or stands in the module before its last dot."""
    module = ROOT / name.replace(".", "/")
    if module.is_dir() or module.with_suffix(".py").is_file():
        return True
    sources = (module.parent.with_suffix(".py"), module.parent / "__init__.py")
    text = "".join(path.read_text(encoding="utf-8") for path in sources if path.is_file())
    return re.search(rf"^(?:def |class |from .* import .*\b)?{module.name}\b", text, re.MULTILINE) is not None


def test_the_files_and_functions_that_pages_and_docstrings_name_are_there() -> None:
    paths = {(where, path) for where, text in _texts() for path in PATH.findall(text) if not _is_there(path)}
    names = {(where, name) for where, text in _texts() for name in DOTTED.findall(text) if not _is_defined(name)}
    assert sorted((where, name) for where, name in paths | names if name not in MADE_UP) == []
