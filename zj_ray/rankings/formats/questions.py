"""A ranking as a labelling tool of others sees it: one question after the other, each answered without ties.

Label Studio's Ranker and Argilla's client hold an order of the answers and no more, so each file of theirs also carries the
rankings in full (`ranking_row`) where the tool keeps them untouched. What comes back is compared with what was given: an
annotator's answers that are still the same stand for his full ranking, others for a new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from zj_ray.errors import DataError
from zj_ray.rankings.aspects import ASPECTS
from zj_ray.rankings.rows import utc
from zj_ray.rankings.store import places
from zj_ray.rankings.tables import Item, Ranking

OVERALL, ALL_WRONG, RIGHT_ANSWER, COMMENT = "overall", "all_wrong", "right_answer", "comment"
RANKED = (OVERALL, *ASPECTS)


class Place(BaseModel):
    """An answer's place in an order: the rank, with ties, where a tool gives one."""

    value: str
    rank: int | None = None


ORDER = TypeAdapter(list[str | Place])


def label(position: int) -> str:
    """What an answer is called in the tool: answer-1, answer-2, …"""
    return f"answer-{position + 1}"


def asked(ranking: Ranking) -> dict[str, Any]:
    """{question: the answers' labels, the best first; a text; True}. Of equal ranks the earlier answer goes first."""
    ranks = {OVERALL: ranking.overall, **{a: r for a, r in (ranking.aspects or {}).items() if a in ASPECTS}}
    orders = {
        question: [label(k) for k in sorted(range(len(given)), key=given.__getitem__)]
        for question, given in ranks.items()
    }
    texts = {RIGHT_ANSWER: ranking.right_answer, COMMENT: ranking.comment}
    return (
        orders
        | {question: said for question, said in texts.items() if said}
        | ({ALL_WRONG: True} if ranking.all_wrong else {})
    )


def answered(
    told: Mapping[str, Any], item: Item, annotator: str, where: str, *, seconds: float | None, created: datetime | None
) -> Ranking | None:
    """The ranking behind a person's answers `told`; None where he ranked nothing overall. An order may hold ranks (`Place`)."""
    if told.get(OVERALL) is None:
        return None
    aspects = {aspect: _ranks(told[aspect], item, f"{where}, {aspect}") for aspect in ASPECTS if told.get(aspect)}
    return Ranking(
        item.id,
        annotator,
        "human",
        _ranks(told[OVERALL], item, f"{where}, {OVERALL}"),
        aspects or None,
        all_wrong=bool(told.get(ALL_WRONG)),
        right_answer=str(told[RIGHT_ANSWER]) if told.get(RIGHT_ANSWER) else None,
        comment=str(told[COMMENT]) if told.get(COMMENT) else None,
        seconds=seconds,
        created=utc(created),
    )


def reconcile(full: Sequence[Ranking], came_back: Iterable[Ranking | None]) -> list[Ranking]:
    """Each annotator's full ranking, or what came back of him where that says something else."""
    known = {ranking.annotator: ranking for ranking in full}
    for ranking in came_back:
        if ranking is not None and (
            ranking.annotator not in known or asked(known[ranking.annotator]) != asked(ranking)
        ):
            known[ranking.annotator] = ranking
    return list(known.values())


def _ranks(order: Any, item: Item, where: str) -> tuple[int, ...]:
    """Ranks of the item's answers. Labels beyond its own are those of items with more answers."""
    wanted = [label(k) for k in range(len(item.answers))]
    try:
        places_given = ORDER.validate_python(order)
    except ValidationError:
        places_given = []
    ranked = {
        p if isinstance(p, str) else p.value: number if isinstance(p, str) else p.rank or number
        for number, p in enumerate(places_given, 1)
    }
    if len(ranked) < len(places_given) or any(name not in ranked for name in wanted):
        raise DataError(
            f"{order} does not rank {', '.join(wanted)}", where=where, remedy="rank every answer of the item once"
        )
    return tuple(places([float(ranked[name]) for name in wanted]))
