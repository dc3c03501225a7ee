"""report.html: what a run did and what came of it, on one page that needs nothing else.

It is made of the run folder alone: config.yaml, summary.json, */metrics.jsonl, feedback/agreement.json (`Agreement`),
reward/accuracy.json, evaluate/results.json (`EvaluationResults`) and evaluate/consultations.jsonl (rows {prompt_id,
kind, model, messages, reward, rules}). A part whose file is not there yet is shown as "not run". Models and patients
wrote much of what is shown: the template escapes everything but our own SVG.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from zj_ray.config.schema import STAGES
from zj_ray.evaluation import headline, plots
from zj_ray.evaluation.measures.table import with_finding
from zj_ray.evaluation.results import MODELS, EvaluationResults, Passes
from zj_ray.evaluation.reward_model import caption, rows
from zj_ray.evaluation.statistics import Mean
from zj_ray.files import read_json, read_jsonl, write_atomic
from zj_ray.runs.metrics import read_metrics, versions
from zj_ray.runs.summary import read_summary

SAMPLES = {"case": 6, "new_case": 2, "safety": 4, "control": 2}  # consultations shown side by side
STAGE_NAMES = {
    "pretrain": "继续预训练 · continued pre-training",
    "sft": "监督微调 · supervised fine-tuning",
    "feedback": "排序反馈 · ranking feedback",
    "reward": "奖励模型 · reward model",
    "ppo": "强化学习 · PPO",
    "evaluate": "评测 · evaluation",
    "serve": "服务 · serving",
}
SECONDS = ("seconds_rollout", "seconds_score", "seconds_update", "seconds_sync")
PPO_PLOTS = (  # title, unit, metrics
    ("Reward per consultation", "", ("reward",)),
    *(
        (f"Safety cost: {name}", "unsafe turns", (f"cost_{kind}", f"smoothed_cost_{kind}", f"bound_{kind}"))
        for kind, name in (("case", "cases"), ("safety", "safety prompts"), ("control", "benign controls"))
    ),
    ("Weight of safety (multiplier λ)", "", ("multiplier_case", "multiplier_safety", "multiplier_control")),
    ("KL to the SFT model", "nats per token", ("kl", "kl_coefficient")),
    ("New facts gained by asking", "per consultation", ("new_facts",)),
    ("Length of a doctor turn", "tokens", ("length",)),
    ("Engine against trainer log-probs", "mean |difference|", ("mismatch_mean",)),
    ("Losses", "", ("policy_loss", "value_loss")),
    ("Clipped share of tokens", "", ("clip_fraction",)),
    ("Policy entropy", "nats per token", ("entropy",)),
)

# What the page shows of the configuration above the full text.
KEYS = (
    *("seed", "data.source", "model.base", "model.dtype", "pretrain.ranks"),
    *("fleet.initial", "ppo.steps", "ppo.consultations"),
)
FINDINGS = {
    "pretrain": "perplexity {pretrain.ppl_before} → {pretrain.ppl_after}",
    "sft": "loss {sft.loss_before} → {sft.loss_after}",
    "reward": "pair accuracy {reward.pair_accuracy}, ceiling {reward.pair_accuracy_ceiling}",
    "ppo": "{ppo.steps} steps, reward {ppo.reward_first} → {ppo.reward_last}, KL {ppo.kl_last}",
    "evaluate": "safety {evaluate.safety_pass_sft} → {evaluate.safety_pass_ppo}, "
    "reward {evaluate.reward_sft} → {evaluate.reward_ppo}",
}

Row = dict[str, Any]


def write_report(run_folder: Path) -> Path:
    """Write RUN/report.html anew, in one step, and return its path. Raises DataError naming a file that is damaged."""
    folder = Path(run_folder)
    summary = read_summary(folder)
    results = EvaluationResults.read(path) if (path := folder / "evaluate" / "results.json").exists() else None
    template = _environment().get_template("report.html.j2")
    page = template.render(
        run=folder.name,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        config=_config(folder),
        summary=summary,
        versions=summary.get("versions") or versions(),
        stages=[_stage(stage, summary) for stage in STAGES],
        losses=_loss_plots(folder),
        ppo=_ppo_plots(folder),
        results=results,
        evaluation=_evaluation(results) if results else {},
        reward=_reward(summary.get("reward") or {}, read_json(folder / "reward" / "accuracy.json") or {}),
        agreement=read_json(folder / "feedback" / "agreement.json"),
        samples=_samples(folder / "evaluate" / "consultations.jsonl"),
    )
    write_atomic(folder / "report.html", page)
    return folder / "report.html"


def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters |= {"number": _number, "share": _share, "interval": _interval, "duration": _duration}
    environment.filters |= {"cells": headline.cells}
    return environment


def _config(folder: Path) -> Row | None:
    path = folder / "config.yaml"
    if not path.exists():
        return None
    text = path.read_text(encoding="utf-8")
    tree = yaml.safe_load(text) or {}
    return {"text": text, "chosen": {key: _at(tree, key) for key in KEYS if _at(tree, key) is not None}}


def _at(tree: Any, key: str) -> Any:
    """The value at a key with dots; None where there is none."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _stage(stage: str, summary: Mapping[str, Any]) -> Row:
    """One line of the table of stages: how long it took and what came of it."""
    record = _at(summary, f"stages.{stage}") or {}
    status = record.get("status")
    finding = re.sub(r"{(.+?)}", lambda key: _number(_at(summary, key[1])), FINDINGS.get(stage, "") if status else "")
    line = {"name": STAGE_NAMES[stage], "status": status or "not run", "seconds": record.get("seconds")}
    return line | {"finding": finding}


