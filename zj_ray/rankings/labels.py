"""What the reward model learns from: each ranked item with the answers, ranks and weights that its rankings come to.

Where an adjudicator decided, that ranking alone counts. Where an annotator found every answer wrong and wrote the right
one, that is one more answer, which this annotator ranks above all others and the rest of the annotators not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from zj_ray.rankings.aspects import HEADS, OVERALL
from zj_ray.rankings.consensus import settled
from zj_ray.rankings.tables import Answer, Item, Ranking


@dataclass(frozen=True)
class RankedForTraining:
    """An item as the reward model learns it.

    ranks: `[heads, answers, annotators]`, lower is better, NaN where there is no rank. weights: `[annotators]`.
    """

    item: Item
    ranks: np.ndarray
    weights: np.ndarray


def label_items(
    items: Sequence[Item], rankings: Mapping[str, Sequence[Ranking]], weights: Mapping[str, float] | None = None
) -> list[RankedForTraining]:
    """The items that have rankings, with their ranks.

    weights: of annotators by name (`annotator_weights`); who has none weighs 1.
    """
    return [_ranked(item, settled(rankings[item.id]), weights or {}) for item in items if item.id in rankings]


def _ranked(item: Item, rankings: Sequence[Ranking], weights: Mapping[str, float]) -> RankedForTraining:
    texts = [answer.text for answer in item.answers]
    right = {r.right_answer: None for r in rankings if r.all_wrong and r.right_answer and r.right_answer not in texts}
    whole = replace(item, answers=(*item.answers, *(Answer(text, {"kind": "right_answer"}) for text in right)))
    ranks = np.full((len(HEADS), len(whole.answers), len(rankings)), np.nan)
    for column, ranking in enumerate(rankings):
        by_head = {OVERALL: ranking.overall, **(ranking.aspects or {})}
        for head, name in enumerate(HEADS):
            if name in by_head:
                ranks[head, : len(texts), column] = by_head[name]
        if ranking.all_wrong and ranking.right_answer in right:
            ranks[0, len(texts) + list(right).index(ranking.right_answer), column] = 0
    return RankedForTraining(whole, ranks, np.array([weights.get(r.annotator, 1.0) for r in rankings]))
