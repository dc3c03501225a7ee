"""Files on disk: whole or not at all when they are written, each row with its file and line when they are read.

The one way to write what somebody else reads: a reader, also one after a power cut, finds the old file or the new one,
never a part. Every row of JSON Lines carries its `file:line`, because a fault in row 8,214 of somebody's own data can
only be mended by someone who is told the number.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from zj_ray.errors import DataError


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[TextIO]:
    """A file to write to, UTF-8 with `\\n` line ends; it becomes `path` when the block ends without a fault."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private; a run is to be read by whoever may read its folder
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_atomic(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with written_whole(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value, indented, whole or not at all."""
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file, or None where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write all rows or none, and return their number.

    The same rows give the same bytes: keys stay in their order, and nothing is escaped to ASCII.
    """
    written = 0
    with written_whole(Path(path)) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            written += 1
    return written


def read_jsonl(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`file:line`, row) for every row; blank lines are passed over.

    Raises DataError with file, line and remedy: file missing, not UTF-8, not JSON, or a row that is no object.
    """
    path = Path(path)
    if not path.is_file():
        remedy = "check data.root; docs/data.md names the files"
        raise DataError("there is no such data file", where=str(path), remedy=remedy)
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if raw.strip():
                where = f"{path}:{number}"
                yield where, _parse_row(raw, where)


def _parse_row(raw: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as fault:
        what = f"the row is not UTF-8 (byte {fault.start + 1})"
        raise DataError(what, where=where, remedy="save the file as UTF-8") from None
    except json.JSONDecodeError as fault:
        what = f"the row is not JSON: {fault.msg} at column {fault.colno}"
        raise DataError(what, where=where, remedy="write one JSON object a line") from None
    if not isinstance(row, dict):
        what = f"the row is {_kind(row)}, not an object"
        raise DataError(what, where=where, remedy='write one {"id": …} object a line')
    return row


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")
