"""The ranking page's routes. Each reads what was sent, asks the desk or the store, and shows a page."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Form, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from jinja2 import StrictUndefined
from pydantic import BaseModel, Field
from slowapi.errors import RateLimitExceeded
from starlette.exceptions import HTTPException as HttpError
from starlette.middleware.sessions import SessionMiddleware

from zj_ray.agreement.measure import measure_agreement
from zj_ray.errors import DataError
from zj_ray.labelling.accounts import ROLES, Account, Accounts
from zj_ray.labelling.desk import Desk, NotAssigned, display_order, read_priorities
from zj_ray.labelling.security import (
    LOGIN_LIMIT,
    WORK_LIMIT,
    Guard,
    csrf_form,
    csrf_header,
    csrf_token,
    get_remote_address,
    limiter,
    one_of,
    open_session,
    signed_in,
)
from zj_ray.labelling.words import LANGUAGES, words
from zj_ray.rankings.aspects import ASPECTS
from zj_ray.rankings.consensus import competition_ranks, consensus, settled
from zj_ray.rankings.formats import ranking as ranking_file
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import Ranking

HERE = Path(__file__).parent
SESSION_SECONDS = 12 * 3600
LETTERS = "ABCDEFGHIJKLMNOP"
GOLD_CANDIDATES = 20  # that an administrator is shown at once
SKIP_REASONS = ("skip_field", "skip_context", "skip_content", "skip_other")
PAGES = (
    "/",
    "/adjudicate",
    "/history",
    "/admin",
    "/gold",
    "/agreement",
    "/login",
)  # what a change of language may lead back to

Signed = Annotated[Account, Depends(signed_in)]
Ranker = Annotated[Account, Depends(one_of("annotator", "adjudicator"))]
Adjudicator = Annotated[Account, Depends(one_of("adjudicator"))]
Admin = Annotated[Account, Depends(one_of("admin"))]
Word = Annotated[str, Field(min_length=1, max_length=128)]
Ranks = Annotated[list[Annotated[int, Field(ge=1, le=len(LETTERS))]], Field(min_length=2, max_length=len(LETTERS))]

routes = APIRouter()
templates = Jinja2Templates(HERE / "templates")
templates.env.undefined = StrictUndefined


@dataclass(frozen=True)
class Page:
    """What the routes work with. priorities: the file that says how far the reward models disagree."""

    store: RankingStore
    desk: Desk
    accounts: Accounts
    priorities: Path

    def plan(self) -> None:
        self.desk.plan(read_priorities(self.priorities))

    def catch_up(self) -> bool:
        """Plan what came into the store since the last plan, as `zj feedback collect` brings it; whether there was anything."""
        found = self.desk.unplanned()
        if found:
            self.plan()
        return found

    def doctors_rankings(self, item_ids: Sequence[str] | None = None) -> dict[str, list[Ranking]]:
        """What people said of every item (or of `item_ids`); simulated annotators and files left out."""
        by_doctors = {
            item: [r for r in said if r.kind == "human"] for item, said in self.store.all_rankings(item_ids).items()
        }
        return {item: said for item, said in by_doctors.items() if said}


class Judgement(BaseModel):
    """What a doctor sends: ranks in the order in which he saw the answers. key: the same when it is sent again."""

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


def create_app(page: Page, *, secret: str, https: bool = False) -> FastAPI:
    """secret: signs the sessions; https: send their cookie over HTTPS only."""
    app = FastAPI(title="zj label", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.page, app.state.limiter = page, limiter
    app.include_router(routes)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    app.add_middleware(
        SessionMiddleware,
        secret,
        session_cookie="zj_label",
        max_age=SESSION_SECONDS,
        same_site="strict",
        https_only=https,
    )
    app.add_middleware(Guard)
    for fault in (HttpError, RequestValidationError, DataError, RateLimitExceeded):
        app.add_exception_handler(fault, _refuse)
    return app


# --- signing in ------------------------------------------------------------------------------------------------------


@routes.get("/login")
def login_page(request: Request) -> Response:
    return _show(request, "login.html", wrong=False)


@routes.post("/login", dependencies=[Depends(csrf_form)])
@limiter.limit(LOGIN_LIMIT, key_func=get_remote_address)
def login(request: Request, token: Annotated[str, Form(max_length=200)]) -> Response:
    account = _page(request).accounts.by_token(token.strip())
    if account is None:
        return _show(request, "login.html", wrong=True, status=401)
    open_session(request, account)
    return RedirectResponse("/admin" if account.role == "admin" else "/", 303)


@routes.post("/logout", dependencies=[Depends(csrf_form)])
def logout(request: Request) -> Response:
    request.session.clear()
    return RedirectResponse("/login", 303)


@routes.get("/language/{language}")
def language(request: Request, language: str, page: str = "/") -> Response:
    if language not in LANGUAGES:
        raise HTTPException(404)
    request.session["language"] = language
    return RedirectResponse(page if page in PAGES else "/", 303)


# --- ranking ---------------------------------------------------------------------------------------------------------


@routes.get("/")
@limiter.limit(WORK_LIMIT)
def rank_page(request: Request, account: Signed) -> Response:
    return (
        RedirectResponse("/admin", 303) if account.role == "admin" else _task_page(request, account, adjudicating=False)
    )


@routes.get("/adjudicate")
@limiter.limit(WORK_LIMIT)
def adjudicate_page(request: Request, account: Adjudicator) -> Response:
    return _task_page(request, account, adjudicating=True)


@routes.get("/compare")
def compare_page(request: Request, item: str, account: Adjudicator) -> Response:
    """What the annotators said, for the adjudicator who has ranked the item himself."""
    if not _page(request).desk.has_adjudicated(item, account.name):
        raise HTTPException(403)
    [found] = _page(request).store.items([item])
    return _show(request, "compare.html", account, item=found, rankings=_page(request).store.rankings(item))


@routes.get("/history")
def history_page(request: Request, account: Ranker) -> Response:
    return _show(request, "history.html", account, events=_page(request).desk.history(account.name))


@routes.post("/api/rank", dependencies=[Depends(csrf_header)])
@limiter.limit(WORK_LIMIT)
def rank(request: Request, said: Judgement, account: Ranker) -> dict[str, Any]:
    shown = display_order(said.item, account.name, len(said.overall))
    aspects = {name: _as_stored(said.aspects.get(name, said.overall), shown) for name in ASPECTS}
    ranking = Ranking(
        said.item, account.name, "human", _as_stored(said.overall, shown), aspects,
        said.all_wrong, (said.right_answer or "").strip() or None, (said.comment or "").strip() or None,
    )  # fmt: skip
    _page(request).desk.save(ranking, said.key)
    return {"saved": True}


@routes.post("/api/skip", dependencies=[Depends(csrf_header)])
@limiter.limit(WORK_LIMIT)
def skip(request: Request, said: Skip, account: Ranker) -> dict[str, Any]:
    _page(request).desk.skip(said.item, account.name, f"{said.reason}: {said.detail}".strip(": "))
    return {"saved": True}


@routes.post("/api/undo", dependencies=[Depends(csrf_header)])
@limiter.limit(WORK_LIMIT)
def undo(request: Request, said: Undo, account: Ranker) -> dict[str, Any]:
    adjudicating = _page(request).desk.undo(said.item, account.name)
    return {"page": "/adjudicate" if adjudicating else "/"}


# --- administration --------------------------------------------------------------------------------------------------


@routes.get("/admin")
def admin_page(request: Request, account: Admin) -> Response:
    return _admin(request, account)


@routes.post("/admin/accounts", dependencies=[Depends(csrf_form)])
@limiter.limit(WORK_LIMIT)
def give_account(
    request: Request, account: Admin, name: Annotated[str, Form()], role: Annotated[str, Form()]
) -> Response:
    token = _page(request).accounts.give(name.strip(), role)
    return _admin(request, account, made=None if role == "closed" else (name.strip(), token))


@routes.get("/gold")
@limiter.limit(WORK_LIMIT)
def gold_page(request: Request, account: Admin) -> Response:
    """The items that are fit to be gold ones, each with what was said and how it was ranked."""
    page = _page(request)
    gold = page.store.gold()
    said = {item: rankings for item, rankings in page.doctors_rankings().items() if item not in gold}
    chosen = page.desk.gold_candidates(said, GOLD_CANDIDATES)
    items = {item.id: item for item in page.store.items(chosen)}
    candidates = []
    for name in chosen:
        ranks = competition_ranks(consensus(settled(said[name])))
        candidates.append(
            (items[name], said[name], sorted(zip(ranks, (a.text for a in items[name].answers), strict=True)))
        )
    return _show(request, "gold.html", account, candidates=candidates, gold=len(gold))


@routes.post("/admin/gold", dependencies=[Depends(csrf_form)])
@limiter.limit(WORK_LIMIT)
def make_gold(request: Request, account: Admin, item: Annotated[str, Form()]) -> Response:
    said = settled(_page(request).doctors_rankings([item]).get(item, []))
    _page(request).desk.add_gold({item: competition_ranks(consensus(said))}, account.name)
    return RedirectResponse("/gold", 303)


@routes.get("/agreement")
@limiter.limit("10/minute")
def agreement_page(request: Request, account: Admin) -> Response:
    said = _page(request).doctors_rankings()
    agreement = measure_agreement(said, gold=_page(request).store.gold()) if said else None
    return _show(request, "agreement.html", account, agreement=agreement)


@routes.get("/export")
@limiter.limit("10/minute")
def export(request: Request, account: Admin) -> Response:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rankings.jsonl"
        ranking_file.write(path, *_page(request).store.contents())
        return Response(
            path.read_bytes(),
            media_type="application/jsonl",
            headers={"Content-Disposition": "attachment; filename=rankings.jsonl"},
        )


# --- pages -----------------------------------------------------------------------------------------------------------


def _page(request: Request) -> Page:
    return request.app.state.page


def _words(request: Request) -> SimpleNamespace:
    return SimpleNamespace(**words(request.session.get("language", LANGUAGES[0])))


def _show(
    request: Request, template: str, account: Account | None = None, *, status: int = 200, **parts: Any
) -> Response:
    language = request.session.get("language", LANGUAGES[0])
    other = next(each for each in LANGUAGES if each != language)
    parts |= {
        "w": _words(request),
        "lang": language,
        "other": other,
        "account": account,
        "csrf": csrf_token(request),
        "letters": LETTERS,
    }
    return templates.TemplateResponse(request, template, parts, status_code=status)


def _task_page(request: Request, account: Account, *, adjudicating: bool) -> Response:
    desk = _page(request).desk
    task = desk.next(account.name, adjudicating=adjudicating)
    if task is None and _page(request).catch_up():
        task = desk.next(account.name, adjudicating=adjudicating)
    counts = desk.progress()["adjudicate" if adjudicating else "rank"]
    last = next((event.item for event in desk.history(account.name, limit=1) if event.counts), None)
    parts: dict[str, Any] = {
        "task": task,
        "adjudicating": adjudicating,
        "mine": desk.mine(account.name),
        "counts": counts,
        "last": last,
    }
    if task is None:
        return _show(request, "done.html", account, **parts)
    draft = {} if task.earlier is None else _draft(task.earlier, task.shown)
    texts = [task.item.answers[position].text for position in task.shown]
    return _show(
        request,
        "rank.html",
        account,
        texts=texts,
        key=secrets.token_urlsafe(16),
        draft=draft,
        reasons=SKIP_REASONS,
        **parts,
    )


def _draft(earlier: Ranking, shown: tuple[int, ...]) -> dict[str, Any]:
    """What he said before, as the page keeps a half-done ranking: by card, in the order of display."""
    ranks = {"overall": earlier.overall, **{a: v for a, v in (earlier.aspects or {}).items() if v != earlier.overall}}
    said = {
        "all_wrong": earlier.all_wrong,
        "right_answer": earlier.right_answer or "",
        "comment": earlier.comment or "",
    }
    return {"ranks": {name: [given[position] for position in shown] for name, given in ranks.items()}, **said}


def _as_stored(given: list[int], shown: tuple[int, ...]) -> tuple[int, ...]:
    """Ranks of the answers in the store's order, from those in the order of display; 1, 2, 2, 4 where the doctor left gaps."""
    if len(given) != len(shown):
        raise DataError(f"{len(given)} ranks don't fit {len(shown)} answers")
    ranks = dict(zip(shown, competition_ranks([float(rank) for rank in given]), strict=True))
    return tuple(ranks[position] for position in range(len(shown)))


