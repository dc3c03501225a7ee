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
from zj_ray.rankings.lots import draw
from zj_ray.rankings.tables import Answer, Item, Ranking

STOPPING = 0.1  # the share of the training prompts by which early stopping decides


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


def is_held_out(items: Sequence[Item], share: float, seed: int) -> dict[str, bool]:
    """Whether each item, by id, is kept back to measure the reward model.

    All of valid/ are, none of train/, and `share` of the prompts that come from neither. The prompt's id and the seed
    alone decide, so that a prompt that is answered anew in a later round stays on its side. At least one is kept back.
    """
    lots = _lots(items, f"{seed}/held-out")
    splits = {item.id: item.answers[0].origin.get("split") for item in items}
    held_out = {i: splits[i] == "valid" if splits[i] else lot < share for i, lot in lots.items()}
    if not any(held_out.values()):
        least = min((lot for i, lot in lots.items() if not splits[i]), default=None)
        held_out |= {i: True for i, lot in lots.items() if lot == least}
    return held_out


def stop_by(training: Sequence[Item], seed: int) -> set[str]:
    """Ids of the training items that early stopping looks at, which are not learnt: those of `STOPPING` of the prompts.

    At least those of one prompt, but never all.
    """
    lots = _lots(training, f"{seed}/stopping")
    least = min(lots.values(), default=0.0)
    chosen = {item for item, lot in lots.items() if lot < STOPPING or lot == least}
    return chosen if len(chosen) < len(lots) else set()


def _lots(items: Sequence[Item], name: str) -> dict[str, float]:
    """A number in [0, 1) for each item, by id: the lot of its prompt, so that it is the same in every round."""
    return {item.id: draw(f"{name}/{item.prompt_id}") for item in items}
