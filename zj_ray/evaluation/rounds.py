"""A round's policy against that of the round before, on the same unseen cases.

The rubric judges them, as it judges PPO against SFT. Rewards of two rounds can't be compared: each round has a reward
model of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from zj_ray.data.case import Prompt
from zj_ray.data.messages import Message
from zj_ray.evaluation.statistics import Comparison, compare
from zj_ray.files import read_jsonl
from zj_ray.rules.rubric import rubric


def mean_utility(messages: Sequence[Message], case: Prompt) -> float:
    """The mean utility of a consultation's doctor turns, each as an annotator without noise would judge it."""
    turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
    return float(np.mean([rubric(messages[:i], messages[i].content, prompt=case).utility for i in turns]))


def earlier_round(run_folder: Path) -> Path | None:
    """The consultations of the newest evaluation that `zj run --from` has put aside; None where there is none."""
    return max(run_folder.glob("evaluate.before-*/consultations.jsonl"), default=None)


def against_earlier(
    path: Path, cases: Sequence[Prompt], utilities: Mapping[str, float], *, tie_margin: float, resamples: int
) -> Comparison | None:
    """This round's policy against that of an earlier round's consultations, in the file at `path`.

    utilities: by case, of this round's policy. None where no case is in both.
    """
    by_id = {case.id: case for case in cases}
    before = {}
    for _, row in read_jsonl(path):
        if row["model"] == "ppo" and row["prompt_id"] in by_id and row["prompt_id"] in utilities:
            before[row["prompt_id"]] = mean_utility([Message(**m) for m in row["messages"]], by_id[row["prompt_id"]])
    if not before:
        return None
    after = [utilities[case] for case in before]
    return compare(list(before.values()), after, tie_margin=tie_margin, resamples=resamples)
