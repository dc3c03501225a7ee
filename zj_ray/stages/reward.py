"""The reward model: learns the annotators' rankings from the store, overall and on each aspect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zj_ray.agreement.quality import annotator_weights
from zj_ray.algorithms.ensemble import Ensemble
from zj_ray.data.chat import ChatFormat
from zj_ray.errors import DataError
from zj_ray.evaluation.reward_model import disagreements, measure_reward, summarise, table
from zj_ray.files import read_json, write_json
from zj_ray.progress import console
from zj_ray.rankings.aspects import HEADS
from zj_ray.rankings.labels import RankedForTraining, label_items
from zj_ray.rankings.split import is_held_out, stop_by
from zj_ray.rankings.store import open_rankings
from zj_ray.rankings.tables import Item
from zj_ray.roles.reward import save_ensemble
from zj_ray.runs.summary import update_summary
from zj_ray.stages.context import StageContext
from zj_ray.stages.supervised import train
from zj_ray.training.packing import shared_length
from zj_ray.training.supervised.examples import Examples


@dataclass(frozen=True)
class Feedback:
    """train, stopping, valid: ranked items, to learn, to stop by and to measure; unseen: items that nobody ranked."""

    train: list[RankedForTraining]
    stopping: list[RankedForTraining]
    valid: list[RankedForTraining]
    unseen: list[RankedForTraining]


def reward(context: StageContext) -> dict[str, Any]:
    """Leaves `reward/model` (further members in `reward/member-2/model` …) and `reward/accuracy.json`.

    With an ensemble also `model/ensemble.json` and `feedback/priorities.json`. The manifest has PPO's scale:
    `score_mean` and `score_deviation` of the held-out answers, as the members score them together.
    """
    config = context.config.reward
    feedback = read_feedback(context)
    chat, limit = context.chat(), context.config.model.max_length
    parts = {"train": feedback.train, "valid": feedback.valid}
    if feedback.stopping:
        parts["stopping"] = feedback.stopping
    if config.ensemble > 1 and feedback.unseen:
        parts["unseen"] = feedback.unseen
    examples = {split: ranking_examples(items, chat, limit) for split, items in parts.items()}
    start = context.model(config.init)
    members = [
        train(context, "reward", "rankings", start=start, examples=examples, config=config, member=member)
        for member in range(1, config.ensemble + 1)
    ]
    scores = np.array([member["after"]["scores"] for member in members])  # [members, answers, heads]
    combined = _combine(context, scores)
    utilities = read_json(context.run.folder / "feedback" / "utilities.json")
    measured = measure_reward(scores, combined, feedback.valid, feedback.train, utilities)
    measured |= {"held_out": [member["held_out"] for member in members]}
    write_json(context.run.folder / "reward" / "accuracy.json", measured)
    if "unseen" in examples:
        unlike = disagreements(feedback.unseen, np.array([member["unseen"]["scores"] for member in members]))
        write_json(context.run.folder / "feedback" / "priorities.json", unlike)
    console.print(table(measured))
    summary = summarise(measured)
    update_summary(context.run.folder, {"reward": summary})
    scale = {"score_mean": float(np.mean(combined[:, 0])), "score_deviation": float(np.std(combined[:, 0]))}
    steps = {name: [member[name] for member in members] for name in ("steps", "kept")}
    return {**scale, **summary, **steps, "disagreement": measured["disagreement"], "tokens": _tokens(examples["train"])}


def _combine(context: StageContext, scores: np.ndarray) -> np.ndarray:
    """The held-out answers' scores as PPO will see them, `[answers, heads]`. scores: `[members, answers, heads]`.

    How several members' come to one is written beside the first of them.
    """
    if len(scores) == 1:
        return scores[0]
    ensemble = Ensemble.fit(scores, context.config.reward.pessimism)
    folder = context.run.folder / "reward"
    others = [folder / f"member-{number}" / "model" for number in range(2, len(scores) + 1)]
    save_ensemble(folder / "model", others, ensemble)
    return ensemble.combine(scores)


def read_feedback(context: StageContext) -> Feedback:
    """The store's items with their labels. Raises DataError where there is none to train on."""
    store = open_rankings(context.run.folder / "feedback", context.config.feedback.label.store)
    items, rankings = store.items(), store.all_rankings()
    store.close()
    ranked = [item for item in items if item.id in rankings]
    held_out = is_held_out(ranked, context.config.feedback.held_out, context.config.seed)
    if not ranked or all(held_out.values()):
        remedy = "rank more items, or lower feedback.held_out"
        raise DataError("there is no ranking to train on", where=store.location, remedy=remedy)
    training = [item for item in ranked if not held_out[item.id]]
    learnt = {item: ranked_by for item, ranked_by in rankings.items() if not held_out[item]}
    weights = annotator_weights(learnt) if context.config.reward.noise_weighting else None
    stopping = stop_by(training, context.config.seed) if context.config.reward.patience is not None else set()
    return Feedback(
        train=label_items([item for item in training if item.id not in stopping], rankings, weights),
        stopping=label_items([item for item in training if item.id in stopping], rankings, weights),
        valid=label_items([item for item in ranked if held_out[item.id]], rankings, weights),
        unseen=[unranked(item) for item in items if item.id not in rankings],
    )


