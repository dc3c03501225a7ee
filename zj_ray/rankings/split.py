"""Which ranked items teach the reward model, which stop its training, and which measure it: whole questions at a time.

Moments of one dialogue, and answers to one question or patient, resemble each other. Were some learnt and others
measured, the measure would be of memory. So items that share a prompt or a patient's first words are one question,
wherever they come from, and a question stays on one side. It is also the unit that intervals resample.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from zj_ray.language.normal import normalise
from zj_ray.language.reading import plain
from zj_ray.rankings.lots import draw
from zj_ray.rankings.tables import Item

STOPPING = 0.1  # the share of the training questions by which early stopping decides
_LEAD_IN = re.compile(
    r"^(?:医生|大夫|您好|你好|在吗|请问|请教您?|麻烦您?|请您判断|网上说|我?想(?:问|咨询|请教)(?:一下)?)+"
)


def opening_of(item: Item) -> str:
    """The patient's first words in one spelling, without marks and greeting: 「医生您好，头痛。」 is 「头痛」.

    Where they are a greeting and no more, many patients' are: then it is the prompt's id.
    """
    first = next(m.content for m in item.context if m.role == "user")
    return _LEAD_IN.sub("", plain(normalise(first))) or item.prompt_id


def questions(items: Sequence[Item]) -> dict[str, str]:
    """The question of each item, by the item's id: equal where two items have a prompt or an opening in common.

    It is named by an opening. Items of different prompts and openings are one question where others link them.
    """
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        while parents.setdefault(name, name) != name:
            name = parents[name]
        return name

    for item in items:
        ends = sorted((root(f"opening/{opening_of(item)}"), root(f"prompt/{item.prompt_id}")))
        parents[ends[1]] = ends[0]
    return {item.id: root(f"prompt/{item.prompt_id}") for item in items}


def is_held_out(items: Sequence[Item], share: float, seed: int) -> dict[str, bool]:
    """Whether each item, by id, is kept back to measure the reward model.

    Held out are the questions of which a file's valid/ has some, and of those that no file has, `share`. The openings
    and the seed alone decide, so that a question that is held out stays so when more is ranked. At least one is.
    """
    question, lots = questions(items), _lots(items, f"{seed}/held-out")
    splits: dict[str, set[str | None]] = {}
    for item in items:
        splits.setdefault(question[item.id], set()).add(item.answers[0].origin.get("split"))
    free = {i: lot for i, lot in lots.items() if splits[question[i]] == {None}}
    held_out = {i: free[i] < share if i in free else "valid" in splits[question[i]] for i in lots}
    if not any(held_out.values()):
        least = min(free.values(), default=None)
        held_out |= {i: True for i, lot in free.items() if lot == least}
    return held_out


def stop_by(training: Sequence[Item], seed: int) -> set[str]:
    """Ids of the training items that early stopping looks at, which are not learnt: `STOPPING` of the questions.

    At least those of one question, but never all.
    """
    lots = _lots(training, f"{seed}/stopping")
    least = min(lots.values(), default=0.0)
    chosen = {item for item, lot in lots.items() if lot < STOPPING or lot == least}
    return chosen if len(chosen) < len(lots) else set()


def _lots(items: Sequence[Item], name: str) -> dict[str, float]:
    """A number in [0, 1) for each item, by id: the least lot of its question's openings.

    A question that grows by an opening can only be drawn lower: what was held out is never learnt in a later round.
    """
    question, least = questions(items), dict[str, float]()
    for item in items:
        lot = draw(f"{name}/{opening_of(item)}")
        least[question[item.id]] = min(lot, least.get(question[item.id], 1.0))
    return {item.id: least[question[item.id]] for item in items}
