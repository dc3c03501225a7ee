"""Checkpoints of a stage: whole or not there.

A checkpoint is written under a temporary name, synced to the disk, listed with sizes and sha256, and renamed; older
ones go only after that. A folder without its list, or with other files than the list says, is not a checkpoint: it is
named, and the one before it is used.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zj_ray.errors import CheckpointError
from zj_ray.files import write_atomic

LIST = "checkpoint.json"
START_AFRESH = "delete the folder to start the stage afresh"
logger = logging.getLogger(__name__)


class CheckpointStore:
    """Folders `step-000012` under `folder`, one a checkpoint.

    Kept are the last `keep`, the `keep_best` with the highest scores, and every `keep_every`-th step.
    """

    def __init__(self, folder: Path, keep: int, keep_best: int = 0, keep_every: int = 0) -> None:
        self.folder, self.keep, self.keep_best, self.keep_every = folder, keep, keep_best, keep_every

    def begin(self, step: int) -> Path:
        """Make an empty folder to write into, which is no checkpoint until `commit`.

        Raises CheckpointError if there can be none.
        """
        draft = self.folder / f".draft-{step:06d}"
        with self.writing(step):
            for leftover in self.folder.glob(".draft-*"):  # of a writer that was killed
                shutil.rmtree(leftover)
            draft.mkdir(parents=True)
        return draft

    def commit(self, step: int, state: dict[str, Any], score: float | None = None) -> Path:
        """Make the draft of `step` the newest checkpoint.

        state: JSON that `latest` gives back; score: the higher the better. Raises CheckpointError when it can't be
        written; those that were there before are there still.
        """
        draft, final = self.folder / f".draft-{step:06d}", self._path(step)
        with self.writing(step):
            files = {str(path.relative_to(draft)): _facts(path) for path in sorted(draft.rglob("*")) if path.is_file()}
            write_atomic(draft / LIST, _signed({"step": step, "score": score, "state": state, "files": files}))
            for folder in (*(path for path in draft.rglob("*") if path.is_dir()), draft):
                _sync(folder)
            if final.exists():
                shutil.rmtree(final)
            draft.rename(final)
            _sync(self.folder)
            self._prune()
        return final

    @contextmanager
    def writing(self, step: int) -> Iterator[None]:
        """Raises a disk error inside as a CheckpointError that names the checkpoint before; the draft is gone then."""
        try:
            yield
        except OSError as error:
            shutil.rmtree(self.folder / f".draft-{step:06d}", ignore_errors=True)
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written: {error}; {self._last_whole()}",
                where=str(self.folder),
                remedy="make room or mend the permissions; `zj run` again goes on from there",
            ) from error

    def _last_whole(self) -> str:
        steps = self.steps()
        return f"the last whole one is that of step {steps[-1]}" if steps else "there is no other yet"

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def _prune(self) -> None:
        for step in self._to_go({step: _score(self._path(step)) for step in self.steps()}):
            shutil.rmtree(self._path(step))

    def _to_go(self, scores: Mapping[int, float | None]) -> set[int]:
        """The steps that are not kept, of those that there are, with their scores."""
        last = sorted(scores)[-self.keep :]
        best = heapq.nlargest(self.keep_best, [(score, step) for step, score in scores.items() if score is not None])
        every = [step for step in scores if self.keep_every and step % self.keep_every == 0]
        return set(scores) - {*last, *(step for _, step in best), *every}

    def steps(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def at(self, step: int) -> Path:
        """The folder of a checkpoint that was kept. Raises CheckpointError when it is damaged."""
        folder = self._path(step)
        if (fault := fault_of(folder)) is not None:
            raise CheckpointError(f"{folder.name}: {fault}", where=str(self.folder), remedy=START_AFRESH)
        return folder

    def latest(self) -> tuple[int, Path, dict[str, Any]] | None:
        """Step, folder and state of the newest whole checkpoint; None when there is none.

        Raises CheckpointError if all are damaged.
        """
        damage: list[str] = []
        for step in reversed(self.steps()):
            folder = self._path(step)
            fault = fault_of(folder)
            if fault is None:
                for what in damage:
                    logger.warning("%s: %s; the checkpoint of step %d is used", self.folder, what, step)
                return step, folder, _content(folder)["state"]
            damage.append(f"{folder.name}: {fault}")
        if damage:
            raise CheckpointError("; ".join(damage), where=str(self.folder), remedy=START_AFRESH)
        return None


def _facts(path: Path) -> dict[str, Any]:
    """Size and hash of a file, which is synced to the disk first."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync(folder: Path) -> None:
    """Sync a folder, so that the names in it outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _signed(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return json.dumps({"content": content, "sha256": hashlib.sha256(text.encode()).hexdigest()}, sort_keys=True)


def content_of(text: str) -> dict[str, Any]:
    """The content of a checkpoint's list. Raises ValueError when it is not what was written."""
    signed = json.loads(text)
    content = signed.get("content") if isinstance(signed, dict) else None
    if content is None or _signed(content) != json.dumps(signed, sort_keys=True):
        raise ValueError("its sha256 differs")
    return content


def _content(folder: Path) -> dict[str, Any]:
    return content_of((folder / LIST).read_text(encoding="utf-8"))


def _score(folder: Path) -> float | None:
    try:
        return _content(folder)["score"]
    except (OSError, ValueError):
        return None


def fault_of(folder: Path) -> str | None:
    """What is wrong with the checkpoint in `folder`, or None."""
    try:
        files = _content(folder)["files"]
    except (OSError, ValueError) as error:
        return f"{LIST} is missing or damaged ({error})"
    for name, facts in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != facts["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, {facts['bytes']} were written"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != facts["sha256"]:
                return f"{name} is not what was written: its sha256 differs"
    return None