def unranked(item: Item) -> RankedForTraining:
    """An item that nobody has ranked: it has no label."""
    return RankedForTraining(item, np.full((len(HEADS), len(item.answers), 1), np.nan), np.ones(1))


def ranking_examples(items: Sequence[RankedForTraining], chat: ChatFormat, limit: int) -> Examples:
    """One document for each answer, its context before it, scored at the last token.

    Contexts that are too long lose whole turns at their beginning, the same ones for all K answers.
    """
    documents, ranks, weights, groups = [], [], [], []
    annotators = max(len(labelled.weights) for labelled in items)
    for number, labelled in enumerate(items):
        answers = [
            chat.text_ids(a.text) + ([chat.stop_id] if a.origin.get("finished", True) else [])
            for a in labelled.item.answers
        ]
        room = _room(labelled.item, chat, limit)
        answers = [words[:room] or [chat.stop_id] for words in answers]
        prompt = chat.prompt(labelled.item.context, limit - max(map(len, answers)))
        absent = annotators - len(labelled.weights)
        documents += [np.asarray([*prompt, *words]) for words in answers]
        ranks.append(np.pad(labelled.ranks.swapaxes(0, 1), ((0, 0), (0, 0), (0, absent)), constant_values=np.nan))
        weights += [np.pad(labelled.weights, (0, absent))] * len(answers)
        groups += [number] * len(answers)
    ends = [np.asarray([len(d) - 1]) for d in documents]
    return Examples(documents, ends, np.asarray(groups), np.concatenate(ranks), np.asarray(weights))


def _room(item: Item, chat: ChatFormat, limit: int) -> int:
    """Tokens that an answer may take: half of them, less where the last question alone needs more.

    Raises DataError when the question leaves none.
    """
    question = len(chat.prompt([*(m for m in item.context if m.role == "system"), item.context[-1]]))
    if question >= limit:
        what = f"the last question alone takes {question} of {limit} tokens"
        raise DataError(what, where=f"item {item.id!r}", remedy="raise model.max_length, or leave the item out")
    return min(limit // 2, limit - question)


def _tokens(examples: Examples) -> dict[str, int]:
    """Tokens of one pass: as computed, each prompt once, and as they would be with the prompt before each answer."""
    assert examples.groups is not None
    prompts = [np.flatnonzero(examples.groups == group) for group in np.unique(examples.groups)]
    shared = sum(shared_length([examples.token_ids[i] for i in prompt]) for prompt in prompts)
    return {"shared": shared, "unshared": examples.tokens}