def _admin(request: Request, account: Account, made: tuple[str, str] | None = None) -> Response:
    page = _page(request)
    page.catch_up()
    people = [(each, page.desk.mine(each.name)) for each in page.accounts.known()]
    return _show(
        request,
        "admin.html",
        account,
        people=people,
        made=made,
        roles=ROLES,
        progress=page.desk.progress(),
        gold=len(page.store.gold()),
    )


def _refuse(request: Request, fault: Exception) -> Response:
    """Says what was refused: to the script as JSON, to a reader as a page; who is not signed in may do that first."""
    status = {RequestValidationError: 422, DataError: 422, NotAssigned: 403, RateLimitExceeded: 429}.get(
        type(fault)
    ) or fault.status_code  # type: ignore[attr-defined]
    text = getattr(_words(request), f"e{status}", str(status))
    if isinstance(fault, DataError):
        text = f"{text} {fault.what}"
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": text}, status)
    return RedirectResponse("/login", 303) if status == 401 else _show(request, "error.html", status=status, text=text)


def script_words(names: SimpleNamespace) -> str:
    """The words that the script says, as JSON."""
    wanted = (
        "overall",
        *ASPECTS,
        "unranked",
        "nth_rank",
        "moved",
        "tied",
        "saving",
        "offline",
        "still_offline",
        "refused",
        "rank_all",
        "right_missing",
    )
    return json.dumps({name: getattr(names, name) for name in (*wanted, "as_overall", "changed")}, ensure_ascii=False)


def local(moment: datetime) -> str:
    """The time on the server's clock; SQLite gives back UTC without saying so."""
    return f"{moment.replace(tzinfo=moment.tzinfo or UTC).astimezone():%Y-%m-%d %H:%M}"


templates.env.filters |= {"script_words": script_words, "local": local}
