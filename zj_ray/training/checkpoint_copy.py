"""Checkpoints below any fsspec URL (s3://, gs://, file://, memory://): written here first, then copied, the list last.

An object store has no rename. What makes a copy whole is that its list comes after every file that it names, and goes
before them when the copy is deleted; sizes are compared after copying, hashes when it is fetched.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import fsspec

from zj_ray.errors import CheckpointError, ConfigError
from zj_ray.training.checkpoint import LIST, CheckpointStore, content_of, fault_of

logger = logging.getLogger(__name__)


def open_checkpoints(url: str | None, folder: Path, **keep: int) -> CheckpointStore:
    """A stage's checkpoints in `folder`; with a URL, copied below that too. keep: as in `CheckpointStore`."""
    return RemoteStore(url, folder, **keep) if url else CheckpointStore(folder, **keep)


class RemoteStore(CheckpointStore):
    """Checkpoints in a folder of this machine, each with a copy below a URL."""

    def __init__(self, url: str, folder: Path, **keep: int) -> None:
        """Write into `folder`, copy from there, fetch into it. Raises ConfigError for a URL that fsspec can't open."""
        super().__init__(folder, **keep)
        try:
            self.files, self.root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError, OSError) as error:
            remedy = "install what it needs (s3fs, gcsfs), or mend it"
            raise ConfigError(f"{url!r} can't be opened: {error}", where="checkpoints", remedy=remedy) from error
        self.url = url

    def commit(self, step: int, state: dict[str, Any], score: float | None = None) -> Path:
        final = super().commit(step, state, score)
        try:
            self._copy(final)
            self._prune_there()
        except Exception as error:  # each file system has errors of its own
            raise CheckpointError(
                f"the checkpoint of step {step} could not be copied: {error}",
                where=self.url,
                remedy=f"it is whole in {final}; mend the connection",
            ) from error
        return final

    def _copy(self, final: Path) -> None:
        there = self._there(final.name)
        if self.files.exists(f"{there}/{LIST}"):
            self.files.rm_file(f"{there}/{LIST}")  # what is there is of another attempt
        files = (path for path in final.rglob("*") if path.is_file() and path.name != LIST)
        for name in (*sorted(str(path.relative_to(final)) for path in files), LIST):
            self.files.makedirs(f"{there}/{name}".rpartition("/")[0], exist_ok=True)
            self.files.put_file(str(final / name), f"{there}/{name}")
            if (copied := self.files.info(f"{there}/{name}")["size"]) != (size := (final / name).stat().st_size):
                raise OSError(f"{name} has {copied} bytes there, {size} here")

    def _there(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    def steps_there(self) -> list[int]:
        """The steps whose copy is whole, which is to say: has its list."""
        self.files.invalidate_cache()
        if not self.files.exists(self.root):
            return []
        names = [str(path).rstrip("/").rpartition("/")[2] for path in self.files.ls(self.root, detail=False)]
        steps = [name for name in names if name.startswith("step-")]
        whole = [name for name in steps if self.files.exists(f"{self._there(name)}/{LIST}")]
        return sorted(int(name.removeprefix("step-")) for name in whole)

    def _prune_there(self) -> None:
        copies = {step: self._there(self._path(step).name) for step in self.steps_there()}
        lists = {step: self.files.cat_file(f"{there}/{LIST}").decode() for step, there in copies.items()}
        for step in self._to_go({step: content_of(text)["score"] for step, text in lists.items()}):
            there = copies[step]
            self.files.rm_file(f"{there}/{LIST}")
            self.files.rm(there, recursive=True)

    def latest(self) -> tuple[int, Path, dict[str, Any]] | None:
        """The newest whole checkpoint, fetched first where the folder lacks it or has it damaged."""
        for step in reversed(self.steps_there()):
            if fault_of(self._path(step)) is None or self._fetch(step):
                break
        return super().latest()

    def at(self, step: int) -> Path:
        if fault_of(self._path(step)) is not None:
            self._fetch(step)
        return super().at(step)

    def _fetch(self, step: int) -> bool:
        """Fetch the copy of a step. Returns whether it came whole."""
        final, draft = self._path(step), self.folder / f".draft-{step:06d}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        there = self._there(final.name)
        for path in self.files.find(there):
            name = str(path)[len(there) :].lstrip("/")
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            self.files.get_file(path, str(draft / name))
        if (fault := fault_of(draft)) is not None:
            logger.warning("%s/%s: %s; an older checkpoint is used", self.url, final.name, fault)
            shutil.rmtree(draft)
            return False
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
        return True