def _points(rows: Sequence[Row], name: str) -> list[tuple[float, float]]:
    return [(row["step"], row[name]) for row in rows if row.get(name) is not None]


def _loss_plots(folder: Path) -> list[Row]:
    """Loss curve, speed and learning rate of each supervised stage; svg is empty where the stage has not run."""
    curves = []
    for stage in ("pretrain", "sft", "reward"):
        path = folder / stage / "metrics.jsonl"
        rows = read_metrics(path) if path.exists() else []
        losses = _points(rows, "loss")
        speeds = [speed for _, speed in _points(rows, "tokens_per_second")]
        rates = [rate for _, rate in _points(rows, "lr")]
        unit = "nats per pair" if stage == "reward" else "nats per token"
        svg = Markup(plots.line_plot({"loss": losses}, title=f"{stage}: training loss", ylabel=unit)) if losses else ""
        speed = sum(speeds) / len(speeds) if speeds else None
        curves.append({"stage": stage, "svg": svg, "speed": speed, "rate": max(rates, default=None)})
    return curves


def _ppo_plots(folder: Path) -> list[Markup]:
    path = folder / "ppo" / "metrics.jsonl"
    rows = read_metrics(path) if path.exists() else []
    drawings = []
    for title, unit, names in PPO_PLOTS:
        series = {name: _points(rows, name) for name in names}
        if any(series.values()):
            drawings.append(plots.line_plot(series, title=title, ylabel=unit))
    timed = [row for row in rows if any(row.get(name) is not None for name in SECONDS)]
    if timed:
        steps = [row["step"] for row in timed]
        parts = {name.removeprefix("seconds_"): [row.get(name) or 0.0 for row in timed] for name in SECONDS}
        drawings.append(plots.stacked_plot(steps, parts, title="Where a step's time goes", ylabel="s"))
    return [Markup(svg) for svg in drawings]


def _evaluation(results: EvaluationResults) -> Row:
    """SFT against PPO: what fell, the tables of measures, what PPO was paid for, wins beside safety, faults."""
    groups = ("headline", "category", "detail")
    faults = sorted({fault for of_model in results.models.values() for fault in of_model.faults})
    return {
        "warnings": headline.warnings(results),
        "fell": bool(with_finding(results.measures, "fell")),
        "tables": {group: [m for m in results.measures if m.group == group] for group in groups},
        "components": _components(results),
        "outcome": _outcome(results),
        "passes": {name: results.models[name].safety_pass for name in MODELS},
        "faults": {fault: [results.models[name].faults.get(fault, 0) for name in MODELS] for fault in faults},
    }


def _components(results: EvaluationResults) -> list[Row]:
    """What PPO was paid for: the reward, facts for each question, and each rule with its paired interval."""
    sft, ppo, pair = results.models["sft"], results.models["ppo"], results.comparison
    reward = _component("reward", sft.reward, ppo.reward, Mean(pair.difference, pair.difference_ci95, pair.n))
    facts = _component("new facts per question", sft.new_facts_per_question, ppo.new_facts_per_question, None)
    rules = sorted(set(sft.rules) | set(ppo.rules))
    of_rules = [_component(r, sft.rules.get(r), ppo.rules.get(r), results.rule_differences.get(r)) for r in rules]
    return [reward, facts, *of_rules]


def _component(name: str, sft: float | None, ppo: float | None, difference: Mean | None) -> Row:
    """A line of the table. difference: the paired one, where it was measured."""
    row: Row = {"name": name, "sft": sft, "ppo": ppo, "difference": None, "ci95": None}
    if difference is not None:
        return row | {"difference": difference.value, "ci95": difference.ci95}
    return row if sft is None or ppo is None else row | {"difference": ppo - sft}


