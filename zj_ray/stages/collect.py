"""The next round of feedback: the policy as it is now answers, no longer the SFT model, and annotators rank that.

A reward model knows the answers that it was trained on. PPO moves the policy away from them, and where it has arrived
the scores are guesses (iterated RLHF: Bai et al. 2022, arXiv 2204.05862, §4.5; Llama 2, arXiv 2307.09288, §3.2). Half
of a round's contexts are therefore moments of the policy's own last consultations. `zj run CONFIG --from reward` then
trains the reward model on the rankings of all rounds, and PPO anew from the SFT model with it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from zj_ray.data.datasets import load_prompts
from zj_ray.data.messages import Message
from zj_ray.errors import DataError
from zj_ray.evaluation.reward_model import disagreements
from zj_ray.files import read_json, read_jsonl, write_json
from zj_ray.rankings.store import open_rankings
from zj_ray.rankings.tables import Item
from zj_ray.roles.reward import ENSEMBLE_FILE
from zj_ray.stages.context import StageContext
from zj_ray.stages.feedback import Context, answer, choose_contexts, conclude, simulate
from zj_ray.stages.reward import ranking_examples, unranked

LAST_STEPS = 0.25  # share of PPO's steps whose consultations count as the policy's own


def collect(context: StageContext, prompts: int) -> dict[str, Any]:
    """Add the answers of the PPO model to so many contexts to the run's store; returns {"round", "items", "ranked"}.

    Simulated annotators, where the run has those, rank at once; an interrupted round of theirs is finished first.
    """
    config = context.config.feedback
    store = open_rankings(context.run.stage("feedback"), config.label.store)
    items, rankings = store.items(), store.all_rankings()
    number = max(map(round_of, items), default=1)
    unfinished = any(item.id not in rankings for item in items if round_of(item) == number)
    if not (unfinished and number > 1 and config.source == "simulated"):
        number += 1
    contexts = next_contexts(context, number, prompts)
    answered = {item.id for item in items}
    fresh = [moment for moment in contexts if moment.id not in answered]
    if fresh:
        store.add_items(answer(context, fresh, "ppo", number))
    added = [item for item in store.items() if round_of(item) == number]
    _order(context, added)
    if config.source == "simulated":
        simulate(context, store, contexts)
    rankings = store.all_rankings()
    context.run.finish("feedback", conclude(context, store))
    return {"round": number, "items": len(added), "ranked": sum(item.id in rankings for item in added)}


def _order(context: StageContext, items: Sequence[Item]) -> None:
    """Let those items come first at the ranking page about which an ensemble of reward models disagrees most.

    They teach it most (`feedback.label.active`). A run with one reward model has no such order.
    """
    context.release_fleet()
    if not (context.model("reward") / ENSEMBLE_FILE).exists() or not items:
        return
    labelled = [unranked(item) for item in items]
    examples = ranking_examples(labelled, context.chat(), context.config.model.max_length)
    with context.scorer(context.model("reward")) as scorer:
        scores = np.concatenate(scorer.member_scores(examples.token_ids, examples.positions))
    path = context.run.stage("feedback") / "priorities.json"
    write_json(path, (read_json(path) or {}) | disagreements(labelled, scores.swapaxes(0, 1)))


def round_of(item: Item) -> int:
    """The round that an item's answers are of; 1: answers of the SFT model, or from a file."""
    return int(item.answers[0].origin.get("round", 1))


def next_contexts(context: StageContext, number: int, count: int) -> list[Context]:
    """Half of the training split as in the first round, half of the policy's own consultations; ids name the round."""
    order = random.Random(f"{context.config.seed}/contexts/{number}")
    own = _own_moments(context, order)
    foreign = choose_contexts(context, order, count)
    inside = order.sample(own, min(count // 2, len(own)))
    outside = order.sample(foreign, min(count - len(inside), len(foreign)))
    return sorted((replace(c, id=f"round-{number}-{c.id}") for c in inside + outside), key=lambda moment: moment.id)


def _own_moments(context: StageContext, order: random.Random) -> list[Context]:
    """From each of the last consultations one moment at which the doctor was to speak, but not for the first time."""
    path = context.run.stage("ppo") / "rollouts.jsonl"
    rows = [row for _, row in read_jsonl(path)]
    if not rows:
        remedy = "let `zj run` finish the ppo stage first"
        raise DataError("PPO has left no consultations to go on from", where=str(path), remedy=remedy)
    prompts = {prompt.id: prompt for prompt in load_prompts(context.run.data_root, "train")}
    since = rows[-1]["step"] * (1.0 - LAST_STEPS)
    moments = []
    for row in rows:
        messages = tuple(Message(**m) for m in row["messages"])
        turns = _turns(messages)
        if row["step"] > since and row["prompt_id"] in prompts and turns:
            name = f"own-{row['step']}-{row['prompt_id']}-{row['sample']}"
            moments.append(Context(name, messages[: order.choice(turns)], prompts[row["prompt_id"]]))
    return moments


def _turns(messages: Sequence[Message]) -> list[int]:
    """Indices of the doctor's turns but the first, up to the first empty message: with that nothing can be ranked."""
    silent = next((i for i, message in enumerate(messages) if not message.content.strip()), len(messages))
    return [i for i, message in enumerate(messages[: silent + 1]) if message.role == "assistant"][1:]
