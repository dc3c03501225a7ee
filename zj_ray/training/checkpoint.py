"""Checkpoints of a stage: whole or not there.

Written under a temporary name, listed, renamed; older ones go only after that. A folder without its list, or with files
of another size than listed, is not a checkpoint: the one before it is used.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from zj_ray.errors import CheckpointError

LIST = "checkpoint.json"


class CheckpointStore:
    """Folders `step-000012` under `folder`, the last `keep` of them."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def begin(self, step: int) -> Path:
        """An empty folder to write into; not a checkpoint until `commit`."""
        draft = self.folder / f".draft-{step:06d}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        return draft

    def commit(self, step: int, state: dict[str, Any]) -> Path:
        """Make the draft of `step` the newest checkpoint. state: JSON that `latest` gives back."""
        draft, final = self.folder / f".draft-{step:06d}", self.folder / f"step-{step:06d}"
        files = {str(p.relative_to(draft)): p.stat().st_size for p in sorted(draft.rglob("*")) if p.is_file()}
        with (draft / LIST).open("w", encoding="utf-8") as out:
            json.dump({"step": step, "state": state, "files": files}, out)
            out.flush()
            os.fsync(out.fileno())
        if final.exists():
            shutil.rmtree(final)
        draft.rename(final)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.folder / f"step-{old:06d}")
        return final

    def steps(self) -> list[int]:
        return sorted(int(p.name.removeprefix("step-")) for p in self.folder.glob("step-*"))

    def latest(self) -> tuple[int, Path, dict[str, Any]] | None:
        """Step, folder and state of the newest whole checkpoint; None when there is none. Raises CheckpointError if all are damaged."""
        damage: list[str] = []
        for step in reversed(self.steps()):
            folder = self.folder / f"step-{step:06d}"
            fault = _fault(folder)
            if fault is None:
                return step, folder, json.loads((folder / LIST).read_text(encoding="utf-8"))["state"]
            damage.append(f"{folder.name}: {fault}")
        if damage:
            raise CheckpointError("; ".join(damage), where=str(self.folder), remedy="delete the folder to start the stage afresh")
        return None


def _fault(folder: Path) -> str | None:
    try:
        listed = json.loads((folder / LIST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return f"{LIST} is missing or unreadable"
    for name, size in listed.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, {size} were written"
    return None
