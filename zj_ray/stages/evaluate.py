"""Evaluation: the SFT model against the PPO model on cases, safety prompts and controls that neither was trained on.

Reward differences are paired by case. Wins are judged by the rubric (safety > professionalism > fluency), which is not what
PPO was paid for: a policy that only learned to please its reward model would not win by it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from zj_ray.data.case import Prompt
from zj_ray.data.chat import ChatFormat
from zj_ray.data.datasets import load_general, load_prompts
from zj_ray.data.trajectory import Trajectory
from zj_ray.evaluation.results import EvaluationResults, ModelResult, SafetyResult
from zj_ray.evaluation.rounds import against_earlier, earlier_round, mean_utility
from zj_ray.evaluation.statistics import compare, mean_interval, ratio_interval
from zj_ray.files import write_jsonl
from zj_ray.fleet.dialogue import DialogueSettings, stable_seed
from zj_ray.fleet.turns import TurnRequest
from zj_ray.ppo.record import rollout_row
from zj_ray.progress import Bar, progress
from zj_ray.rewards.mix import ScoredTurns, ScoreScale, score_turns
from zj_ray.roles.batch import RolloutBatch
from zj_ray.roles.evaluator import EvaluatorRank
from zj_ray.roles.group import RoleGroup
from zj_ray.roles.placement import Places
from zj_ray.rules.safety import judge
from zj_ray.runs.summary import update_summary
from zj_ray.stages.context import StageContext
from zj_ray.training.packing import plan_rows
from zj_ray.training.zero_engine import EngineSpec

MODELS = ("sft", "ppo")


@dataclass(frozen=True)
class Examined:
    """What one model did: its consultations with the cases, and its first answers to safety prompts and controls."""

    trajectories: list[Trajectory]
    answers: list[tuple[Prompt, str]]


def evaluate(context: StageContext) -> dict[str, Any]:
    """Leaves `evaluate/results.json` and `consultations.jsonl`."""
    config, folder = context.config, context.run.stage("evaluate")
    role, timeout = config.ppo.reward, config.ppo.role_timeout
    places = Places({"evaluator": role})
    evaluator = RoleGroup("evaluator", EvaluatorRank, role, places, timeout, config.model, config.seed, timeout)
    try:
        places.wait(config.ray.start_timeout)
        spec = EngineSpec(None, 1.0, role.zero_stage, offload=role.offload, dtype=config.model.dtype)
        loaded = evaluator.start(str(context.model("reward")), spec)
        prompts = _prompts(context)
        guarded = len(prompts["safety"]) + len(prompts["control"])
        total = len(MODELS) * (len(prompts["case"]) + config.evaluate.safety_samples * guarded)
        with progress("evaluate", total) as bar:
            examined = {name: _examine(context, name, prompts, bar) for name in MODELS}
        evaluator.wait(loaded, what="load its model")
        scored = {name: _score(context, evaluator, prompts["case"], examined[name].trajectories) for name in MODELS}
        perplexity = _perplexities(context, evaluator)
    finally:
        evaluator.close()
        places.close()
    results = _results(context, prompts["case"], examined, scored, perplexity)
    results.write(folder / "results.json")
    _write_consultations(folder / "consultations.jsonl", prompts["case"], examined, scored)
    update_summary(context.run.folder, {"evaluate": results.summary()})
    return results.summary()


def _prompts(context: StageContext) -> dict[str, list[Prompt]]:
    """Unseen prompts of each kind, spread evenly over the file so that no category is cut off."""
    limits = {
        "case": context.config.evaluate.cases,
        "safety": context.config.evaluate.safety_prompts,
        "control": context.config.evaluate.controls,
    }
    unseen = load_prompts(context.run.data_root, "valid")
    chosen = {}
    for kind, limit in limits.items():
        pool = [prompt for prompt in unseen if prompt.kind == kind]
        places: Any = np.linspace(0, len(pool) - 1, min(limit, len(pool))).round().astype(int) if pool else []
        chosen[kind] = [pool[i] for i in places]
    return chosen


def _examine(context: StageContext, name: str, prompts: dict[str, list[Prompt]], bar: Bar) -> Examined:
    config, chat = context.config, context.chat()
    fleet = context.fleet(context.model(name))
    settings = DialogueSettings(
        config.ppo.max_turns, config.ppo.turn_tokens, config.model.max_length, config.evaluate.temperature
    )
    held = fleet.rollout(
        [(prompt, 0) for prompt in prompts["case"]],
        key=f"evaluate-{name}",
        seed=stable_seed(config.seed, "evaluate"),  # the same patients for both models
        chat=chat,
        settings=settings,
        timeout=config.ppo.rollout_timeout,
        on_done=bar.advance,
    )
    guarded = [
        prompt for prompt in prompts["safety"] + prompts["control"] for _ in range(config.evaluate.safety_samples)
    ]
    requests = [_request(context, chat, name, prompt, number) for number, prompt in enumerate(guarded)]
    answered = fleet.generate(requests, timeout=config.ppo.rollout_timeout, on_done=bar.advance)
    return Examined(
        held.trajectories,
        [(prompt, chat.decode(a.output.token_ids)) for prompt, a in zip(guarded, answered, strict=True)],
    )


def _request(context: StageContext, chat: ChatFormat, name: str, prompt: Prompt, number: int) -> TurnRequest:
    config = context.config
    seed = stable_seed(config.seed, "evaluate", prompt.id, number)
    return TurnRequest(
        f"evaluate-{name}/{prompt.id}/{number}",
        chat.open(prompt.opening),
        config.ppo.turn_tokens,
        config.evaluate.temperature,
        seed,
        chat.stop_id,
    )


def _score(
    context: StageContext, evaluator: RoleGroup, cases: Sequence[Prompt], trajectories: Sequence[Trajectory]
) -> dict[str, ScoredTurns]:
    """Reward of each consultation, by case, exactly as PPO computes it."""
    batch = RolloutBatch.of(trajectories, context.versions.current)
    ends = [positions[turns] for positions, turns in zip(batch.positions, batch.turn_ends, strict=True)]
    rows = plan_rows(batch.lengths, evaluator.size, context.config.ppo.micro_batch_tokens)
    raw = evaluator.merge(evaluator.call("scores", batch.token_ids, ends, rows), len(batch), what="score consultations")
    manifest = context.run.manifest("reward") or {}
    scale, by_id = ScoreScale(manifest["score_mean"], manifest["score_deviation"]), {case.id: case for case in cases}
    return {
        t.prompt_id: score_turns(t, by_id[t.prompt_id], scores[:, 0].tolist(), scale, context.config.ppo.mix)
        for t, scores in zip(trajectories, raw, strict=True)
    }


def _perplexities(context: StageContext, evaluator: RoleGroup) -> dict[str, float]:
    """Of held-out general talk, before the first stage and after each: what the stages made the model forget."""
    chat = context.chat()
    documents = [
        np.asarray(chat.conversation(d, context.config.model.max_length).token_ids)
        for d in load_general(context.run.data_root, "valid")
    ]
    models = {
        "base": context.base_model(),
        **{stage: str(context.model(stage)) for stage in ("pretrain", "sft", "ppo")},
    }
    return {
        name: evaluator.wait([evaluator.actors[0].perplexity.remote(path, documents)], what=f"measure {name}")[0]
        for name, path in models.items()
    }


def _results(
    context: StageContext,
    cases: Sequence[Prompt],
    examined: dict[str, Examined],
    scored: dict[str, dict[str, ScoredTurns]],
    perplexity: dict[str, float],
) -> EvaluationResults:
    config = context.config.evaluate
    both = [case.id for case in cases if all(case.id in scored[name] for name in MODELS)]
    rewards = {name: [scored[name][case].total for case in both] for name in MODELS}
    by_id = {case.id: case for case in cases}
    rubrics = {
        name: {t.prompt_id: mean_utility(t.messages, by_id[t.prompt_id]) for t in examined[name].trajectories}
        for name in MODELS
    }
    by_reward = compare(rewards["sft"], rewards["ppo"], resamples=config.bootstrap)
    judged = compare(
        [rubrics["sft"][c] for c in both],
        [rubrics["ppo"][c] for c in both],
        tie_margin=config.tie_margin,
        resamples=config.bootstrap,
    )
    wins = {field: getattr(judged, field) for field in ("win", "tie", "loss", "win_ci95", "loss_ci95", "tie_margin")}
    parts = {name: [scored[name][case].mean_parts() for case in both] for name in MODELS}
    differences = {
        rule: mean_interval(
            [after[rule] - before[rule] for before, after in zip(parts["sft"], parts["ppo"], strict=True)],
            resamples=config.bootstrap,
        )
        for rule in parts["sft"][0]
    }
    models = {name: _model_result(examined[name], rewards[name], parts[name], config.bootstrap) for name in MODELS}
    path = earlier_round(context.run.folder)
    earlier = (
        against_earlier(path, cases, rubrics["ppo"], tie_margin=config.tie_margin, resamples=config.bootstrap)
        if path
        else None
    )
    return EvaluationResults(models, replace(by_reward, **wins), differences, perplexity, earlier)


def _model_result(
    examined: Examined, rewards: list[float], parts: list[dict[str, float]], resamples: int
) -> ModelResult:
    gained = [float(sum(len(turn.new_facts) for turn in t.turns)) for t in examined.trajectories]
    asked = [float(sum(turn.questions for turn in t.turns)) for t in examined.trajectories]
    ratio = ratio_interval(gained, asked, resamples=resamples)
    verdicts: dict[str, list[bool]] = defaultdict(list)
    refused = controls = 0
    for prompt, text in examined.answers:
        passed = judge(text, prompt.expected or "answer_helpfully").passed
        if prompt.kind == "safety":
            verdicts[prompt.category or "other"].append(passed)
        else:
            refused, controls = refused + (not passed), controls + 1
    rules = {rule: float(np.mean([part[rule] for part in parts])) for rule in parts[0]}
    return ModelResult(
        mean_interval(rewards, resamples=resamples),
        rules,
        ratio[0] if ratio else None,
        ratio[1] if ratio else None,
        SafetyResult.of(verdicts),
        refused,
        controls,
    )


def _write_consultations(
    path: Path, cases: Sequence[Prompt], examined: dict[str, Examined], scored: dict[str, dict[str, ScoredTurns]]
) -> None:
    by_id = {case.id: case for case in cases}
    rows: list[dict[str, Any]] = []
    for name in MODELS:
        for t in examined[name].trajectories:
            score = scored[name][t.prompt_id]
            rows.append({**rollout_row(0, t, by_id[t.prompt_id], score), "model": name, "rules": score.mean_parts()})
        for prompt, text in examined[name].answers:
            passed = judge(text, prompt.expected or "answer_helpfully").passed
            talk = [{"role": "user", "content": prompt.opening}, {"role": "assistant", "content": text}]
            mark = 1.0 if passed else -1.0
            rows.append(
                {
                    "prompt_id": prompt.id,
                    "kind": prompt.kind,
                    "model": name,
                    "messages": talk,
                    "reward": mark,
                    "rules": {"safety": mark},
                }
            )
    write_jsonl(path, rows)
