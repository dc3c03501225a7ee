"""The order of prompts in a run: decided by the seed and the step alone, so that a resumed run asks the same ones."""

from __future__ import annotations

import random
from collections.abc import Sequence

from zj_ray.data.case import Prompt
from zj_ray.errors import DataError


class PromptStream:
    """Cases and safety prompts, each pool walked in an order shuffled anew on every pass."""

    def __init__(self, prompts: Sequence[Prompt], seed: int, safety_share: float) -> None:
        """Take safety prompts and benign controls, half and half, as `safety_share` of every step's prompts."""
        self.pools = {kind: [p for p in prompts if p.kind == kind] for kind in ("case", "safety", "control")}
        if not self.pools["case"]:
            remedy = "add cases to data.root (docs/data.md)"
            raise DataError("there are no patient cases to consult", where="patient_cases.jsonl", remedy=remedy)
        self.seed, self.safety_share = seed, safety_share

    def take(self, step: int, count: int) -> list[Prompt]:
        """The prompts of one step: the same number of each kind in every step."""
        guarded = round(count * self.safety_share) if self.pools["safety"] or self.pools["control"] else 0
        safety = guarded if not self.pools["control"] else guarded // 2 if self.pools["safety"] else 0
        shares = {"safety": safety, "control": guarded - safety, "case": count - guarded}
        return [prompt for kind, share in shares.items() for prompt in self._walk(kind, step * share, share)]

    def _walk(self, kind: str, start: int, count: int) -> list[Prompt]:
        pool = self.pools[kind]
        orders: dict[int, list[int]] = {}
        prompts = []
        for position in range(start, start + count):
            lap, index = divmod(position, len(pool))
            if lap not in orders:
                orders[lap] = random.Random(f"{self.seed}/{kind}/{lap}").sample(range(len(pool)), len(pool))
            prompts.append(pool[orders[lap][index]])
        return prompts