def _outcome(results: EvaluationResults) -> Markup:
    pair, passes = results.comparison, {name.upper(): results.models[name].safety_pass for name in MODELS}
    safety = {name: _of(passed) for name, passed in passes.items()}
    return Markup(plots.outcome_bar(pair.win, pair.tie, pair.loss, pair.win_ci95, safety))


def _of(passes: Passes) -> float | None:
    return passes.passed / passes.n if passes.n else None


def _reward(reward: Mapping[str, Any], measured: Mapping[str, Any]) -> Row:
    """The reward model's held-out accuracy. reward: its section of the summary; measured: `accuracy.json`, or empty."""
    divisions = measured["scorers"]["reward model"]["by"] if measured else {}
    drawings = [*_accuracy_plots(reward), *_reward_plots(measured)]
    return {
        "accuracy": reward.get("pair_accuracy"),
        "ceiling": reward.get("pair_accuracy_ceiling"),
        "plots": [Markup(svg) for svg in drawings],
        "scorers": rows(measured) if measured else {},
        "caption": caption(measured) if "verbatim" in measured else "",  # an older run has not counted it
        "divisions": {name: parts for name, parts in divisions.items() if name != "length"},
        "calibration": measured.get("calibration"),
    }


def _accuracy_plots(reward: Mapping[str, Any]) -> Iterator[str]:
    """Accuracy by length. A length bin is an accuracy, or a mapping with `accuracy` and the number of `pairs`."""
    raw = reward.get("pair_accuracy_by_length_bin") or {}
    bins = {name: value if isinstance(value, Mapping) else {"accuracy": value} for name, value in raw.items()}
    labels = {
        name: f"{name}\n{value['pairs']} pairs" if "pairs" in value else str(name) for name, value in bins.items()
    }
    heights = {labels[name]: value["accuracy"] for name, value in bins.items() if value.get("accuracy") is not None}
    ceiling = reward.get("pair_accuracy_ceiling")
    levels = {"chance": 0.5} | ({"ceiling": ceiling} if ceiling is not None else {})
    if heights:
        yield plots.bar_plot(heights, title="Held-out pair accuracy by length", ylabel="accuracy", levels=levels)


def _reward_plots(measured: Mapping[str, Any]) -> Iterator[str]:
    """Reliability before and after the temperature; the held-out loss by which training was stopped."""
    if calibration := measured.get("calibration"):
        series = {name: [(b["confidence"], b["accuracy"]) for b in calibration[name]] for name in ("before", "after")}
        yield plots.reliability_plot(series, title="Reliability before and after the temperature")
    if any(curves := measured.get("held_out", [])):
        losses = {f"member {number}": list(map(tuple, curve)) for number, curve in enumerate(curves, start=1)}
        yield plots.line_plot(losses, title="reward: held-out loss", ylabel="nats per pair")


def _samples(path: Path) -> list[Row]:
    """Consultations that both models had, evenly from PPO's greatest loss to its greatest gain: none is picked."""
    if not path.exists():
        return []
    by_prompt: dict[str, dict[str, Row]] = {}
    for _, row in read_jsonl(path):
        by_prompt.setdefault(row["prompt_id"], {})[row["model"]] = row
    both = [pair for pair in by_prompt.values() if set(MODELS) <= pair.keys()]
    chosen: list[Row] = []
    for kind, count in SAMPLES.items():
        ordered = sorted((pair for pair in both if pair["sft"]["kind"] == kind), key=_gain)
        numbers = {round(k * (len(ordered) - 1) / max(1, count - 1)) for k in range(count)} if ordered else set()
        for pair in (ordered[k] for k in sorted(numbers)):
            chosen.append({"kind": kind, "prompt_id": pair["sft"]["prompt_id"], "sft": pair["sft"], "ppo": pair["ppo"]})
    return chosen


def _gain(pair: Mapping[str, Row]) -> tuple[float, str]:
    """PPO's gain in reward, and the prompt's id, so that equal gains have an order."""
    return (pair["ppo"]["reward"] or 0.0) - (pair["sft"]["reward"] or 0.0), pair["sft"]["prompt_id"]


def _number(value: Any) -> str:
    """Three significant digits; a dash for what is not known."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, (int, str)):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _interval(bounds: Sequence[float] | None, style: str = "number") -> str:
    if bounds is None:
        return ""
    show = _share if style == "share" else _number
    return f"[{show(bounds[0])}, {show(bounds[1])}]"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
