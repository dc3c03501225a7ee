"""What `evaluate/results.json` holds: everything the evaluation measured, in the shape that the report shows.

```
{"models": {"sft": {"reward": 0.41, "reward_ci95": [0.35, 0.47], "rules": {"new_facts": 0.3, …}, "new_facts_per_question": 0.5,
                    "new_facts_per_question_ci95": [0.4, 0.6],
                    "safety_pass": {"passed": 40, "n": 60, "by_category": {"自伤自杀": {"passed": 5, "n": 6}, …}},
                    "over_refusal": {"count": 2, "n": 60}},
            "ppo": {…}},
 "comparison": {"n": 64, "difference": 0.1, "difference_ci95": [0.02, 0.18], "win": …, "tie": …, "loss": …, "win_ci95": [ …], …},
 "earlier_round": {…as comparison, of this round's PPO model with the one before…} or null,
 "rule_differences": {"new_facts": {"value": 0.1, "ci95": [0.0, 0.2], "n": 64}, …},
 "perplexity": {"pretrain": 12.1, "sft": 14.0, "ppo": 14.3}}
```

Rewards and rules are means over the same unseen cases, per consultation; differences are PPO − SFT, paired by case.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zj_ray.errors import DataError
from zj_ray.evaluation.statistics import Comparison, Mean

MODELS = ("sft", "ppo")


@dataclass(frozen=True)
class SafetyResult:
    """by_category: {category: (passed, n)}."""

    passed: int
    n: int
    by_category: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, verdicts: Mapping[str, list[bool]]) -> SafetyResult:
        """verdicts: {category: whether each of its prompts was answered safely}."""
        by_category = {category: (sum(passed), len(passed)) for category, passed in sorted(verdicts.items())}
        return cls(
            sum(passed for passed, _ in by_category.values()), sum(n for _, n in by_category.values()), by_category
        )


@dataclass(frozen=True)
class ModelResult:
    """One model on the unseen cases, safety prompts and benign controls. over_refused of controls benign prompts were refused."""

    reward: Mean
    rules: Mapping[str, float]
    new_facts_per_question: float | None  # None: it asked nothing
    new_facts_per_question_ci95: tuple[float, float] | None
    safety: SafetyResult
    over_refused: int
    controls: int


@dataclass(frozen=True)
class EvaluationResults:
    """models: one for each of MODELS. rule_differences: PPO − SFT for each rule. perplexity: of general text after each stage, in order."""

    models: Mapping[str, ModelResult]
    comparison: Comparison
    rule_differences: Mapping[str, Mean]
    perplexity: Mapping[str, float]
    earlier_round: Comparison | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON of this module's docstring."""
        return {
            "models": {name: _model_dict(model) for name, model in self.models.items()},
            "comparison": asdict(self.comparison),
            "rule_differences": {rule: asdict(mean) for rule, mean in self.rule_differences.items()},
            "perplexity": dict(self.perplexity),
            "earlier_round": asdict(self.earlier_round) if self.earlier_round else None,
        }

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.as_dict(), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> EvaluationResults:
        """Raises DataError naming the file when it isn't what `write` writes."""
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError) as fault:
            raise DataError(
                f"not the results of an evaluation ({fault!r})", where=str(path), remedy="run the evaluate stage again"
            ) from fault

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> EvaluationResults:
        return cls(
            {name: _model(raw["models"][name]) for name in MODELS},
            _comparison(raw["comparison"]),
            {
                rule: Mean(m["value"], (m["ci95"][0], m["ci95"][1]), m["n"])
                for rule, m in raw["rule_differences"].items()
            },
            dict(raw["perplexity"]),
            _comparison(raw["earlier_round"]) if raw.get("earlier_round") else None,
        )

    def summary(self) -> dict[str, Any]:
        """The `evaluate` section of summary.json. Over-refusal and shares are fractions of 1."""
        sft, ppo, pair = self.models["sft"], self.models["ppo"], self.comparison
        return {
            "reward_sft": sft.reward.value,
            "reward_ppo": ppo.reward.value,
            "reward_diff_ci95": list(pair.difference_ci95),
            "new_facts_per_question_sft": sft.new_facts_per_question,
            "new_facts_per_question_ppo": ppo.new_facts_per_question,
            "safety_pass_sft": _share(sft.safety.passed, sft.safety.n),
            "safety_pass_ppo": _share(ppo.safety.passed, ppo.safety.n),
            "over_refusal_sft": _share(sft.over_refused, sft.controls),
            "general_perplexity": dict(self.perplexity),
            "over_refusal_ppo": _share(ppo.over_refused, ppo.controls),
            "win": pair.win,
            "tie": pair.tie,
            "loss": pair.loss,
            "win_ci95": list(pair.win_ci95),
        }


def _comparison(raw: Mapping[str, Any]) -> Comparison:
    pair: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    return Comparison(**pair)


def _share(count: int, n: int) -> float | None:
    return count / n if n else None


def _model_dict(model: ModelResult) -> dict[str, Any]:
    return {
        "reward": model.reward.value,
        "reward_ci95": model.reward.ci95,
        "cases": model.reward.n,
        "rules": dict(model.rules),
        "new_facts_per_question": model.new_facts_per_question,
        "new_facts_per_question_ci95": model.new_facts_per_question_ci95,
        "safety_pass": {
            "passed": model.safety.passed,
            "n": model.safety.n,
            "by_category": {
                category: {"passed": passed, "n": n} for category, (passed, n) in model.safety.by_category.items()
            },
        },
        "over_refusal": {"count": model.over_refused, "n": model.controls},
    }


def _model(raw: Mapping[str, Any]) -> ModelResult:
    safety, interval = raw["safety_pass"], raw["new_facts_per_question_ci95"]
    return ModelResult(
        Mean(raw["reward"], (raw["reward_ci95"][0], raw["reward_ci95"][1]), raw["cases"]),
        dict(raw["rules"]),
        raw["new_facts_per_question"],
        (interval[0], interval[1]) if interval is not None else None,
        SafetyResult(
            safety["passed"], safety["n"], {c: (v["passed"], v["n"]) for c, v in safety["by_category"].items()}
        ),
        raw["over_refusal"]["count"],
        raw["over_refusal"]["n"],
    )
