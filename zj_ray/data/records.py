"""JSON Lines on disk: rows in with the place they came from, rows out in one atomic step.

Every row that is read carries its `file:line`, because a fault in row 8,214 of somebody's own data can only be mended
by someone who is told the number.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from zj_ray.errors import DataError


def read_jsonl(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`file:line`, row) for every row; blank lines are passed over.

    Raises DataError with the place and the remedy: file missing, not UTF-8, not JSON, or a row that is no object.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("there is no such data file", where=str(path), remedy="check data.root; docs/data.md names the files")
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if raw.strip():
                where = f"{path}:{number}"
                yield where, _parse_row(raw, where)


def _parse_row(raw: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as fault:
        raise DataError(f"the row is not UTF-8 (byte {fault.start + 1})", where=where, remedy="save the file as UTF-8") from None
    except json.JSONDecodeError as fault:
        raise DataError(f"the row is not JSON: {fault.msg} at column {fault.colno}", where=where, remedy="write one JSON object a line") from None
    if not isinstance(row, dict):
        raise DataError(f"the row is {_kind(row)}, not an object", where=where, remedy='write one {"id": …} object a line')
    return row


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write all rows or none: to a temporary file beside `path`, then renamed over it. Returns the number of rows.

    The same rows give the same bytes: keys in the order given, `\\n` line ends, no ASCII escapes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    written = 0
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                written += 1
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private; data is to be read by whoever reads the run
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return written
