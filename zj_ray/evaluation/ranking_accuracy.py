"""How often a scorer prefers the answer that most annotators prefer, over which pairs, and how much of that is length.

Any scorer will do: the reward model, its aspect heads, an answer's length, the rules. All are measured on the same
pairs, and an interval resamples questions (`rankings/split.py`): the pairs of an item share its answers, and the items
of a question or a dialogue share their patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zj_ray.algorithms.preference import majority
from zj_ray.evaluation.statistics import ratio_interval
from zj_ray.rankings.labels import RankedForTraining
from zj_ray.rankings.split import questions

LENGTH_BINS = (
    ("better is shorter by over 10 characters", -np.inf, -10),
    ("within 10 characters", -10, 11),
    ("better is longer by over 10 characters", 11, np.inf),
)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """Pairs of answers that most annotators order.

    better, worse: `[pairs]`, answers by their number over all items; questions: `[pairs]`, the number of the item's
    question; texts: `[answers]`. parts: for each way to divide the pairs, the name of every pair's part.
    """

    better: NDArray[np.int64]
    worse: NDArray[np.int64]
    questions: NDArray[np.int64]
    texts: Sequence[str]
    parts: Mapping[str, Sequence[str]]

    @property
    def lengths(self) -> Floats:
        """`[answers]` [characters]"""
        return np.array([len(text) for text in self.texts], dtype=float)

    def differences(self, scores: Floats) -> Floats:
        """By how much each preferred answer scores higher `[pairs]`. scores: `[answers]`."""
        return scores[self.better] - scores[self.worse]

    def unseen(self, learnt: Set[str]) -> Pairs:
        """The pairs of which neither answer's text is among the `learnt` ones."""
        new = np.array([text not in learnt for text in self.texts], dtype=bool)
        kept = np.flatnonzero(new[self.better] & new[self.worse])
        parts = {name: [of_pair[i] for i in kept] for name, of_pair in self.parts.items()}
        better, worse, numbers = self.better[kept], self.worse[kept], self.questions[kept]
        return replace(self, better=better, worse=worse, questions=numbers, parts=parts)


def preferred_pairs(items: Sequence[RankedForTraining], head: int = 0) -> Pairs:
    """The pairs that most annotators order, overall (head 0) or on an aspect."""
    better, worse, numbers = list[int](), list[int](), list[int]()
    parts: dict[str, list[str]] = {"rank distance": [], "answers": [], "department": [], "source": [], "length": []}
    texts = [answer.text for labelled in items for answer in labelled.item.answers]
    question = questions([labelled.item for labelled in items])
    number = {name: n for n, name in enumerate(dict.fromkeys(question.values()))}
    first = 0
    for labelled in items:
        for i, j in np.argwhere(majority(labelled.ranks[head])).tolist():
            better.append(first + i)
            worse.append(first + j)
            numbers.append(number[question[labelled.item.id]])
            for name, part in _parts(labelled, head, i, j).items():
                parts[name].append(part)
        first += len(labelled.item.answers)
    return Pairs(np.array(better, dtype=int), np.array(worse, dtype=int), np.array(numbers, dtype=int), texts, parts)


def _parts(labelled: RankedForTraining, head: int, i: int, j: int) -> dict[str, str]:
    better, worse = labelled.item.answers[i], labelled.item.answers[j]
    longer = len(better.text) - len(worse.text)
    return {
        "rank distance": str(max(1, round(float(np.nanmean(labelled.ranks[head, j] - labelled.ranks[head, i]))))),
        "answers": f"{better.origin.get('kind', 'generated')} over {worse.origin.get('kind', 'generated')}",
        "department": labelled.item.department or "unknown",
        "source": str(better.origin.get("source") or "this run"),
        "length": next(name for name, low, high in LENGTH_BINS if low <= longer < high),
    }


def measure(scores: Floats, pairs: Pairs) -> dict[str, Any]:
    """The accuracy of `scores` `[answers]` over all pairs, over their parts, and without what length explains.

    A division of the pairs that has only one part is left out, but for that by length.
    """
    differences = pairs.differences(scores)
    by = {
        name: {part: _accuracy(differences, pairs, np.array(of_pair) == part) for part in sorted(set(of_pair))}
        for name, of_pair in pairs.parts.items()
    }
    return {
        **_accuracy(differences, pairs, np.ones(len(differences), dtype=bool)),
        "length_partialled": length_partialled(differences, pairs),
        "by": {name: parts for name, parts in by.items() if len(parts) > 1 or name == "length"},
    }


def _accuracy(differences: Floats, pairs: Pairs, chosen: NDArray[np.bool_]) -> dict[str, Any]:
    """The share of the chosen pairs that is ordered rightly, an equal score counting half, with its interval.

    The interval is over questions.
    """
    share = _mean_over_pairs(_outcomes(differences[chosen]), pairs.questions[chosen])
    return {"accuracy": share and share[0], "ci95": share and share[1], "pairs": int(chosen.sum())}


def _mean_over_pairs(values: Floats, of_question: NDArray[np.int64]) -> tuple[float, tuple[float, float]] | None:
    """The mean of `values` `[pairs]` with its interval over questions; None without a pair."""
    if not len(values):
        return None
    _, question = np.unique(of_question, return_inverse=True)
    return ratio_interval(np.bincount(question, weights=values).tolist(), np.bincount(question).tolist())


def compare_scorers(scores: Floats, others: Floats, pairs: Pairs) -> dict[str, Any]:
    """By how much more of the pairs `scores` orders rightly than `others`, with its paired interval over questions."""
    gain = _outcomes(pairs.differences(scores)) - _outcomes(pairs.differences(others))
    mean = _mean_over_pairs(gain, pairs.questions)
    return {"difference": mean and mean[0], "ci95": mean and mean[1], "pairs": len(gain)}


def _outcomes(differences: Floats) -> Floats:
    """1 for each pair that is ordered rightly, ½ where the scores are equal, else 0."""
    return 0.5 + 0.5 * np.sign(differences)


def length_partialled(differences: Floats, pairs: Pairs) -> float | None:
    """Pair accuracy of what a regression on the differences of length and of its logarithm leaves of the scores'.

    That is the residual of a partial correlation (Frisch & Waugh 1933), without a constant: swapping a pair changes
    every sign. A scorer of length alone has none left and gets ½; one that does not go with length keeps its accuracy.
    """
    if not len(differences):
        return None
    of_length = np.stack([pairs.differences(pairs.lengths), pairs.differences(np.log1p(pairs.lengths))], axis=1)
    explained = of_length @ np.linalg.lstsq(of_length, differences, rcond=None)[0]
    residual = differences - explained
    residual[np.abs(residual) < 1e-9 * (np.abs(differences) + np.abs(explained))] = 0.0  # rounding is no preference
    return float(_outcomes(residual).mean())


def length_scores(pairs: Pairs, trained: Pairs) -> Floats:
    """The baseline that knows length alone `[answers]`: longer is better, or shorter if the `trained` pairs say so."""
    return pairs.lengths * (1.0 if np.sign(trained.differences(trained.lengths)).sum() >= 0 else -1.0)
