"""The routes of those who rank: annotators, and adjudicators where annotators disagree."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from zj_ray.errors import DataError
from zj_ray.labelling.accounts import Account
from zj_ray.labelling.desk import display_order
from zj_ray.labelling.page import LETTERS, page_of, show
from zj_ray.labelling.security import WORK_LIMIT, Adjudicator, Ranker, SignedIn, csrf_header, limiter
from zj_ray.rankings.aspects import ASPECTS, OVERALL
from zj_ray.rankings.consensus import competition_ranks
from zj_ray.rankings.tables import Ranking

SKIP_REASONS = ("skip_field", "skip_context", "skip_content", "skip_other")

Word = Annotated[str, Field(min_length=1, max_length=128)]
Ranks = Annotated[list[Annotated[int, Field(ge=1, le=len(LETTERS))]], Field(min_length=2, max_length=len(LETTERS))]

routes = APIRouter()


class Judgement(BaseModel):
    """What an annotator sends: ranks in the order of display. key: the same when it is sent again."""

    item: Word
    key: Word
    overall: Ranks
    aspects: dict[Literal[ASPECTS], Ranks] = {}  # type: ignore[valid-type]
    all_wrong: bool = False
    right_answer: str | None = Field(None, max_length=20_000)
    comment: str | None = Field(None, max_length=5_000)


class Skip(BaseModel):
    item: Word
    reason: Literal[SKIP_REASONS]  # type: ignore[valid-type]
    detail: str = Field("", max_length=5_000)


class Undo(BaseModel):
    item: Word


@routes.get("/")
@limiter.limit(WORK_LIMIT)
def rank_page(request: Request, account: SignedIn) -> Response:
    if account.role == "admin":
        return RedirectResponse("/admin", 303)
    return _task_page(request, account, adjudicating=False)


@routes.get("/adjudicate")
@limiter.limit(WORK_LIMIT)
def adjudicate_page(request: Request, account: Adjudicator) -> Response:
    return _task_page(request, account, adjudicating=True)


@routes.get("/compare")
def compare_page(request: Request, item: str, account: Adjudicator) -> Response:
    """What the annotators said, for the adjudicator who has decided the item."""
    page = page_of(request)
    if not page.desk.has_adjudicated(item, account.name):
        raise HTTPException(403)
    return show(request, "compare.html", account, item=page.store.items([item])[0], rankings=page.store.rankings(item))


@routes.get("/history")
def history_page(request: Request, account: Ranker) -> Response:
    return show(request, "history.html", account, events=page_of(request).desk.history(account.name))


@routes.post("/api/rank", dependencies=[Depends(csrf_header)])
@limiter.limit(WORK_LIMIT)
def rank(request: Request, judgement: Judgement, account: Ranker) -> dict[str, Any]:
    shown = display_order(judgement.item, account.name, len(judgement.overall))
    aspects = {name: _as_stored(judgement.aspects.get(name, judgement.overall), shown) for name in ASPECTS}
    ranking = Ranking(
        item=judgement.item,
        annotator=account.name,
        kind="human",
        overall=_as_stored(judgement.overall, shown),
        aspects=aspects,
        all_wrong=judgement.all_wrong,
        right_answer=(judgement.right_answer or "").strip() or None,
        comment=(judgement.comment or "").strip() or None,
    )
    page_of(request).desk.save(ranking, judgement.key)
    return {"saved": True}


@routes.post("/api/skip", dependencies=[Depends(csrf_header)])
@limiter.limit(WORK_LIMIT)
def skip(request: Request, body: Skip, account: Ranker) -> dict[str, Any]:
    page_of(request).desk.skip(body.item, account.name, f"{body.reason}: {body.detail}".strip(": "))
    return {"saved": True}


@routes.post("/api/undo", dependencies=[Depends(csrf_header)])
@limiter.limit(WORK_LIMIT)
def undo(request: Request, body: Undo, account: Ranker) -> dict[str, Any]:
    adjudicating = page_of(request).desk.undo(body.item, account.name)
    return {"page": "/adjudicate" if adjudicating else "/"}


def _task_page(request: Request, account: Account, *, adjudicating: bool) -> Response:
    page = page_of(request)
    task = page.desk.next(account.name, adjudicating=adjudicating)
    if task is None and page.catch_up():
        task = page.desk.next(account.name, adjudicating=adjudicating)
    parts: dict[str, Any] = {
        "task": task,
        "adjudicating": adjudicating,
        "mine": page.desk.tickets_of(account.name),
        "counts": page.desk.progress()["adjudicate" if adjudicating else "rank"],
        "last": next((event.item for event in page.desk.history(account.name, limit=1) if event.counts), None),
    }
    if task is None:
        return show(request, "done.html", account, **parts)
    parts["draft"] = {} if task.earlier is None else _draft(task.earlier, task.shown)
    parts["texts"] = [task.item.answers[position].text for position in task.shown]
    return show(request, "rank.html", account, key=secrets.token_urlsafe(16), reasons=SKIP_REASONS, **parts)


def _draft(earlier: Ranking, shown: tuple[int, ...]) -> dict[str, Any]:
    """A ranking that was taken back, as the page keeps a half-done one: by card, in the order of display."""
    own = {aspect: ranks for aspect, ranks in (earlier.aspects or {}).items() if ranks != earlier.overall}
    by_card = {
        name: [ranks[position] for position in shown] for name, ranks in {OVERALL: earlier.overall, **own}.items()
    }
    texts = {"right_answer": earlier.right_answer or "", "comment": earlier.comment or ""}
    return {"ranks": by_card, "all_wrong": earlier.all_wrong, **texts}


def _as_stored(by_card: list[int], shown: tuple[int, ...]) -> tuple[int, ...]:
    """Ranks in the order of the store's answers, from those in the order of display; gaps are closed: 1, 2, 2, 4."""
    if len(by_card) != len(shown):
        raise DataError(f"{len(by_card)} ranks don't fit {len(shown)} answers")
    ranks = dict(zip(shown, competition_ranks([float(rank) for rank in by_card]), strict=True))
    return tuple(ranks[position] for position in range(len(shown)))
