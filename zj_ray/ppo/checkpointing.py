"""PPO's checkpoints: copied between two steps, written and declared whole beside the next ones, never two at a time."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

from zj_ray.errors import WaitTimeout
from zj_ray.roles.roles import Roles
from zj_ray.training.checkpoint import CheckpointStore

POLL_SECONDS = 0.2
CLOSE_SECONDS = 60.0


class CheckpointWriter:
    def __init__(self, store: CheckpointStore, roles: Roles, limit: float) -> None:
        """limit: longest that writing one may take [s]."""
        self.store, self.roles, self.limit = store, roles, limit
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="saving")
        self._pending: Future[None] | None = None

    def begin(self, step: int, state: dict[str, Any], score: float, write: Callable[[Path], None]) -> None:
        """Copy what the roles have learnt by `step`. Raises CheckpointError when the one before could not be written.

        write: writes what else belongs to the checkpoint into its folder, in the background.
        """
        self.settle()
        draft = self.store.begin(step)
        self.roles.save(draft)
        self._pending = self._worker.submit(self._finish, step, copy.deepcopy(state), score, partial(write, draft))

    def _finish(self, step: int, state: dict[str, Any], score: float, write: Callable[[], None]) -> None:
        with self.store.writing(step):
            write()
        deadline = time.monotonic() + self.limit
        while not self.roles.are_saved():
            if time.monotonic() > deadline:
                what = f"the checkpoint of step {step} was not written within {self.limit:.0f} s"
                remedy = "see whether its disk works; raise ppo.role_timeout"
                raise WaitTimeout(what, where=str(self.store.folder), remedy=remedy)
            time.sleep(POLL_SECONDS)
        self.store.commit(step, state, score)

    def settle(self) -> None:
        """Wait until the checkpoint that was begun is whole. Raises what its writing failed with, or WaitTimeout."""
        if self._pending is None:
            return
        if self._pending not in wait([self._pending], timeout=2 * self.limit).done:
            what = f"the last checkpoint was not whole after {2 * self.limit:.0f} s"
            remedy = "see whether its disk works, and the URL in `checkpoints`"
            raise WaitTimeout(what, where=str(self.store.folder), remedy=remedy)
        pending, self._pending = self._pending, None
        if (fault := pending.exception()) is not None:
            raise fault

    def close(self) -> None:
        """Let a checkpoint that is being written be finished, if the roles live: a later loop can go on from it."""
        if self._pending is not None:
            wait([self._pending], timeout=CLOSE_SECONDS)
        self._worker.shutdown(wait=False, cancel_futures=True)
