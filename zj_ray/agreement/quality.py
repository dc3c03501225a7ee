"""How good each annotator is, from the annotators' rankings alone, and how much their word should weigh.

Every pair of answers that an annotator puts in an order is a decision; the one-coin Dawid–Skene model (crowd-kit) finds
the orders and each annotator's probability of deciding rightly together. One coin, because which answer of a pair
stands first is an accident: a matrix of errors for each position would measure noise. (crowd-kit's NoisyBradleyTerry
would fit a skill from the comparisons directly, but it also has to score every answer from a handful of them, and its
gradient keeps of each annotator's comparisons only the last.) Ties are no decisions. A pair that one annotator alone
decided says nothing of that annotator. What all annotators get wrong alike can't be seen here; gold items show it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
import pandas as pd
from crowdkit.aggregation import OneCoinDawidSkene

from zj_ray.rankings.tables import Ranking

# No annotator is taken to be surer: the orders that they are measured by were fitted to their own decisions.
SUREST = 0.95
PRIOR_PAIRS = 10  # decisions that the average of all annotators counts for in each one's accuracy
LEAST_WEIGHT = 0.05  # of an annotator no better than chance: where nobody else ranked, theirs is the only word


@dataclass(frozen=True)
class Quality:
    """How good an annotator is, as far as the others tell.

    accuracy: the probability of ordering a pair rightly, drawn towards everybody's where the annotator decided few;
    None where nobody's can be told. pairs: decisions on pairs that another annotator decided as well. weight: in
    (0, 1], the best annotator's is 1.
    """

    accuracy: float | None
    pairs: int
    weight: float


@dataclass(frozen=True)
class GoldAccuracy:
    """How an annotator does on gold items.

    accuracy: the share of their ordered pairs that the annotator ordered likewise, a tied one counting half; None
    without a pair.
    """

    accuracy: float | None
    pairs: int
    items: int


def annotator_weights(rankings: Mapping[str, Sequence[Ranking]]) -> dict[str, float]:
    """The weight of each annotator in (0, 1]: the log-odds of their accuracy over the best one's; 1 without accuracy.

    Log-odds are what an independent vote of that accuracy adds to the evidence for an order. An annotator at chance or
    below weighs LEAST_WEIGHT: nobody's word is turned into its opposite.
    """
    return {name: quality.weight for name, quality in annotator_quality(rankings).items()}


def annotator_quality(rankings: Mapping[str, Sequence[Ranking]]) -> dict[str, Quality]:
    """The quality of every annotator in `rankings` (`RankingStore.all_rankings()`), by name."""
    names = sorted({r.annotator for of_item in rankings.values() for r in of_item})
    decisions = _shared(_decisions(rankings))
    if decisions.empty:
        return {name: Quality(None, 0, 1.0) for name in names}
    counts = decisions["worker"].value_counts().reindex(names, fill_value=0)
    skills = OneCoinDawidSkene().fit(_both_ways(decisions)).skills_.reindex(names, fill_value=0.0)
    right = skills * counts  # decisions expected to be right
    accuracy = (right + PRIOR_PAIRS * right.sum() / counts.sum()) / (counts + PRIOR_PAIRS)
    evidence = np.log(accuracy.clip(upper=SUREST) / (1 - accuracy.clip(upper=SUREST)))
    weight = (evidence / evidence.max()).clip(lower=LEAST_WEIGHT) if evidence.max() > 0 else pd.Series(1.0, names)
    return {name: Quality(float(accuracy[name]), int(counts[name]), float(weight[name])) for name in names}


def gold_accuracy(
    rankings: Mapping[str, Sequence[Ranking]], gold: Mapping[str, Sequence[int]]
) -> dict[str, GoldAccuracy]:
    """How every annotator does on the items whose right ranks are known (`RankingStore.gold()`), by name."""
    hits: dict[str, list[float]] = {r.annotator: [] for of_item in rankings.values() for r in of_item}
    items = Counter(r.annotator for item in gold for r in rankings.get(item, ()))
    for item, right in gold.items():
        ordered = [(i, j) for i, j in permutations(range(len(right)), 2) if right[i] < right[j]]
        for r in rankings.get(item, ()):
            hits[r.annotator] += [0.5 + 0.5 * float(np.sign(r.overall[j] - r.overall[i])) for i, j in ordered]
    return {
        name: GoldAccuracy(float(np.mean(of_pairs)) if of_pairs else None, len(of_pairs), items[name])
        for name, of_pairs in sorted(hits.items())
    }


def _decisions(rankings: Mapping[str, Sequence[Ranking]]) -> pd.DataFrame:
    """Every decision: task (item and two positions), worker, label (1: the first of the two is better, or 0)."""
    rows = [
        ((item, i, j), r.annotator, int(r.overall[i] < r.overall[j]))
        for item, of_item in rankings.items()
        for r in of_item
        for i, j in combinations(range(len(r.overall)), 2)
        if r.overall[i] != r.overall[j]
    ]
    frame = pd.DataFrame(rows, columns=["task", "worker", "label"])
    return frame.assign(task=pd.factorize(frame["task"])[0])


def _shared(decisions: pd.DataFrame) -> pd.DataFrame:
    """The decisions on pairs that two or more annotators decided."""
    return decisions[decisions.groupby("task")["worker"].transform("size") > 1]


def _both_ways(decisions: pd.DataFrame) -> pd.DataFrame:
    """Every decision and its mirror image, so that the order in which answers happen to stand can't matter."""
    mirrored = decisions.assign(task=-1 - decisions["task"], label=1 - decisions["label"])
    return pd.concat([decisions, mirrored], ignore_index=True)
