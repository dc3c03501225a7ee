"""A small classifier beside the rules: how likely a turn is dangerous, from its characters.

Rules catch the wordings that they know, and miss half of what is said in new ones. A logistic regression on runs of one
to three characters, marked where a clause negates, asks or reports them, finds most of the rest. It is trained on texts
labelled in this project: `python -m bench.danger` says how well it does on texts that it has not seen, and writes
danger.json, a bias and a weight for each run.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

from zj_ray.language.claims import Clause, claims, reach_of_negation

WEIGHTS = Path(__file__).with_name("danger.json")
LONGEST_RUN = 3
ASKED, REPORTED, NEGATED = "?", '"', "¬"  # before the runs of what is asked, reported or negated
TEXTS = 4096  # texts whose score is kept


def features(text: str) -> dict[str, float]:
    """How often each run of characters stands in a text in its normal form, dampened, as a vector of length one.

    Runs that a negation reaches, and those of questions and reports, are features of their own: 「别停药」 has no
    「停药」.
    """
    runs = Counter(run for clause in claims(text) for run in _runs(clause))
    values = {run: 1 + math.log(count) for run, count in runs.items()}
    length = math.sqrt(sum(value * value for value in values.values())) or 1.0
    return {run: value / length for run, value in values.items()}


def _runs(clause: Clause) -> Iterator[str]:
    start, end = reach_of_negation(clause.text)
    framed = f"^{clause.text}$"
    told = ASKED if clause.asks else REPORTED if clause.reported else ""
    for n in range(1, LONGEST_RUN + 1):
        for i in range(len(framed) - n + 1):
            yield told + (NEGATED if start < i <= end else "") + framed[i : i + n]


@lru_cache(TEXTS)
def danger(text: str) -> float:
    """The probability, in [0, 1], that a turn in its normal form is dangerous. Too high where nothing is at stake."""
    bias, weights = _model()
    score = bias + sum(value * weights.get(run, 0.0) for run, value in features(text).items())
    return 1 / (1 + math.exp(-score))


@cache
def _model() -> tuple[float, dict[str, float]]:
    read = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    return read["bias"], read["weights"]
