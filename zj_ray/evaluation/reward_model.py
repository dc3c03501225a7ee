"""What a reward model is worth: it and the baselines on the same held-out pairs, its aspects and its calibration.

Length alone predicts much of most rankings, and so do rules that read the text; a reward model has to beat both. The
rules see what it sees, context and answer, and not the case behind them, of which simulated annotators know more. An
answer that stands word for word in training may be remembered and not judged: pairs without such have a row of their
own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.table import Table

from zj_ray.algorithms.preference import disagreement
from zj_ray.evaluation.calibration import calibrate
from zj_ray.evaluation.ranking_accuracy import compare_scorers, length_scores, measure, preferred_pairs
from zj_ray.rankings.aspects import HEADS
from zj_ray.rankings.labels import RankedForTraining
from zj_ray.rules.rubric import rubric

MODEL, RULES = "reward model", "rules only"


def measure_reward(
    members: np.ndarray,
    combined: np.ndarray,
    held_out: Sequence[RankedForTraining],
    trained: Sequence[RankedForTraining],
    utilities: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    """What PPO is paid by, the first member of an ensemble, and the baselines, on the same held-out pairs.

    members: `[members, held-out answers, heads]`; combined: `[held-out answers, heads]`, the score that they come to.
    utilities: the hidden truth of simulated annotators, by item; its accuracy is the ceiling.
    """
    pairs, several = preferred_pairs(held_out), len(members) > 1
    items = [labelled.item for labelled in held_out]
    rules = np.array([rubric(item.context, a.text, prompt=None).utility for item in items for a in item.answers])
    scorers = {MODEL: combined[:, 0]} | ({"first member": members[0, :, 0]} if several else {})
    scorers |= {"length only": length_scores(pairs, preferred_pairs(trained)), RULES: rules}
    aspects = {name: (combined[:, head], preferred_pairs(held_out, head)) for head, name in enumerate(HEADS) if head}
    calibration = calibrate(pairs.differences(combined[:, 0]), pairs.questions)
    learnt = {answer.text for labelled in trained for answer in labelled.item.answers}
    unseen = pairs.unseen(learnt)
    return {
        "scorers": {name: measure(of_scorer, pairs) for name, of_scorer in scorers.items()},
        "unseen_answers": {name: measure(of_scorer, unseen) for name, of_scorer in scorers.items()},
        "model_less_rules": compare_scorers(combined[:, 0], rules, pairs),
        "verbatim": {"answers": len(pairs.texts), "in_training": sum(text in learnt for text in pairs.texts)},
        "questions": len(np.unique(pairs.questions)),
        "aspects": {name: measure(*of_aspect) for name, of_aspect in aspects.items()},
        "ceiling": ceiling(held_out, utilities or {}),
        "calibration": asdict(calibration) if calibration else None,
        "disagreement": float(np.mean(list(disagreements(held_out, members).values()))) if several else None,
    }


def ceiling(held_out: Sequence[RankedForTraining], utilities: Mapping[str, Sequence[float]]) -> dict[str, Any] | None:
    """How the hidden truth itself does against the annotators' rankings; None where no item has one.

    No reward model can be expected to beat it: what is missing to 1 are the annotators' errors. A right answer that an
    annotator wrote has no utility, and its item counts for nothing here.
    """
    known = [each for each in held_out if len(utilities.get(each.item.id, ())) == len(each.item.answers)]
    truth = np.array([value for labelled in known for value in utilities[labelled.item.id]])
    return measure(truth, preferred_pairs(known)) if known else None


def disagreements(items: Sequence[RankedForTraining], scores: np.ndarray) -> dict[str, float]:
    """How unlike the members order each item's answers, by the item's id. scores: `[members, answers, heads]`."""
    ends = np.cumsum([len(labelled.item.answers) for labelled in items])
    parts = np.split(scores[:, :, 0], ends[:-1], axis=1)
    return {labelled.item.id: disagreement(part) for labelled, part in zip(items, parts, strict=True)}


def summarise(measured: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `accuracy.json` that summary.json and the manifest hold."""
    scorers, calibration = measured["scorers"], measured["calibration"] or {}
    model, unseen, highest = scorers[MODEL], measured["unseen_answers"][MODEL], measured["ceiling"] or {}
    return {
        "pair_accuracy": model["accuracy"],
        "pair_accuracy_ci95": model["ci95"],
        "pair_accuracy_by_length_bin": model["by"]["length"],
        "pair_accuracy_length_partialled": model["length_partialled"],
        "pair_accuracy_length_only": scorers["length only"]["accuracy"],
        "pair_accuracy_rules_only": scorers[RULES]["accuracy"],
        "pair_accuracy_unseen_answers": unseen["accuracy"],
        "pair_accuracy_unseen_answers_ci95": unseen["ci95"],
        "pair_accuracy_less_rules": measured["model_less_rules"]["difference"],
        "pair_accuracy_less_rules_ci95": measured["model_less_rules"]["ci95"],
        "pair_accuracy_ceiling": highest.get("accuracy"),
        "held_out_pairs": model["pairs"],
        "held_out_questions": measured["questions"],
        "held_out_answers": measured["verbatim"]["answers"],
        "held_out_answers_in_training": measured["verbatim"]["in_training"],
        **{key: calibration.get(key) for key in ("temperature", "ece", "ece_ci95")},
    }


def table(measured: Mapping[str, Any]) -> Table:
    """The scorers side by side, for the terminal."""
    columns = ("scorer", "pairs", "accuracy", "95 %", "length partialled out")
    scorers = Table(*columns, title="held-out pairs", title_justify="left", caption=caption(measured))
    for name, figures in rows(measured).items():
        low, high = figures["ci95"]
        accuracy, partialled = f"{figures['accuracy']:.3f}", f"{figures['length_partialled']:.3f}"
        scorers.add_row(name, str(figures["pairs"]), accuracy, f"{low:.3f} to {high:.3f}", partialled)
    return scorers


def rows(measured: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Every row of the table by its name: scorers, those on answers unseen in training, the ceiling, aspect heads."""
    unseen = {f"{name}, unseen answers": figures for name, figures in measured.get("unseen_answers", {}).items()}
    highest = {"ceiling": measured["ceiling"]} if isinstance(measured.get("ceiling"), Mapping) else {}
    found = {**measured["scorers"], **unseen, **highest, **measured["aspects"]}
    return {name: figures for name, figures in found.items() if figures["pairs"]}


def caption(measured: Mapping[str, Any]) -> str:
    """What the table does not hold, in sentences."""
    verbatim, gain, calibration = measured["verbatim"], measured["model_less_rules"], measured["calibration"]
    lines = [
        f"intervals resample {measured['questions']} questions; "
        f"{verbatim['in_training']} of {verbatim['answers']} held-out answers stand verbatim in training"
    ]
    if gain["pairs"]:
        lines.append(f"reward model − rules: {gain['difference']:+.3f} {_interval(gain['ci95'])}, paired")
    if calibration:
        lines.append(f"ECE {calibration['ece']:.3f} {_interval(calibration['ece_ci95'])} after the temperature")
    return "\n".join(lines)


def _interval(ci95: Sequence[float]) -> str:
    return f"({ci95[0]:.3f} to {ci95[1]:.3f})"
