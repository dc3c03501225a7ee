"""Trains the small classifier of zj_ray/rules/danger.py and writes its weights: `python -m bench.danger`.

Labels: bench/danger_labels.jsonl and the half of tests/rules/safety_texts.jsonl that may be looked at; all that the
clinic's doctors say is harmless. Before it writes, it says how well the rules and the classifier do on each eighth of
the labels when it is trained on the other seven.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from zlib import crc32

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from zj_ray.data.clinic.cases import draw_visit
from zj_ray.data.clinic.consultations import STYLES, Consultation
from zj_ray.data.clinic.safety import load_categories
from zj_ray.files import write_json
from zj_ray.language.conditions import load_conditions
from zj_ray.language.normal import normalise
from zj_ray.rules import safety
from zj_ray.rules.danger import WEIGHTS, features

ROOT = Path(__file__).parents[1]
FOLDS = 8
SOFT = 30.0  # the inverse of the penalty on large weights
CLINIC = 0.3  # what a text of the clinic counts beside a labelled one
SMALLEST = 0.05  # weights below this are left out
OTHER_FAULTS = ("salad", "offtopic", "incomplete", "english", "overrefuse")  # wrong answers that endanger nobody
Example = tuple[str, bool]


def labelled() -> list[Example]:
    """Turns and answers with whether they are dangerous, in their normal form."""
    rows = _rows(ROOT / "bench" / "danger_labels.jsonl")
    rows += [r for r in _rows(ROOT / "tests" / "rules" / "safety_texts.jsonl") if crc32(r["text"].encode()) % 2 == 0]
    kept = [r for r in rows if r["tag"] not in OTHER_FAULTS and r.get("expected") != "answer_helpfully"]
    return [(normalise(r["text"]), r["dangerous"] if r["kind"] == "turn" else not r["right"]) for r in kept]


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def harmless() -> list[str]:
    """What the clinic's doctors answer and advise, and what they say in consultations, each text once."""
    rng = random.Random(0)
    pairs = [pair for c in load_categories() for pair in (*c.requests, *c.controls)]
    texts = [*(answer for c in load_categories() for answer in c.answers), *(answer for _, answer in pairs)]
    for c in load_conditions():
        texts += [f"您好，考虑是{c.name}，{advice}" for advice in c.advice]
        texts += [*c.advice, c.treatment, *(answer for _, answer in c.education), *(f.action for f in c.red_flags)]
        for style in STYLES:
            messages = Consultation(draw_visit(c, rng, flag_share=0.3), style, rng).hold()
            texts += [m["content"] for m in messages if m["role"] == "assistant"]
    return sorted({normalise(text) for text in texts})


def train(examples: list[Example]) -> tuple[float, dict[str, float]]:
    """Bias and weights of a logistic regression in which both classes count alike."""
    texts = [(text, label, 1.0) for text, label in examples] + [(text, False, CLINIC) for text in harmless()]
    vectors = [features(text) for text, _, _ in texts]
    known = sorted(run for run, count in Counter(run for v in vectors for run in v).items() if count > 1)
    column = {run: i for i, run in enumerate(known)}
    entries = [(i, column[run], value) for i, v in enumerate(vectors) for run, value in v.items() if run in column]
    rows, columns, values = zip(*entries, strict=True)
    matrix = csr_matrix((values, (rows, columns)), shape=(len(texts), len(known)))
    sign = np.array([1.0 if label else -1.0 for _, label, _ in texts])
    share = np.where(sign > 0, len(sign) / (2 * (sign > 0).sum()), len(sign) / (2 * (sign < 0).sum()))
    counts = share * np.array([weight for *_, weight in texts])

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = parameters[:-1], parameters[-1]
        margin = sign * (matrix @ weights + bias)
        slope = -counts * sign / (1 + np.exp(np.clip(margin, -50, 50)))
        value = counts @ np.logaddexp(0, -margin) + weights @ weights / (2 * SOFT)
        return value, np.append(matrix.T @ slope + weights / SOFT, slope.sum())

    found = minimize(loss, np.zeros(len(known) + 1), jac=True, method="L-BFGS-B").x
    kept = {run: round(float(w), 2) for run, w in zip(known, found, strict=False) if abs(w) >= SMALLEST}
    return round(float(found[-1]), 3), kept


def validate(examples: list[Example]) -> None:
    """Print what share of dangerous and of harmless texts is stopped, by rules alone and with the classifier."""
    shuffled = random.Random(0).sample(examples, len(examples))
    probability: dict[str, float] = {}
    for fold in range(FOLDS):
        bias, weights = train([e for i, e in enumerate(shuffled) if i % FOLDS != fold])
        for text, _ in shuffled[fold::FOLDS]:
            score = bias + sum(value * weights.get(run, 0.0) for run, value in features(text).items())
            probability[text] = 1 / (1 + np.exp(-score))
    by_rules = {text: bool(safety.hazards.told(text)) for text, _ in examples}
    by_both = {text: bool(safety.hazards.weigh(text, probability[text])) for text, _ in examples}
    for name, stopped in (("rules alone", by_rules), ("rules and classifier", by_both)):
        shares = [np.mean([stopped[text] for text, label in examples if label == wanted]) for wanted in (True, False)]
        print(f"{name}: {shares[0]:.3f} of the dangerous, {shares[1]:.3f} of the harmless are stopped")


if __name__ == "__main__":
    examples = labelled()
    print(f"{len(examples)} labelled texts, {sum(label for _, label in examples)} of them dangerous")
    validate(examples)
    bias, weights = train(examples)
    write_json(WEIGHTS, {"bias": bias, "weights": weights})
    print(f"{len(weights)} weights, {WEIGHTS.stat().st_size / 1024:.0f} KiB")
