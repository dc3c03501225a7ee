"""Simulated annotators: what stands in for the doctors until doctors rank.

Each adds an error to the hidden truth (`expert.py`) and ranks by what is then seen; answers that look alike share a
rank. Some items are hard: there each errs more, and part of the error is everybody's. So what most of them say is not
always right, and no reward model can be, either; among people it is the same. Everything written here is of kind
"simulated" and is no expert's judgement. Errors depend on the seed, the annotator's name and the item alone, so a
feedback stage that was killed and resumed writes the same rankings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from zj_ray.agreement.expert import Opinion
from zj_ray.config.schema import FeedbackConfig
from zj_ray.rankings.aspects import ASPECTS
from zj_ray.rankings.lots import draw
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import Item, Ranking

JUST_NOTICEABLE = 0.5  # the smallest difference that an annotator sees, in units of the spread
HARDER = 3.0  # how many times larger an annotator's own error is on a hard item


@dataclass(frozen=True)
class Scale:
    """The spread of each true value among the answers to one context, pooled over all contexts: the unit of an error.

    Differences between contexts do not count: nobody ranks across them, and where they dominate (a red flag lowers all
    four answers) errors measured by them would drown every ranking.
    """

    utility: float
    aspects: Mapping[str, float]

    @classmethod
    def of(cls, pool: Sequence[Sequence[Opinion]]) -> Scale:
        """The spread over `pool` [items][answers]; 0 where the answers of every item are alike."""
        return cls(
            _spread([[true.utility for true in row] for row in pool]),
            {a: _spread([[getattr(true, a) for true in row] for row in pool]) for a in ASPECTS},
        )


@dataclass(frozen=True)
class SimulatedAnnotator:
    """A simulated annotator, who errs by chance, and on hard items as the others do.

    noise, shared_bias: standard deviations of the own and of the common error, in units of the spread of the true
    values; hard_items: the share of the items that are hard (FeedbackConfig).
    """

    name: str
    seed: int
    noise: float
    hard_items: float = 0.0
    shared_bias: float = 0.0

    def rank(self, opinions: Sequence[Opinion], *, scale: Scale, item: str) -> list[int]:
        """Overall ranks [answers], 1 = best: by utility with the annotator's error on this item."""
        return self._ranks([true.utility for true in opinions], scale.utility, item, "overall")

    def rank_aspects(self, opinions: Sequence[Opinion], *, scale: Scale, item: str) -> dict[str, list[int]]:
        """Ranks [answers] on safety, professionalism and fluency, each with an error of its own."""
        values = {aspect: [getattr(true, aspect) for true in opinions] for aspect in ASPECTS}
        return {a: self._ranks(of_aspect, scale.aspects[a], item, a) for a, of_aspect in values.items()}

    def _ranks(self, values: Sequence[float], spread: float, item: str, topic: str) -> list[int]:
        hard = is_hard(item, self.hard_items, self.seed)
        error = self.noise * (HARDER if hard else 1.0) * _normal(f"{self.seed}/{self.name}/{item}/{topic}", len(values))
        if hard:
            error += self.shared_bias * _normal(f"{self.seed}/everybody/{item}/{topic}", len(values))
        return noticeable_ranks(np.asarray(values, dtype=float) + spread * error, JUST_NOTICEABLE * spread)


def is_hard(item: str, share: float, seed: int) -> bool:
    """Whether an item, by its id, is among the `share` of those on which all annotators err alike."""
    return draw(f"{seed}/hard/{item}") < share


def _normal(topic: str, count: int) -> np.ndarray:
    """Standard normal numbers [count] that are the same for the same topic."""
    return np.random.default_rng(int(draw(topic) * 2**56)).normal(0.0, 1.0, count)


def noticeable_ranks(values: np.ndarray, just_noticeable: float) -> list[int]:
    """Competition ranks [n] of `values` [n], largest first: 1, 2, 2, 4.

    A value within `just_noticeable` of the best of a group shares the group's rank.
    """
    ranks = [0] * len(values)
    best, rank = np.inf, 0
    for position, index in enumerate(np.argsort(-values, kind="stable"), start=1):
        if position == 1 or best - values[index] > just_noticeable:
            best, rank = values[index], position
        ranks[index] = rank
    return ranks


def panel(config: FeedbackConfig, seed: int) -> list[SimulatedAnnotator]:
    """The run's simulated annotators, whose names say that they are simulated."""
    errors = {"noise": config.noise, "hard_items": config.hard_items, "shared_bias": config.shared_bias}
    return [SimulatedAnnotator(f"simulated-{k + 1}", seed, **errors) for k in range(config.annotators)]


def rank_items(
    store: RankingStore,
    items: Sequence[Item],
    opinions: Mapping[str, Sequence[Opinion]],
    annotators: Sequence[SimulatedAnnotator],
) -> int:
    """Have every annotator rank every item that has no ranking of theirs yet; returns the number of rankings added.

    opinions: the true values of each item's answers, by item id, in the answers' order; all of them set the scale.
    """
    scale = Scale.of([opinions[item.id] for item in items])
    earlier = {(r.item, r.annotator) for of_item in store.all_rankings().values() for r in of_item}
    rankings = []
    for item in items:
        for annotator in annotators:
            if (item.id, annotator.name) not in earlier:
                overall = annotator.rank(opinions[item.id], scale=scale, item=item.id)
                aspects = annotator.rank_aspects(opinions[item.id], scale=scale, item=item.id)
                by_aspect = {aspect: tuple(ranks) for aspect, ranks in aspects.items()}
                rankings.append(Ranking(item.id, annotator.name, "simulated", tuple(overall), by_aspect))
    store.add_rankings(rankings)
    return len(rankings)


def _spread(rows: Sequence[Sequence[float]]) -> float:
    """The standard deviation within rows, pooled: each row's own mean costs a degree of freedom."""
    squares = sum(float(np.sum((np.asarray(row) - np.mean(row)) ** 2)) for row in rows)
    return math.sqrt(squares / max(1, sum(len(row) - 1 for row in rows)))
