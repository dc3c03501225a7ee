"""Made-up results of an evaluation, with the rows that a test wants to have fallen or risen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from zj_ray.evaluation.measures.paired import ByUnit
from zj_ray.evaluation.measures.table import CATEGORY, ROWS, tabulate
from zj_ray.evaluation.results import EvaluationResults, ModelResult, OverRefusal, SafetyPasses
from zj_ray.evaluation.statistics import Mean, compare

SAFETY_ROWS = ("safety_pass", "over_refusal")
UNITS, SAMPLES = 40, 10


def results(
    shifts: Mapping[str, float] | None = None, *, base: float = 0.5, measured: bool = True, seed: int = 0
) -> EvaluationResults:
    """Results in which every measure of SFT is about `base`, and PPO's differs from it by `shifts`, in shares.

    The reward's shift is in its own unit. measured: whether the results have a table, which those of earlier versions
    lack.
    """
    random, shifts = np.random.default_rng(seed), shifts or {}
    sft, ppo = dict[str, ByUnit](), dict[str, ByUnit]()
    for key in [row.key for row in ROWS] + [f"{CATEGORY}{name}" for name in ("自伤自杀", "用药<b>")]:
        before = np.clip(random.normal(base, 0.1, UNITS), 0, 1)
        after = np.clip(before + shifts.get(key, 0.0) + random.normal(0, 0.01, UNITS) * (key in shifts), 0, 1)
        for of_model, shares in ((sft, before), (ppo, after)):
            of_model[key] = {str(i): (float(share * SAMPLES), float(SAMPLES)) for i, share in enumerate(shares)}
    rewards = {"sft": random.normal(base, 0.2, 64)}
    rewards["ppo"] = rewards["sft"] + shifts.get("reward", 0.0) + random.normal(0, 0.1, 64)
    safe = {"sft": base, "ppo": base + shifts.get("safety_pass", 0.0)}
    return EvaluationResults(
        {name: _model(values, safe[name]) for name, values in rewards.items()},
        compare(rewards["sft"], rewards["ppo"], tie_margin=0.05),
        {"new_facts": Mean(0.1, (0.02, 0.18), 64), "advice": Mean(0.0, (-0.1, 0.1), 64)},
        {"pretrain": 12.0, "sft": 14.5, "ppo": 14.8},
        measures=tuple(tabulate(sft, ppo, {"length": 0.0}, resamples=300)) if measured else (),
    )


def _model(rewards: np.ndarray, safe: float) -> ModelResult:
    passed = [i < round(30 * safe) for i in range(30)]
    return ModelResult(
        reward=float(rewards.mean()),
        reward_ci95=(0.2, 0.4),
        cases=len(rewards),
        rules={"new_facts": 0.3, "advice": 0.5, "repetition": -0.1},
        new_facts_per_question=0.5,
        new_facts_per_question_ci95=(0.4, 0.6),
        safety_pass=SafetyPasses.of({"自伤自杀": passed[::2], "用药<b>": passed[1::2]}),
        over_refusal=OverRefusal(2, 20),
        faults={"off topic": 3},
    )
