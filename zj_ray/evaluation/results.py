"""What `evaluate/results.json` holds: everything the evaluation measured, in the shape that the report shows.

```
{"models": {"sft": {"reward": 0.41, "reward_ci95": [0.35, 0.47], "cases": 64, "rules": {"new_facts": 0.3, …},
                    "new_facts_per_question": 0.5, "new_facts_per_question_ci95": [0.4, 0.6],
                    "safety_pass": {"passed": 40, "n": 60, "by_category": {"自伤自杀": {"passed": 5, "n": 6}, …}},
                    "over_refusal": {"count": 2, "n": 60}, "control_faults": {"off topic": 3, "refuses": 2},
                    "faults": {"off topic": 8, "complies": 4, …}},
            "ppo": {…}},
 "comparison": {"n": 64, "difference": 0.1, "difference_ci95": [0.02, 0.18], "win": …, "win_ci95": […], "tie": …, …},
 "earlier_round": {…as comparison, of this round's PPO model with the one before…} or null,
 "rule_differences": {"new_facts": {"value": 0.1, "ci95": [0.0, 0.2], "n": 64}, …},
 "perplexity": {"pretrain": 12.1, "sft": 14.0, "ppo": 14.3},
 "measures": [{"key": "safety_pass", "group": "headline", "better": "higher", "unit": "question", "units": 40,
               "paid": ["safety", "unsafe"], "sft": 0.64, "sft_ci95": [0.55, 0.72], "ppo": 0.56, "ppo_ci95": […],
               "difference": -0.08, "ci95": [-0.12, -0.03], "p": 0.001, "p_holm": 0.016, "finding": "fell"}, …]}
```

Rewards and rules are means over the same unseen cases, per consultation; differences are PPO − SFT, paired by case.
Measures stand in the order of `measures/table.ROWS`. Results that an earlier version wrote have none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from zj_ray.errors import DataError
from zj_ray.evaluation.measures.table import Measure, with_finding
from zj_ray.evaluation.statistics import Comparison, Mean
from zj_ray.files import write_json

MODELS = ("sft", "ppo")


@dataclass(frozen=True)
class Passes:
    """`passed` of `n` safety prompts were answered safely."""

    passed: int
    n: int


@dataclass(frozen=True)
class SafetyPasses(Passes):
    """Safe answers in all and in each category."""

    by_category: Mapping[str, Passes]

    @classmethod
    def of(cls, verdicts: Mapping[str, list[bool]]) -> SafetyPasses:
        """verdicts: {category: whether each of its prompts was answered safely}."""
        by_category = {category: Passes(sum(passed), len(passed)) for category, passed in sorted(verdicts.items())}
        passed, n = sum(each.passed for each in by_category.values()), sum(each.n for each in by_category.values())
        return cls(passed, n, by_category)


@dataclass(frozen=True)
class OverRefusal:
    """`count` of `n` benign controls were refused."""

    count: int
    n: int


@dataclass(frozen=True)
class ModelResult:
    """One model on the unseen cases, safety prompts and benign controls. The fields are the keys of its JSON."""

    reward: float
    reward_ci95: tuple[float, float]
    cases: int
    rules: Mapping[str, float]
    new_facts_per_question: float | None  # None: it asked nothing
    new_facts_per_question_ci95: tuple[float, float] | None
    safety_pass: SafetyPasses
    over_refusal: OverRefusal
    control_faults: Mapping[str, int] = field(default_factory=dict)  # why answers to controls failed, refusals among it
    faults: Mapping[str, int] = field(default_factory=dict)  # the same of safety prompts and controls together


@dataclass(frozen=True)
class EvaluationResults:
    """The JSON of this module's docstring.

    models: one for each of MODELS. rule_differences: PPO − SFT for each rule.
    perplexity: of general text, by stage in the order of the stages. measures: the table of both models, paired.
    Raises ValueError where a model is missing.
    """

    models: Mapping[str, ModelResult]
    comparison: Comparison
    rule_differences: Mapping[str, Mean]
    perplexity: Mapping[str, float]
    earlier_round: Comparison | None = None
    measures: tuple[Measure, ...] = ()

    def __post_init__(self) -> None:
        if missing := set(MODELS) - set(self.models):
            raise ValueError(f"no results of {', '.join(sorted(missing))}")

    def write(self, path: Path) -> None:
        """Write the file whole or not at all."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> EvaluationResults:
        """Raises DataError naming the file when it isn't what `write` writes."""
        try:
            return _RESULTS.validate_python(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as fault:  # pydantic's, too: its number of faults, then the first one's key and what is wrong
            reason = ": ".join(line.strip() for line in str(fault).splitlines()[:3])
            what = f"not the results of an evaluation ({reason})"
            raise DataError(what, where=str(path), remedy="run the evaluate stage again") from fault

    def summary(self) -> dict[str, Any]:
        """The `evaluate` section of summary.json. Over-refusal and shares are fractions of 1.

        fell, may_have_fallen: the keys of such measures.
        """
        sft, ppo, pair = self.models["sft"], self.models["ppo"], self.comparison
        return {
            "reward_sft": sft.reward,
            "reward_ppo": ppo.reward,
            "reward_diff_ci95": list(pair.difference_ci95),
            "new_facts_per_question_sft": sft.new_facts_per_question,
            "new_facts_per_question_ppo": ppo.new_facts_per_question,
            "safety_pass_sft": _share(sft.safety_pass.passed, sft.safety_pass.n),
            "safety_pass_ppo": _share(ppo.safety_pass.passed, ppo.safety_pass.n),
            "over_refusal_sft": _share(sft.over_refusal.count, sft.over_refusal.n),
            "general_perplexity": dict(self.perplexity),
            "over_refusal_ppo": _share(ppo.over_refusal.count, ppo.over_refusal.n),
            "win": pair.win,
            "tie": pair.tie,
            "loss": pair.loss,
            "win_ci95": list(pair.win_ci95),
            "fell": [measure.key for measure in with_finding(self.measures, "fell")],
            "may_have_fallen": [measure.key for measure in with_finding(self.measures, "may have fallen")],
        }


_RESULTS = TypeAdapter(EvaluationResults)


def _share(count: int, n: int) -> float | None:
    return count / n if n else None
