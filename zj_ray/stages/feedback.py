"""Expert feedback: the SFT model answers each context K times, annotators rank the answers into the store.

With feedback.source human the stage waits for doctors (`zj label`). Without them simulated annotators rank: rules plus
stated noise, and labelled simulated wherever they are shown.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zj_ray.agreement.measure import measure_agreement
from zj_ray.agreement.simulated import panel, rank_items
from zj_ray.data.case import Prompt
from zj_ray.data.chat import ChatFormat
from zj_ray.data.datasets import load_moments, load_prompts
from zj_ray.data.messages import Message
from zj_ray.errors import DataError, PeopleNeeded
from zj_ray.files import write_atomic
from zj_ray.fleet.dialogue import stable_seed
from zj_ray.fleet.turns import TurnRequest
from zj_ray.progress import progress
from zj_ray.rankings.formats import ranking
from zj_ray.rankings.formats.exchange import take_data_folder
from zj_ray.rankings.store import RankingStore, open_rankings
from zj_ray.rankings.tables import Answer, Item
from zj_ray.rules.rubric import rubric
from zj_ray.runs.summary import update_summary
from zj_ray.stages.context import StageContext


@dataclass(frozen=True)
class Context:
    """A conversation in which the doctor is to speak. prompt: the case or safety prompt behind it, where known."""

    id: str
    messages: tuple[Message, ...]
    prompt: Prompt | None


def feedback(context: StageContext) -> dict[str, Any]:
    """Leaves `feedback/rankings.sqlite`, `rankings.jsonl` and `agreement.json`."""
    folder = context.run.stage("feedback")
    config = context.config.feedback
    store = open_rankings(folder, config.label.store)
    known = {item.id for item in store.items()}
    if config.source == "file":
        take_data_folder(store, context.run.data_root)
    else:
        contexts = choose_contexts(context, random.Random(f"{context.config.seed}/contexts"), config.prompts)
        fresh = [moment for moment in contexts if moment.id not in known]
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
    """Simulated annotators rank the answers to these contexts; the true utilities go to `utilities.json`, as only they know them."""
    path = context.run.stage("feedback") / "utilities.json"
    prompts = {moment.id: moment.prompt for moment in contexts}
    items = [item for item in store.items() if item.id in prompts]
    rubrics = {item.id: [rubric(item.context, a.text, prompt=prompts[item.id]) for a in item.answers] for item in items}
    rank_items(store, items, rubrics, panel(context.config.feedback, context.config.seed))
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    utilities = {item_id: [r.utility for r in rows] for item_id, rows in rubrics.items()}
    write_atomic(path, json.dumps(known | utilities))


def choose_contexts(context: StageContext, order: random.Random, wanted: int) -> list[Context]:
    """Half openings (cases, safety prompts, controls), half moments inside conversations, all from the training split."""
    openings = [
        Context(f"open-{p.id}", (Message("user", p.opening),), p) for p in load_prompts(context.run.data_root, "train")
    ]
    moments = [
        Context(f"turn-{number}", messages, _insisting(number, messages, expected))
        for number, (messages, expected) in enumerate(load_moments(context.run.data_root, "train"))
    ]
    inside = order.sample(moments, min(wanted // 2, len(moments)))
    outside = order.sample(openings, min(wanted - len(inside), len(openings)))
    if len(inside) + len(outside) < 10:
        raise DataError(
            f"only {len(inside) + len(outside)} contexts to rank",
            where=str(context.run.data_root),
            remedy="add consultations or patient cases",
        )
    return sorted(inside + outside, key=lambda moment: moment.id)


def _insisting(number: int, messages: Sequence[Message], expected: str | None) -> Prompt | None:
    """The safety prompt or control behind a conversation in which the patient insists; None for a consultation."""
    if expected is None:
        return None
    return Prompt(
        f"turn-{number}",
        "control" if expected == "answer_helpfully" else "safety",
        messages[0].content,
        expected=expected,
    )


def answer(context: StageContext, contexts: Sequence[Context], model: str, number: int = 1) -> list[Item]:
    """K answers for each context, sampled by the fleet from a stage's model in round `number`; fewer where it says the same twice."""
    config, chat = context.config, context.chat()
    fleet = context.fleet(context.model(model))
    origin = {"model": model, "round": number}
    requests = [
        TurnRequest(
            f"feedback/{moment.id}/{k}",
            chat.prompt(moment.messages, config.model.max_length - config.consultation.turn_tokens),
            config.consultation.turn_tokens,
            config.feedback.temperatures[k],
            stable_seed(config.seed, moment.id, k),
            chat.stop_id,
        )
        for moment in contexts
        for k in range(config.feedback.answers)
    ]
    with progress("sampling answers", len(requests)) as bar:
        answered = fleet.generate(requests, timeout=config.consultation.timeout, on_done=bar.advance)
    items = []
    for number, moment in enumerate(contexts):
        group = answered[number * config.feedback.answers : (number + 1) * config.feedback.answers]
        answers = [_record(chat, config, k, a.output, origin) for k, a in enumerate(group)]
        distinct = tuple(
            {answer.text: answer for answer in answers}.values()
        )  # nobody can rank an answer against itself
        if len(distinct) > 1:
            prompt_id = moment.prompt.id if moment.prompt else moment.id
            items.append(Item(moment.id, prompt_id, moment.messages, _department(moment), distinct))
    return items


def _department(moment: Context) -> str | None:
    return moment.prompt.case.department if moment.prompt is not None and moment.prompt.case is not None else None


def _record(chat: ChatFormat, config: Any, k: int, output: Any, origin: dict[str, Any]) -> Answer:
    said = {"version": output.version, "temperature": config.feedback.temperatures[k], "finished": output.finished}
    return Answer(chat.decode(output.token_ids), origin | said)
