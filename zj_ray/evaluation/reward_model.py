"""What a reward model is worth: it and the baselines on the same held-out pairs, its aspects and its calibration.

Length alone predicts much of most rankings, and so do rules that read the text; a reward model has to beat both. The
rules see what it sees, context and answer, and not the case behind them, of which simulated annotators know more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.table import Table

from zj_ray.algorithms.preference import disagreement
from zj_ray.evaluation.calibration import calibrate
from zj_ray.evaluation.ranking_accuracy import length_scores, measure, preferred_pairs
from zj_ray.rankings.aspects import HEADS
from zj_ray.rankings.labels import RankedForTraining
from zj_ray.rules.rubric import rubric


def measure_reward(
    scores: np.ndarray, held_out: Sequence[RankedForTraining], trained: Sequence[RankedForTraining]
) -> dict[str, Any]:
    """The first member, the mean of all, and the baselines on the same held-out pairs.

    scores: `[members, held-out answers, heads]`.
    """
    pairs, several = preferred_pairs(held_out), len(scores) > 1
    items = [labelled.item for labelled in held_out]
    rules = [rubric(item.context, answer.text, prompt=None).utility for item in items for answer in item.answers]
    scorers = {"reward model": scores[0, :, 0]}
    if several:
        scorers[f"mean of {len(scores)}"] = scores[:, :, 0].mean(0)
    scorers |= {"length only": length_scores(pairs, preferred_pairs(trained)), "rules only": np.array(rules)}
    aspects = {name: (scores[0, :, head], preferred_pairs(held_out, head)) for head, name in enumerate(HEADS) if head}
    calibration = calibrate(pairs.differences(scores[0, :, 0]), pairs.prompts)
    return {
        "scorers": {name: measure(of_scorer, pairs) for name, of_scorer in scorers.items()},
        "aspects": {name: measure(*of_aspect) for name, of_aspect in aspects.items()},
        "calibration": asdict(calibration) if calibration else None,
        "disagreement": float(np.mean(list(disagreements(held_out, scores).values()))) if several else None,
    }


def disagreements(items: Sequence[RankedForTraining], scores: np.ndarray) -> dict[str, float]:
    """How unlike the members order each item's answers, by the item's id. scores: `[members, answers, heads]`."""
    ends = np.cumsum([len(labelled.item.answers) for labelled in items])
    parts = np.split(scores[:, :, 0], ends[:-1], axis=1)
    return {labelled.item.id: disagreement(part) for labelled, part in zip(items, parts, strict=True)}


def summarise(measured: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `accuracy.json` that summary.json and the manifest hold."""
    scorers, calibration = measured["scorers"], measured["calibration"] or {}
    model = scorers["reward model"]
    return {
        "pair_accuracy": model["accuracy"],
        "pair_accuracy_ci95": model["ci95"],
        "pair_accuracy_by_length_bin": model["by"]["length"],
        "pair_accuracy_length_partialled": model["length_partialled"],
        "pair_accuracy_length_only": scorers["length only"]["accuracy"],
        "pair_accuracy_rules_only": scorers["rules only"]["accuracy"],
        "pair_accuracy_ceiling": measured["ceiling"],
        "held_out_pairs": model["pairs"],
        **{key: calibration.get(key) for key in ("temperature", "ece")},
    }


def table(measured: Mapping[str, Any]) -> Table:
    """The scorers side by side, for the terminal."""
    columns = ("scorer", "pairs", "accuracy", "95 %", "length partialled out")
    scorers = Table(*columns, title="held-out pairs", title_justify="left")
    for name, figures in {**measured["scorers"], **measured["aspects"]}.items():
        if figures["pairs"]:
            low, high = figures["ci95"]
            accuracy, partialled = f"{figures['accuracy']:.3f}", f"{figures['length_partialled']:.3f}"
            scorers.add_row(name, str(figures["pairs"]), accuracy, f"{low:.3f} to {high:.3f}", partialled)
    return scorers
