"""The life of an engine, as a pure state machine: no Ray, no torch, no clock.

The transition that must *not* exist is DEAD → SERVING (nor PROVISIONING or LOADING → SERVING): only a sync to the
current version, confirmed by checksum, admits an engine. A replaced engine that skipped it would answer with old
weights, and every trajectory it touched would be attributed to the wrong policy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum


class EngineState(Enum):
    PROVISIONING = "provisioning"  # its place in the cluster is asked for
    LOADING = "loading"  # vLLM builds the model
    STALE = "stale"  # alive, but its weights are not the current version
    SERVING = "serving"  # confirmed at the current version
    SUSPECT = "suspect"  # failed lately: gets one turn at a time on trial, until one succeeds
    DRAINING = "draining"  # finishes what it has, gets nothing new
    GONE = "gone"  # left on purpose
    DEAD = "dead"  # lost; only a new actor can take its place


_ALLOWED: dict[EngineState, tuple[EngineState, ...]] = {
    EngineState.PROVISIONING: (EngineState.LOADING, EngineState.DEAD, EngineState.GONE),
    EngineState.LOADING: (EngineState.STALE, EngineState.DEAD, EngineState.GONE),
    EngineState.STALE: (EngineState.SERVING, EngineState.DRAINING, EngineState.DEAD),
    EngineState.SERVING: (EngineState.STALE, EngineState.SUSPECT, EngineState.DRAINING, EngineState.DEAD),
    EngineState.SUSPECT: (EngineState.STALE, EngineState.SERVING, EngineState.DRAINING, EngineState.DEAD),
    EngineState.DRAINING: (EngineState.GONE, EngineState.DEAD),
    EngineState.DEAD: (EngineState.PROVISIONING, EngineState.GONE),
    EngineState.GONE: (),
}


class IllegalTransition(AssertionError):
    """A fault of ours, not of the user: the fleet tried a transition that must not exist."""


@dataclass
class EngineLife:
    """One engine's state, weight version and failures.

    watch: is called at every event that sets the state, also to what it was.
    """

    name: str
    state: EngineState = EngineState.PROVISIONING
    version: int = -1
    restarts: int = 0
    failures: int = 0  # turns in a row; a success clears them
    ejections: int = 0  # failure streaks and failed trials since its last success
    unheard: bool = False  # suspect because nothing is heard from it: no trial before something is
    last_error: str = ""
    watch: Callable[[EngineLife], None] = field(default=lambda _: None, repr=False, compare=False)

    def _go(self, to: EngineState) -> None:
        if to is not self.state and to not in _ALLOWED[self.state]:
            raise IllegalTransition(f"engine {self.name}: {self.state.value} → {to.value} is not allowed")
        self.state = to
        self.watch(self)

    def placed(self) -> None:
        self._go(EngineState.LOADING)

    def loaded(self) -> None:
        self._go(EngineState.STALE)
        self.version = -1

    def outdated(self) -> None:
        """A new version was published; nothing here has confirmed it yet."""
        if self.state in (EngineState.SERVING, EngineState.SUSPECT):
            self._go(EngineState.STALE)

    def synced(self, version: int, current: int) -> None:
        """A sync was confirmed by checksum. Only the current version admits to SERVING."""
        if self.state not in (EngineState.STALE, EngineState.SERVING):
            raise IllegalTransition(f"engine {self.name}: a sync was confirmed in state {self.state.value}")
        self.version = version
        self.failures, self.unheard = 0, False
        self._go(EngineState.SERVING if version == current else EngineState.STALE)

    def succeeded(self) -> None:
        """A turn was answered. An engine that is suspect has the current version, and serves again."""
        self.failures, self.ejections, self.unheard = 0, 0, False
        if self.state is EngineState.SUSPECT:
            self._go(EngineState.SERVING)

    def failed(self, error: str, tolerated: int) -> None:
        """A turn failed there; after more than `tolerated` in a row it is on trial."""
        self.failures += 1
        self.last_error = error
        if self.state is EngineState.SUSPECT or (self.failures > tolerated and self.state is EngineState.SERVING):
            self._go(EngineState.SUSPECT)

    def silent(self, error: str) -> None:
        """It makes no progress or does not say how it is; it may come back. One that is out of date stays so."""
        if self.state in (EngineState.SERVING, EngineState.STALE):
            self.last_error, self.unheard = error, True
            self._go(EngineState.SUSPECT if self.state is EngineState.SERVING else EngineState.STALE)

    def heard(self) -> None:
        """It makes progress again."""
        if self.unheard:
            self.unheard = False
            self._go(self.state)

    def died(self, error: str) -> None:
        self.last_error = error
        self.version = -1
        self._go(EngineState.DEAD)

    def replaced(self) -> None:
        self._go(EngineState.PROVISIONING)
        self.restarts += 1
        self.failures, self.ejections, self.unheard = 0, 0, False

    def drain(self) -> None:
        self._go(EngineState.DRAINING)

    def left(self) -> None:
        self._go(EngineState.GONE)
