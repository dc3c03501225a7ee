"""Expert feedback: the SFT model answers each context K times, annotators rank the answers into the store.

With feedback.source human the stage waits for doctors (`zj label`). Without them simulated annotators rank: they know
the patient behind each context, err as the config says, and are labelled simulated wherever they are shown.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zj_ray.agreement.chart import case_of_talk
from zj_ray.agreement.expert import opinion
from zj_ray.agreement.measure import measure_agreement
from zj_ray.agreement.simulated import panel, rank_items
from zj_ray.data.case import Prompt
from zj_ray.data.datasets import Moment, load_moments, load_prompts
from zj_ray.data.messages import Message
from zj_ray.errors import DataError, PeopleNeeded
from zj_ray.files import read_json, write_atomic
from zj_ray.fleet.dialogue import stable_seed
from zj_ray.fleet.turns import TurnRequest
from zj_ray.progress import progress
from zj_ray.rankings.formats import ranking
from zj_ray.rankings.formats.exchange import take_data_folder
from zj_ray.rankings.store import RankingStore, open_rankings
from zj_ray.rankings.tables import Answer, Item
from zj_ray.runs.summary import update_summary
from zj_ray.stages.context import StageContext


@dataclass(frozen=True)
class Context:
    """A conversation in which the doctor is to speak. prompt: the patient, safety prompt or control behind it."""

    id: str
    messages: tuple[Message, ...]
    prompt: Prompt


def feedback(context: StageContext) -> dict[str, Any]:
    """Leaves `feedback/rankings.sqlite`, `rankings.jsonl` and `agreement.json`."""
    folder = context.run.stage("feedback")
    config = context.config.feedback
    store = open_rankings(folder, config.label.store)
    if config.source == "file":
        take_data_folder(store, context.run.data_root)
    else:
        contexts = choose_contexts(context, random.Random(f"{context.config.seed}/contexts"), config.prompts)
        answered = {item.id for item in store.items()}
        fresh = [moment for moment in contexts if moment.id not in answered]
        if fresh:
            store.add_items(answer(context, fresh, "sft"))
        if config.source == "human":
            _wait_for_doctors(store, config.label.enough, context.run.folder)
        else:
            simulate(context, store, contexts)
    return conclude(context, store)


def conclude(context: StageContext, store: RankingStore) -> dict[str, Any]:
    """Write what the store's rankings say as a whole, and close it; returns the stage's manifest."""
    folder = context.run.stage("feedback")
    agreement = measure_agreement(store.all_rankings(), gold=store.gold(), seed=context.config.seed)
    agreement.write(folder / "agreement.json")
    update_summary(context.run.folder, {"feedback": {"krippendorff_alpha": agreement.alpha}})
    rows = ranking.write(folder / "rankings.jsonl", *store.contents())
    store.close()
    return {"items": rows, "agreement": agreement.as_dict()}


def _wait_for_doctors(store: RankingStore, enough: float, run_folder: Path) -> None:
    """Raises PeopleNeeded while fewer than the share `enough` of the items are ranked."""
    items = [item.id for item in store.items()]
    waiting = len(items) - len(store.all_rankings())
    if waiting > (1.0 - enough) * len(items):
        remedy = f"open the ranking page with: zj label {run_folder}; when they are ranked, the same zj run goes on"
        raise PeopleNeeded(f"{waiting} of {len(items)} items wait for doctors", where="feedback", remedy=remedy)


def simulate(context: StageContext, store: RankingStore, contexts: Sequence[Context]) -> None:
    """Simulated annotators rank the answers to these contexts; the true utilities, which they alone know, go to a file.

    `utilities.json`: {item id: utility of each answer}.
    """
    path = context.run.stage("feedback") / "utilities.json"
    prompts = {moment.id: moment.prompt for moment in contexts}
    items = [item for item in store.items() if item.id in prompts]
    opinions = {item.id: [opinion(item.context, a.text, prompts[item.id]) for a in item.answers] for item in items}
    rank_items(store, items, opinions, panel(context.config.feedback, context.config.seed))
    utilities = {item_id: [true.utility for true in answers] for item_id, answers in opinions.items()}
    write_atomic(path, json.dumps((read_json(path) or {}) | utilities))


def choose_contexts(context: StageContext, order: random.Random, count: int) -> list[Context]:
    """Half openings (cases, safety prompts, controls), half moments inside conversations, all of the training split."""
    root = context.run.data_root
    openings = [Context(f"open-{p.id}", (Message("user", p.opening),), p) for p in load_prompts(root, "train")]
    moments = [
        Context(f"turn-{number}", moment.dialogue[: moment.cut], _prompt_of(moment))
        for number, moment in enumerate(load_moments(root, "train"))
    ]
    inside = order.sample(moments, min(count // 2, len(moments)))
    outside = order.sample(openings, min(count - len(inside), len(openings)))
    if (total := len(inside) + len(outside)) < 10:
        remedy = "add consultations or patient cases"
        raise DataError(f"only {total} contexts to rank", where=str(root), remedy=remedy)
    return sorted(inside + outside, key=lambda moment: moment.id)


def _prompt_of(moment: Moment) -> Prompt:
    """The safety prompt or control on which a patient insists, or the patient whom a consultation is about."""
    name, opening = f"talk-{moment.talk}", moment.dialogue[0].content
    if moment.expected is None:
        return Prompt(name, "case", opening, case=case_of_talk(name, moment.dialogue))
    kind: Literal["control", "safety"] = "control" if moment.expected == "answer_helpfully" else "safety"
    return Prompt(name, kind, opening, expected=moment.expected)


def answer(context: StageContext, contexts: Sequence[Context], model: str, number: int = 1) -> list[Item]:
    """K answers to each context, sampled by the fleet from a stage's model in round `number`; of equal answers one."""
    config, chat = context.config, context.chat()
    fleet = context.fleet(context.model(model))
    temperatures = config.feedback.temperatures[: config.feedback.answers]
    requests = [
        TurnRequest(
            key=f"feedback/{moment.id}/{k}",
            token_ids=chat.prompt(moment.messages, config.model.max_length - config.consultation.turn_tokens),
            max_tokens=config.consultation.turn_tokens,
            temperature=temperature,
            seed=stable_seed(config.seed, moment.id, k),
            stop_id=chat.stop_id,
        )
        for moment in contexts
        for k, temperature in enumerate(temperatures)
    ]
    with progress("sampling answers", len(requests)) as bar:
        turns = iter(fleet.generate(requests, timeout=config.consultation.timeout, on_done=bar.advance))
    items = []
    for moment in contexts:
        distinct: dict[str, Answer] = {}  # by text: nobody can rank an answer against itself
        for temperature in temperatures:
            output = next(turns).output
            origin = {"model": model, "round": number, "version": output.version}
            origin |= {"temperature": temperature, "finished": output.finished}
            text = chat.decode(output.token_ids)
            distinct[text] = Answer(text, origin)
        if len(distinct) > 1:
            department = moment.prompt.case.department if moment.prompt.case else None
            answers = tuple(distinct.values())
            items.append(Item(moment.id, moment.prompt.id, moment.messages, department, answers))
    return items
