"""A ranking as another labelling tool sees it: a form with one question after the other, each answered without ties.

Label Studio's Ranker and Argilla's client hold an order of the answers and no more, so each file also carries the
rankings in full (`ranking_row`) where the tool keeps them untouched. A form that comes back is compared with the one
that went out: where nothing was changed, the annotator's full ranking stands, else the form is a new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from zj_ray.errors import DataError
from zj_ray.rankings.aspects import ASPECTS, OVERALL
from zj_ray.rankings.consensus import competition_ranks
from zj_ray.rankings.tables import Item, Ranking, utc

ALL_WRONG, RIGHT_ANSWER, COMMENT = "all_wrong", "right_answer", "comment"
RANKED = (OVERALL, *ASPECTS)


class RankedAnswer(BaseModel):
    """An answer's name in an order, with its rank, which may be tied, where a tool gives one."""

    value: str
    rank: int | None = None


ORDER = TypeAdapter(list[str | RankedAnswer])


def answer_name(position: int) -> str:
    """What an answer is called in the tool: answer-1, answer-2, …"""
    return f"answer-{position + 1}"


def as_form(ranking: Ranking) -> dict[str, Any]:
    """The answer to each question of the form: the answers' names, the best first; a text; or True.

    Of equal ranks the earlier answer goes first.
    """
    questions = {OVERALL: ranking.overall, **{a: r for a, r in (ranking.aspects or {}).items() if a in ASPECTS}}
    orders = {
        question: [answer_name(k) for k in sorted(range(len(ranks)), key=ranks.__getitem__)]
        for question, ranks in questions.items()
    }
    texts = {RIGHT_ANSWER: ranking.right_answer, COMMENT: ranking.comment}
    flags = {ALL_WRONG: True} if ranking.all_wrong else {}
    return orders | {question: text for question, text in texts.items() if text} | flags


def parse_form(
    form: Mapping[str, Any],
    item: Item,
    annotator: str,
    where: str,
    *,
    time_spent: float | None = None,
    created: datetime | None = None,
) -> Ranking | None:
    """The ranking in a person's form; None where nothing is ranked overall. An order may hold ranks (`RankedAnswer`).

    Raises DataError naming `where` for an order that lacks one of the item's answers.
    """
    if form.get(OVERALL) is None:
        return None
    aspects = {aspect: _ranks(form[aspect], item, f"{where}, {aspect}") for aspect in ASPECTS if form.get(aspect)}
    return Ranking(
        item.id,
        annotator,
        kind="human",
        overall=_ranks(form[OVERALL], item, f"{where}, {OVERALL}"),
        aspects=aspects or None,
        all_wrong=bool(form.get(ALL_WRONG)),
        right_answer=str(form[RIGHT_ANSWER]) if form.get(RIGHT_ANSWER) else None,
        comment=str(form[COMMENT]) if form.get(COMMENT) else None,
        seconds=time_spent,
        created=created and utc(created),
    )


def reconcile(full: Sequence[Ranking], forms: Iterable[Ranking | None]) -> list[Ranking]:
    """Each annotator's full ranking, or the one from the form that came back where that says something else."""
    newest = {ranking.annotator: ranking for ranking in full}
    for ranking in forms:
        if ranking is not None:
            before = newest.get(ranking.annotator)
            if before is None or as_form(before) != as_form(ranking):
                newest[ranking.annotator] = ranking
    return list(newest.values())


def _ranks(order: Any, item: Item, where: str) -> tuple[int, ...]:
    """Ranks of the item's answers in an order, which may also name answers that only other items have."""
    names = [answer_name(k) for k in range(len(item.answers))]
    try:
        answers = ORDER.validate_python(order)
    except ValidationError:
        answers = []
    ranks: dict[str, int] = {}
    for number, answer in enumerate(answers, start=1):
        if isinstance(answer, str):
            ranks[answer] = number
        else:
            ranks[answer.value] = answer.rank or number
    if len(ranks) < len(answers) or any(name not in ranks for name in names):
        what = f"{order} does not rank {', '.join(names)}"
        raise DataError(what, where=where, remedy="rank every answer of the item once")
    return tuple(competition_ranks([float(ranks[name]) for name in names]))
