"""The reward model: learns the annotators' rankings from the store, overall and on each aspect."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zj_ray.data.chat import ChatFormat
from zj_ray.evaluation.summary import update_summary
from zj_ray.feedback.annotators import noise_ceiling
from zj_ray.feedback.store import open_store, pairs
from zj_ray.feedback.tables import Item, Ranking
from zj_ray.stages.supervised import train
from zj_ray.stages.workshop import Workshop
from zj_ray.training.examples import Examples
from zj_ray.training.model import HEADS

LENGTH_BINS = (
    ("better is shorter by over 10 characters", -10_000, -10),
    ("within 10 characters", -10, 11),
    ("better is longer by over 10 characters", 11, 10_000),
)


def reward(shop: Workshop) -> dict[str, Any]:
    """Leaves `reward/model`, and in the manifest `score_mean` and `score_deviation` of held-out answers: PPO's scale."""
    config = shop.config
    store = open_store(shop.run.folder / "feedback", config.feedback.label.store)
    rankings = store.all_rankings()
    items = [item for item in store.items() if item.id in rankings]
    store.close()
    order = random.Random(f"{config.seed}/held-out")
    held_out = set(order.sample([item.id for item in items], round(config.feedback.held_out * len(items))))
    split = {"train": [i for i in items if i.id not in held_out], "valid": [i for i in items if i.id in held_out]}
    chat, limit = shop.chat(), config.model.max_length
    examples = {name: ranking_examples(part, rankings, chat, limit) for name, part in split.items()}
    result = train(shop, "reward", "rankings", shop.model(config.reward.init), examples, config.reward)
    measured = measure_accuracy(split["valid"], rankings, result["after"]["scores"])
    measured["pair_accuracy_ceiling"] = _ceiling(shop, split["valid"], rankings)
    update_summary(shop.run.folder, {"reward": measured})
    scale = {"score_mean": float(np.mean(result["after"]["scores"])), "score_deviation": float(np.std(result["after"]["scores"]))}
    return {**scale, **measured, "held_out_pairs": result["after"]["pairs"], "steps": result["steps"]}


def ranking_examples(items: Sequence[Item], rankings: Mapping[str, Sequence[Ranking]], chat: ChatFormat, limit: int) -> Examples:
    """Context and answer as one document for each answer, scored at its last token; left-truncated by whole turns."""
    documents, ranks, groups = [], [], []
    annotators = max((len(rankings[item.id]) for item in items), default=1)
    for number, item in enumerate(items):
        by_head = _ranks(rankings[item.id], len(item.answers), annotators)
        for k, answer in enumerate(item.answers):
            words = chat.text_ids(answer.text) + ([chat.stop_id] if answer.origin.get("finished", True) else [])
            words = words[: limit // 2] or [chat.stop_id]
            documents.append(np.asarray([*chat.prompt(item.context, limit - len(words)), *words]))
            ranks.append(by_head[:, k])
            groups.append(number)
    return Examples(documents, [np.asarray([len(d) - 1]) for d in documents], np.asarray(groups), np.asarray(ranks))


def _ranks(rankings: Sequence[Ranking], answers: int, annotators: int) -> np.ndarray:
    """`[heads, answers, annotators]`; NaN where an annotator did not rank, overall or on an aspect."""
    ranks = np.full((len(HEADS), answers, annotators), np.nan)
    for column, ranking in enumerate(rankings):
        for head, name in enumerate(HEADS):
            given = ranking.overall if name == "overall" else (ranking.aspects or {}).get(name)
            if given is not None:
                ranks[head, :, column] = given
    return ranks


def measure_accuracy(items: Sequence[Item], rankings: Mapping[str, Sequence[Ranking]], scores: Sequence[float]) -> dict[str, Any]:
    """Pair accuracy on held-out contexts, overall and by how much longer the better answer is [characters]."""
    outcomes: list[tuple[int, bool]] = []
    first = 0
    for item in items:
        ours = scores[first : first + len(item.answers)]
        first += len(item.answers)
        for better, worse in pairs(rankings[item.id]):
            longer = len(item.answers[better].text) - len(item.answers[worse].text)
            outcomes.append((longer, ours[better] > ours[worse]))
    bins = {name: [right for longer, right in outcomes if low <= longer < high] for name, low, high in LENGTH_BINS}
    return {
        "pair_accuracy": float(np.mean([right for _, right in outcomes])),
        "pair_accuracy_by_length_bin": {name: {"accuracy": float(np.mean(b)) if b else None, "pairs": len(b)} for name, b in bins.items()},
    }


def _ceiling(shop: Workshop, items: Sequence[Item], rankings: Mapping[str, Sequence[Ranking]]) -> float | None:
    """What the annotators' noise allows; known only where they are simulated."""
    path = shop.run.folder / "feedback" / "utilities.json"
    if not path.exists():
        return None
    utilities = json.loads(path.read_text(encoding="utf-8"))
    return noise_ceiling([utilities[item.id] for item in items], [rankings[item.id] for item in items])
