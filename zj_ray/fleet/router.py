"""Which engine gets the next turn: pure bookkeeping, no Ray, no torch.

Least in flight, but only among engines that serve: an engine that fails fast is always idle, and least-in-flight alone
would send it everything. Ties go to the engine that holds the dialogue's prefix in its cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from zj_ray.fleet.states import EngineLife, EngineState


class Router:
    def __init__(self, slack: int = 2) -> None:
        """slack: so many more turns in flight may the engine that holds the prefix have and still be preferred."""
        self.in_flight: Counter[str] = Counter()
        self.slack = slack

    def choose(self, engines: Iterable[EngineLife], previous: str | None = None, avoid: frozenset[str] = frozenset()) -> str | None:
        """An engine's name, or None when none serves. avoid: engines that failed this very turn, taken only if no other serves."""
        serving = [e.name for e in engines if e.state is EngineState.SERVING]
        candidates = [name for name in serving if name not in avoid] or serving
        if not candidates:
            return None
        least = min(candidates, key=lambda name: (self.in_flight[name], name))
        if previous in candidates and self.in_flight[previous] <= self.in_flight[least] + self.slack:
            return previous
        return least

    def started(self, name: str) -> None:
        self.in_flight[name] += 1

    def finished(self, name: str) -> None:
        self.in_flight[name] -= 1
