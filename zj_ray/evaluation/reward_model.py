"""What a reward model is worth: it and the baselines on the same held-out pairs, its aspects, its calibration, what its members differ in.

Length alone predicts much of most rankings, and so do rules that read the text; a reward model has to beat both. The rules see
what it sees, context and answer, and not the case behind them, of which simulated annotators know more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """The first member, the mean of all, and the baselines on the same held-out pairs. scores: `[members, held-out answers, heads]`."""
    pairs = preferred_pairs(held_out)
    rules = [
        rubric(labelled.item.context, a.text, prompt=None).utility
        for labelled in held_out
        for a in labelled.item.answers
    ]
    scorers = {"reward model": scores[0, :, 0]} | (
        {f"mean of {len(scores)}": scores[:, :, 0].mean(0)} if len(scores) > 1 else {}
    )
    scorers |= {"length only": length_scores(pairs, preferred_pairs(trained)), "rules only": np.array(rules)}
    calibration = calibrate(pairs.differences(scores[0, :, 0]), pairs.prompts)
    unlike = disagreements(held_out, scores) if len(scores) > 1 else None
    return {
        "scorers": {name: measure(found, pairs) for name, found in scorers.items()},
        "aspects": {
            name: measure(scores[0, :, head], preferred_pairs(held_out, head))
            for head, name in enumerate(HEADS)
            if head
        },
        "calibration": calibration.as_dict() if calibration else None,
        "disagreement": float(np.mean(list(unlike.values()))) if unlike else None,
    }


def disagreements(items: Sequence[RankedForTraining], scores: np.ndarray) -> dict[str, float]:
    """How unlike the members order each item's answers, by the item's id. scores: `[members, answers, heads]`."""
    ends = np.cumsum([len(labelled.item.answers) for labelled in items])
    parts = np.split(scores[:, :, 0], ends[:-1], axis=1)
    return {labelled.item.id: disagreement(part) for labelled, part in zip(items, parts, strict=True)}


def summarise(measured: Mapping[str, Any]) -> dict[str, Any]:
    """What summary.json and the manifest hold of `accuracy.json`."""
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
    shown = Table(title="held-out pairs", title_justify="left")
    for column in ("scorer", "pairs", "accuracy", "95 %", "length partialled out"):
        shown.add_column(column)
    for name, found in {**measured["scorers"], **measured["aspects"]}.items():
        if found["pairs"]:
            low, high = found["ci95"]
            shown.add_row(
                name,
                str(found["pairs"]),
                f"{found['accuracy']:.3f}",
                f"{low:.3f} to {high:.3f}",
                f"{found['length_partialled']:.3f}",
            )
    return shown
