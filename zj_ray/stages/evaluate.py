"""Evaluation: the SFT model against the PPO model on cases, safety prompts and controls that neither was trained on.

Two kinds of figures are kept apart. What PPO was paid for (the reward and its parts, the judge of safety prompts) says
whether it learnt that; every row of the table says which part of the reward paid for it. Wins are judged by the rubric,
which pays nobody but reads the same words by rules, as the reward does: a win is a better text by those rules, and says
nothing of medicine. Cases are resampled by case, safety prompts and controls by question.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from zj_ray.data.case import Prompt
from zj_ray.data.chat import ChatFormat
from zj_ray.data.datasets import load_consultations, load_general, load_new, load_prompts
from zj_ray.data.trajectory import Trajectory
from zj_ray.evaluation import headline
from zj_ray.evaluation.answers import Answered, of_answers
from zj_ray.evaluation.measures.paired import ByUnit
from zj_ray.evaluation.measures.table import tabulate
from zj_ray.evaluation.measures.talks import (
    Measured,
    of_consultations,
    of_emergencies,
    of_new_conditions,
)
from zj_ray.evaluation.results import EvaluationResults, ModelResult, OverRefusal, SafetyPasses
from zj_ray.evaluation.rounds import against_earlier, earlier_round, mean_utility
from zj_ray.evaluation.statistics import compare, mean_interval, ratio_interval
from zj_ray.files import write_jsonl
from zj_ray.fleet.dialogue import DialogueSettings, stable_seed
from zj_ray.fleet.turns import TurnRequest
from zj_ray.ppo.record import rollout_row
from zj_ray.progress import Bar, console, progress
from zj_ray.rewards.mix import ScoredTurns, ScoreScale, score_consultations
from zj_ray.roles.batch import RolloutBatch
from zj_ray.roles.scorer import Scorer
from zj_ray.rules.safety import judge
from zj_ray.rules.verdict import Reason
from zj_ray.runs.summary import update_summary
from zj_ray.stages.context import StageContext

MODELS = ("sft", "ppo")
NEW = "new_"  # before the kind of a prompt of which training has nothing alike
T = TypeVar("T")


@dataclass(frozen=True)
class Examination:
    """What one model did: its consultations with the cases, and its first answers to safety prompts and controls.

    new: consultations with patients whose condition training has nothing of. answers: prompt, answer, and the rules'
    verdict on it; new_answers: the same to questions on matters that training has nothing of.
    """

    trajectories: list[Trajectory]
    new: list[Trajectory]
    answers: list[Answered]
    new_answers: list[Answered]


def evaluate(context: StageContext) -> dict[str, Any]:
    """Leaves `evaluate/results.json` and `consultations.jsonl`, and says on the console what fell."""
    folder = context.run.stage("evaluate")
    prompts = _prompts(context)
    cases = {case.id: case for case in prompts["case"]}
    talks = len(cases) + len(prompts["new_case"])
    guarded = sum(len(chosen) for chosen in prompts.values()) - talks
    total = len(MODELS) * (talks + context.config.evaluate.safety_samples * guarded)
    with context.scorer(context.model("reward")) as scorer:
        with progress("evaluate", total) as bar:
            examinations = {name: _examine(context, name, prompts, bar) for name in MODELS}
        scored = {name: _score(context, scorer, cases, examinations[name].trajectories) for name in MODELS}
        perplexity = _perplexities(context, scorer)
        likelihoods = {name: _likelihoods(context, scorer, name) for name in MODELS}
    measured = {
        name: {**_measured(prompts, examinations[name], scored[name]), "doctor_likelihood": likelihoods[name]}
        for name in MODELS
    }
    results = _results(context, cases, examinations, scored, perplexity, measured)
    results.write(folder / "results.json")
    _write_consultations(folder / "consultations.jsonl", cases, examinations, scored)
    _announce(results)
    update_summary(context.run.folder, {"evaluate": results.summary()})
    return results.summary()


def _announce(results: EvaluationResults) -> None:
    console.print(headline.table(results))
    for notice, rows in headline.warnings(results).items():
        console.print("\n  ".join([notice, *rows]), markup=False, soft_wrap=True)
    console.print(headline.outcome(results), markup=False, soft_wrap=True)


def _prompts(context: StageContext) -> dict[str, list[Prompt]]:
    """Unseen prompts of each kind, spread evenly over the file so that no category is cut off.

    "new_case", "new_safety", "new_control": those of which training has nothing alike.
    """
    settings, root = context.config.evaluate, context.run.data_root
    limits = {"case": settings.cases, "safety": settings.safety_prompts, "control": settings.controls}
    new = {"case": settings.new_conditions, "safety": settings.new_matters, "control": settings.new_matters}
    unseen, unlike = load_prompts(root, "valid"), load_new(root)
    chosen = {kind: _spread([p for p in unseen if p.kind == kind], limit) for kind, limit in limits.items()}
    return chosen | {f"{NEW}{kind}": _spread([p for p in unlike if p.kind == kind], n) for kind, n in new.items()}


def _spread(pool: Sequence[T], limit: int) -> list[T]:
    """At most `limit` of the pool, evenly over it."""
    numbers = np.linspace(0, len(pool) - 1, min(limit, len(pool))).round().astype(int)
    return [pool[i] for i in numbers]


def _examine(context: StageContext, name: str, prompts: dict[str, list[Prompt]], bar: Bar) -> Examination:
    config, chat = context.config, context.chat()
    fleet = context.fleet(context.model(name))
    settings = DialogueSettings(
        max_turns=config.consultation.max_turns,
        turn_tokens=config.consultation.turn_tokens,
        max_length=config.model.max_length,
        temperature=config.evaluate.temperature,
    )
    consultations = fleet.rollout(
        [(prompt, 0) for prompt in prompts["case"] + prompts["new_case"]],
        key=f"evaluate-{name}",
        seed=stable_seed(config.seed, "evaluate"),  # the same patients for both models
        chat=chat,
        settings=settings,
        timeout=config.consultation.timeout,
        on_done=bar.advance,
    )
    samples = range(config.evaluate.safety_samples)
    known, new = (prompts[f"{n}safety"] + prompts[f"{n}control"] for n in ("", NEW))
    guarded = [prompt for prompt in known + new for _ in samples]
    requests = [_request(context, chat, name, prompt, number) for number, prompt in enumerate(guarded)]
    turns = fleet.generate(requests, timeout=config.consultation.timeout, on_done=bar.advance)
    texts = [chat.decode(turn.output.token_ids) for turn in turns]
    verdicts = [
        judge(text, p.expected or "answer_helpfully", p.opening) for p, text in zip(guarded, texts, strict=True)
    ]
    answers = list(zip(guarded, texts, verdicts, strict=True))
    strangers = {prompt.id for prompt in prompts["new_case"]}
    return Examination(
        [t for t in consultations.trajectories if t.prompt_id not in strangers],
        [t for t in consultations.trajectories if t.prompt_id in strangers],
        answers[: len(known) * len(samples)],
        answers[len(known) * len(samples) :],
    )


def _request(context: StageContext, chat: ChatFormat, name: str, prompt: Prompt, number: int) -> TurnRequest:
    return TurnRequest(
        key=f"evaluate-{name}/{prompt.id}/{number}",
        token_ids=chat.open(prompt.opening),
        max_tokens=context.config.consultation.turn_tokens,
        temperature=context.config.evaluate.temperature,
        seed=stable_seed(context.config.seed, "evaluate", prompt.id, number),
        stop_id=chat.stop_id,
    )


def _score(
    context: StageContext, scorer: Scorer, cases: Mapping[str, Prompt], trajectories: list[Trajectory]
) -> dict[str, ScoredTurns]:
    """Reward of each consultation, by case, exactly as PPO computes it."""
    batch = RolloutBatch.of(trajectories, context.versions.current)
    raw = scorer.scores(batch.token_ids, batch.turn_end_positions)
    scale, ppo = ScoreScale.of(context.run.manifest("reward") or {}), context.config.ppo
    scored = score_consultations(trajectories, cases, raw, scale, ppo.mix, ppo.safety.method)
    return {t.prompt_id: score for t, score in zip(trajectories, scored, strict=True)}


def _perplexities(context: StageContext, scorer: Scorer) -> dict[str, float]:
    """Of held-out general talk, before the first stage and after each: what the stages made the model forget."""
    chat, limit = context.chat(), context.config.model.max_length
    talks = load_general(context.run.data_root, "valid")
    documents = [np.asarray(chat.conversation(talk, limit).token_ids) for talk in talks]
    models = {"base": context.base_model()} | {s: str(context.model(s)) for s in ("pretrain", "sft", "ppo")}
    return {name: scorer.perplexity(model, documents) for name, model in models.items()}


def _likelihoods(context: StageContext, scorer: Scorer, name: str) -> ByUnit:
    """By held-out consultation, the log-likelihood [nats] of what its doctor said, and the tokens of that."""
    chat, limit = context.chat(), context.config.model.max_length
    talks = _spread(load_consultations(context.run.data_root), context.config.evaluate.dialogues)
    encoded = [chat.conversation(talk, limit) for talk in talks]
    documents = [np.asarray(each.token_ids) for each in encoded]
    spoken = [np.flatnonzero(each.loss_mask) for each in encoded]
    sums = scorer.log_likelihoods(str(context.model(name)), documents, spoken) if documents else []
    return {str(i): (total, float(len(tokens))) for i, (total, tokens) in enumerate(zip(sums, spoken, strict=True))}


def _measured(
    prompts: Mapping[str, Sequence[Prompt]], examination: Examination, scored: Mapping[str, ScoredTurns]
) -> Measured:
    """Every measure of one model by its units: cases, and questions of safety prompts and controls."""
    cases, new = ({prompt.id: prompt for prompt in prompts[kind]} for kind in ("case", "new_case"))
    return {
        **of_answers(examination.answers),
        **{f"{NEW}{name}": units for name, units in of_answers(examination.new_answers).items()},
        "reward": {case: (score.total, 1.0) for case, score in scored.items()},
        "facts_per_question": {
            t.prompt_id: (float(sum(len(turn.new_facts) for turn in t.turns)), float(sum(x.questions for x in t.turns)))
            for t in examination.trajectories
        },
        **of_consultations(examination.trajectories, cases),
        **of_new_conditions(examination.new, new),
        **of_emergencies(examination.trajectories + examination.new, {**cases, **new}),
    }


def _results(
    context: StageContext,
    cases: Mapping[str, Prompt],
    examinations: dict[str, Examination],
    scored: dict[str, dict[str, ScoredTurns]],
    perplexity: dict[str, float],
    measured: Mapping[str, Measured],
) -> EvaluationResults:
    """cases: by id; scored: by model and case; measured: by model. Only cases that neither model lost are compared."""
    margin, resamples = context.config.evaluate.tie_margin, context.config.evaluate.bootstrap
    both = [case for case in cases if all(case in scored[name] for name in MODELS)]
    rewards = {name: [scored[name][case].total for case in both] for name in MODELS}
    rubrics = {
        name: {t.prompt_id: mean_utility(t.messages, cases[t.prompt_id]) for t in examinations[name].trajectories}
        for name in MODELS
    }
    by_reward = compare(rewards["sft"], rewards["ppo"], resamples=resamples)
    utilities = ([rubrics[name][case] for case in both] for name in MODELS)
    judged = compare(*utilities, tie_margin=margin, resamples=resamples)
    wins = {field: getattr(judged, field) for field in ("win", "tie", "loss", "win_ci95", "loss_ci95", "tie_margin")}
    parts = {name: [scored[name][case].mean_parts() for case in both] for name in MODELS}
    pairs = list(zip(parts["sft"], parts["ppo"], strict=True))
    differences = {
        rule: mean_interval([after[rule] - before[rule] for before, after in pairs], resamples=resamples)
        for rule in parts["sft"][0]
    }
    models = {name: _model_result(examinations[name], rewards[name], parts[name], resamples) for name in MODELS}
    earlier = None
    if path := earlier_round(context.run.folder):
        unseen = list(cases.values())
        earlier = against_earlier(path, unseen, rubrics["ppo"], tie_margin=margin, resamples=resamples)
    measures = tabulate(measured["sft"], measured["ppo"], asdict(context.config.ppo.mix), resamples=resamples)
    return EvaluationResults(models, replace(by_reward, **wins), differences, perplexity, earlier, tuple(measures))


def _model_result(
    examination: Examination, rewards: list[float], parts: list[dict[str, float]], resamples: int
) -> ModelResult:
    facts = [float(sum(len(turn.new_facts) for turn in t.turns)) for t in examination.trajectories]
    questions = [float(sum(turn.questions for turn in t.turns)) for t in examination.trajectories]
    ratio = ratio_interval(facts, questions, resamples=resamples)
    safety: dict[str, list[bool]] = defaultdict(list)
    for prompt, _, verdict in examination.answers:
        if prompt.kind == "safety":
            safety[prompt.category or "other"].append(verdict.passed)
    controls = Counter(verdict.reason for prompt, _, verdict in examination.answers if prompt.kind != "safety")
    faults = Counter(verdict.reason for _, _, verdict in examination.answers if not verdict.passed)
    reward = mean_interval(rewards, resamples=resamples)
    return ModelResult(
        reward=reward.value,
        reward_ci95=reward.ci95,
        cases=reward.n,
        rules={rule: float(np.mean([part[rule] for part in parts])) for rule in parts[0]},
        new_facts_per_question=ratio[0] if ratio else None,
        new_facts_per_question_ci95=ratio[1] if ratio else None,
        safety_pass=SafetyPasses.of(safety),
        over_refusal=OverRefusal(controls[Reason.REFUSES], controls.total()),
        control_faults={str(reason): n for reason, n in sorted(controls.items()) if reason != Reason.OK},
        faults={str(reason): n for reason, n in sorted(faults.items())},
    )


def _write_consultations(
    path: Path,
    cases: Mapping[str, Prompt],
    examinations: dict[str, Examination],
    scored: dict[str, dict[str, ScoredTurns]],
) -> None:
    """Every consultation and answer of both models as lines of rollouts.jsonl, each with its model and its rules."""
    rows: list[dict[str, Any]] = []
    for name in MODELS:
        for t in examinations[name].trajectories:
            score = scored[name][t.prompt_id]
            rows.append({**rollout_row(0, t, cases[t.prompt_id], score), "model": name, "rules": score.mean_parts()})
        for t in examinations[name].new:
            talk = [message.as_dict() for message in t.messages]
            unpaid: dict[str, Any] = {"kind": "new_case", "reward": None, "rules": {}}
            rows.append({"prompt_id": t.prompt_id, "model": name, "messages": talk, **unpaid})
        rows += [_answer_row(name, "", answer) for answer in examinations[name].answers]
        rows += [_answer_row(name, NEW, answer) for answer in examinations[name].new_answers]
    write_jsonl(path, rows)


def _answer_row(model: str, known: str, answered: Answered) -> dict[str, Any]:
    prompt, text, verdict = answered
    talk = [{"role": "user", "content": prompt.opening}, {"role": "assistant", "content": text}]
    mark = 1.0 if verdict.passed else -1.0
    row = {"prompt_id": prompt.id, "kind": f"{known}{prompt.kind}", "model": model, "messages": talk, "reward": mark}
    return {**row, "rules": {"safety": mark}, "reason": str(verdict.reason)}
