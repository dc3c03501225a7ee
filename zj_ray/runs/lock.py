"""One process at a time works on a run: a lock file with its owner inside and a heartbeat in its mtime.

The owner is dead when its process is gone (seen on its own host) or when its heartbeat is older than `STALE_AFTER`
(seen from another host, which can't look at the process). A dead owner's lock is taken over, a live one's never is.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from zj_ray.errors import ZjError

HEARTBEAT = 10.0  # seconds between two signs of life
STALE_AFTER = 60.0  # seconds without one after which another host may take over


class RunLock:
    """Context manager. Raises ZjError naming the owner on entering a lock that a live process holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._released = threading.Event()

    def __enter__(self) -> RunLock:
        process = psutil.Process()
        mine = json.dumps({"pid": process.pid, "host": socket.gethostname(), "born": process.create_time()})
        draft = self.path.with_name(f".{self.path.name}.{process.pid}.{threading.get_ident()}")
        draft.write_text(mine, encoding="utf-8")
        try:
            while True:
                try:
                    # A link, unlike a rename, fails if there is a lock; and readers never see it half written.
                    os.link(draft, self.path)
                    break
                except FileExistsError:
                    self._clear_if_stale()
        finally:
            draft.unlink()
        threading.Thread(target=self._beat, name="run-lock heartbeat", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT):
            if self.path.exists():
                os.utime(self.path)

    def _clear_if_stale(self) -> None:
        """Remove a dead owner's lock. Raises ZjError if the owner lives."""
        try:
            text, age = self.path.read_text(encoding="utf-8"), time.time() - self.path.stat().st_mtime
        except FileNotFoundError:  # released between our attempt and now
            return
        owner = json.loads(text)
        if is_alive(owner, age):
            who = f"process {owner['pid']} on {owner['host']}"
            what = f"{who} is working on this run (last sign of life {age:.0f} s ago)"
            remedy = "wait for it, end it with: zj stop RUN, or start another run with --set name=…"
            raise ZjError(what, where=str(self.path.parent), remedy=remedy)
        # Two processes may find the same dead lock: each renames what it finds, and puts back what is not that lock.
        aside = self.path.with_name(f".{self.path.name}.dead.{os.getpid()}")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        if aside.read_text(encoding="utf-8") != text:
            os.link(aside, self.path)
        aside.unlink()


def is_alive(owner: dict[str, Any], age: float) -> bool:
    """Whether the owner {"pid", "host", "born"} of a lock last touched `age` seconds ago still works."""
    if owner["host"] != socket.gethostname():
        return age < STALE_AFTER
    try:
        born = psutil.Process(owner["pid"]).create_time()
        return abs(born - owner["born"]) < 1.0  # a reused pid was born at another time
    except psutil.NoSuchProcess:
        return False
