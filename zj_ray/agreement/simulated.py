"""Simulated annotators: what stands in for the doctors until doctors rank.

Each adds his own error to the true utility of the rubric and ranks by what he then sees; answers that look alike to him
share a rank. Everything written here is of kind "simulated" and is no expert's judgement. An annotator's error depends on
his seed, his name and the item alone, so a feedback stage that was killed and resumed writes the same rankings.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from zj_ray.config.schema import FeedbackConfig
from zj_ray.rankings.aspects import ASPECTS
from zj_ray.rankings.consensus import pairs
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import Item, Ranking
from zj_ray.rules.rubric import Rubric

JUST_NOTICEABLE = 0.5  # smallest difference that an annotator sees, in units of the spread


@dataclass(frozen=True)
class Scale:
    """The spread of each true value among the answers to one context, pooled over all contexts: what an error is measured in.

    What differs between contexts does not count: nobody ranks across them, and where it dominates (a red flag lowers all
    four answers) errors measured by it would drown every ranking.
    """

    utility: float
    aspects: Mapping[str, float]

    @classmethod
    def of(cls, pool: Sequence[Sequence[Rubric]]) -> Scale:
        """The spread over `pool` [items][answers]; 0 where the answers of every item are alike."""
        return cls(
            _spread([[r.utility for r in row] for row in pool]),
            {a: _spread([[getattr(r, a) for r in row] for row in pool]) for a in ASPECTS},
        )


@dataclass(frozen=True)
class SimulatedAnnotator:
    """noise: standard deviation of his error, in units of the spread of the true values (FeedbackConfig.noise)."""

    name: str
    seed: int
    noise: float

    def rank(self, rubrics: Sequence[Rubric], *, scale: Scale, item: str) -> list[int]:
        """Overall ranks [answers], 1 = best, as he sees them: utility with his error on this item."""
        return self._ranks([r.utility for r in rubrics], scale.utility, f"{item}/overall")

    def rank_aspects(self, rubrics: Sequence[Rubric], *, scale: Scale, item: str) -> dict[str, list[int]]:
        """Ranks [answers] on safety, professionalism and fluency, each with an error of its own."""
        return {a: self._ranks([getattr(r, a) for r in rubrics], scale.aspects[a], f"{item}/{a}") for a in ASPECTS}

    def _ranks(self, values: Sequence[float], spread: float, topic: str) -> list[int]:
        digest = hashlib.sha256(f"{self.seed}/{self.name}/{topic}".encode()).digest()
        error = np.random.default_rng(int.from_bytes(digest[:8], "big")).normal(0.0, 1.0, len(values))
        return ranks_with_ties(np.asarray(values, dtype=float) + self.noise * spread * error, JUST_NOTICEABLE * spread)


def ranks_with_ties(values: np.ndarray, just_noticeable: float) -> list[int]:
    """Competition ranks [n] of `values` [n], largest first; a value within `just_noticeable` of its group's best shares its rank."""
    ranks = [0] * len(values)
    best, rank = np.inf, 0
    for place, index in enumerate(np.argsort(-values, kind="stable"), start=1):
        if place == 1 or best - values[index] > just_noticeable:
            best, rank = values[index], place
        ranks[index] = rank
    return ranks


def panel(config: FeedbackConfig, seed: int) -> list[SimulatedAnnotator]:
    """The run's simulated annotators; each name says that he is one."""
    return [SimulatedAnnotator(f"simulated-{k + 1}", seed, config.noise) for k in range(config.annotators)]


def rank_items(
    store: RankingStore,
    items: Sequence[Item],
    rubrics: Mapping[str, Sequence[Rubric]],
    annotators: Sequence[SimulatedAnnotator],
) -> int:
    """Have every annotator rank every item that he has not ranked yet; returns the number of rankings added.

    rubrics: the true values of each item's answers, by item id, in the answers' order; all of them set the scale.
    """
    scale = Scale.of([rubrics[item.id] for item in items])
    done = {(r.item, r.annotator) for known in store.all_rankings().values() for r in known}
    fresh = [
        Ranking(
            item.id,
            annotator.name,
            "simulated",
            tuple(annotator.rank(rubrics[item.id], scale=scale, item=item.id)),
            {
                a: tuple(ranks)
                for a, ranks in annotator.rank_aspects(rubrics[item.id], scale=scale, item=item.id).items()
            },
        )
        for item in items
        for annotator in annotators
        if (item.id, annotator.name) not in done
    ]
    store.add_rankings(fresh)
    return len(fresh)


def noise_ceiling(utilities: Sequence[Sequence[float]], rankings: Sequence[Sequence[Ranking]]) -> float | None:
    """The pair accuracy that knowing the true utility reaches against the annotators' majority: no reward model can be expected to beat it.

    utilities: [items][answers]; rankings: [items][annotators] of the same held-out items. An equal utility counts half, as
    a guess would. None without a pair.
    """
    hits = []
    for true, seen in zip(utilities, rankings, strict=True):
        hits += [0.5 if true[i] == true[j] else float(true[i] > true[j]) for i, j in pairs(seen)]
    return float(np.mean(hits)) if hits else None


def _spread(rows: Sequence[Sequence[float]]) -> float:
    """Standard deviation within rows, pooled: each row's own mean costs a degree of freedom."""
    squares = sum(float(np.sum((np.asarray(row) - np.mean(row)) ** 2)) for row in rows)
    return math.sqrt(squares / max(1, sum(len(row) - 1 for row in rows)))
