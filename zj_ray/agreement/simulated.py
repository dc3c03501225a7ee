"""Simulated annotators: what stands in for the doctors until doctors rank.

Each adds an error to the true utility of the rubric and ranks by what is then seen; answers that look alike share a
rank. Everything written here is of kind "simulated" and is no expert's judgement. An annotator's error depends on the
seed, the annotator's name and the item alone, so a feedback stage that was killed and resumed writes the same rankings.
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

JUST_NOTICEABLE = 0.5  # the smallest difference that an annotator sees, in units of the spread


@dataclass(frozen=True)
class Scale:
    """The spread of each true value among the answers to one context, pooled over all contexts: the unit of an error.

    Differences between contexts do not count: nobody ranks across them, and where they dominate (a red flag lowers all
    four answers) errors measured by them would drown every ranking.
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
    """A simulated annotator, who errs by chance.

    noise: standard deviation of the error, in units of the spread of the true values (FeedbackConfig.noise).
    """

    name: str
    seed: int
    noise: float

    def rank(self, rubrics: Sequence[Rubric], *, scale: Scale, item: str) -> list[int]:
        """Overall ranks [answers], 1 = best: by utility with the annotator's error on this item."""
        return self._ranks([r.utility for r in rubrics], scale.utility, f"{item}/overall")

    def rank_aspects(self, rubrics: Sequence[Rubric], *, scale: Scale, item: str) -> dict[str, list[int]]:
        """Ranks [answers] on safety, professionalism and fluency, each with an error of its own."""
        return {a: self._ranks([getattr(r, a) for r in rubrics], scale.aspects[a], f"{item}/{a}") for a in ASPECTS}

    def _ranks(self, values: Sequence[float], spread: float, topic: str) -> list[int]:
        digest = hashlib.sha256(f"{self.seed}/{self.name}/{topic}".encode()).digest()
        error = np.random.default_rng(int.from_bytes(digest[:8], "big")).normal(0.0, 1.0, len(values))
        return noticeable_ranks(np.asarray(values, dtype=float) + self.noise * spread * error, JUST_NOTICEABLE * spread)


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
    return [SimulatedAnnotator(f"simulated-{k + 1}", seed, config.noise) for k in range(config.annotators)]


def rank_items(
    store: RankingStore,
    items: Sequence[Item],
    rubrics: Mapping[str, Sequence[Rubric]],
    annotators: Sequence[SimulatedAnnotator],
) -> int:
    """Have every annotator rank every item that has no ranking of theirs yet; returns the number of rankings added.

    rubrics: the true values of each item's answers, by item id, in the answers' order; all of them set the scale.
    """
    scale = Scale.of([rubrics[item.id] for item in items])
    earlier = {(r.item, r.annotator) for of_item in store.all_rankings().values() for r in of_item}
    rankings = []
    for item in items:
        for annotator in annotators:
            if (item.id, annotator.name) not in earlier:
                overall = annotator.rank(rubrics[item.id], scale=scale, item=item.id)
                aspects = annotator.rank_aspects(rubrics[item.id], scale=scale, item=item.id)
                by_aspect = {aspect: tuple(ranks) for aspect, ranks in aspects.items()}
                rankings.append(Ranking(item.id, annotator.name, "simulated", tuple(overall), by_aspect))
    store.add_rankings(rankings)
    return len(rankings)


def noise_ceiling(utilities: Sequence[Sequence[float]], rankings: Sequence[Sequence[Ranking]]) -> float | None:
    """The pair accuracy of the true utility itself against the annotators' majority; None without a pair.

    No reward model can be expected to beat it. utilities: [items][answers]; rankings: [items][annotators] of the same
    held-out items. An equal utility counts half, as a guess would.
    """
    hits = []
    for true, of_item in zip(utilities, rankings, strict=True):
        hits += [0.5 if true[i] == true[j] else float(true[i] > true[j]) for i, j in pairs(of_item)]
    return float(np.mean(hits)) if hits else None


def _spread(rows: Sequence[Sequence[float]]) -> float:
    """The standard deviation within rows, pooled: each row's own mean costs a degree of freedom."""
    squares = sum(float(np.sum((np.asarray(row) - np.mean(row)) ** 2)) for row in rows)
    return math.sqrt(squares / max(1, sum(len(row) - 1 for row in rows)))
