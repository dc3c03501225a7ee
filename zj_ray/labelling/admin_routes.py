"""The routes of administrators: accounts, gold items, agreement and the export."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import RedirectResponse

from zj_ray.agreement.measure import measure_agreement
from zj_ray.labelling.accounts import ROLES, Account
from zj_ray.labelling.page import page_of, show
from zj_ray.labelling.security import WORK_LIMIT, Admin, csrf_form, limiter
from zj_ray.rankings.consensus import competition_ranks, consensus, settled
from zj_ray.rankings.formats import ranking as ranking_file

GOLD_CANDIDATES = 20  # that are shown at once
LARGE_LIMIT = "10/minute"  # for what reads the whole store

routes = APIRouter()


@routes.get("/admin")
def admin_page(request: Request, account: Admin) -> Response:
    return _overview(request, account)


@routes.post("/admin/accounts", dependencies=[Depends(csrf_form)])
@limiter.limit(WORK_LIMIT)
def give_account(
    request: Request, account: Admin, name: Annotated[str, Form()], role: Annotated[str, Form()]
) -> Response:
    token = page_of(request).accounts.give(name.strip(), role)
    return _overview(request, account, new=None if role == "closed" else (name.strip(), token))


@routes.get("/gold")
@limiter.limit(WORK_LIMIT)
def gold_page(request: Request, account: Admin) -> Response:
    """The items that are fit to be gold ones, each with its rankings and the ranks that they come to."""
    page = page_of(request)
    gold = page.store.gold()
    rankings = {item: of_item for item, of_item in page.doctors_rankings().items() if item not in gold}
    names = page.desk.gold_candidates(rankings, GOLD_CANDIDATES)
    items = {item.id: item for item in page.store.items(names)}
    candidates = []
    for name in names:
        ranks = competition_ranks(consensus(settled(rankings[name])))
        answers = sorted(zip(ranks, (answer.text for answer in items[name].answers), strict=True))
        candidates.append((items[name], rankings[name], answers))
    return show(request, "gold.html", account, candidates=candidates, gold=len(gold))


@routes.post("/admin/gold", dependencies=[Depends(csrf_form)])
@limiter.limit(WORK_LIMIT)
def make_gold(request: Request, account: Admin, item: Annotated[str, Form()]) -> Response:
    counted = settled(page_of(request).doctors_rankings([item]).get(item, []))
    page_of(request).desk.add_gold({item: competition_ranks(consensus(counted))}, account.name)
    return RedirectResponse("/gold", 303)


@routes.get("/agreement")
@limiter.limit(LARGE_LIMIT)
def agreement_page(request: Request, account: Admin) -> Response:
    page = page_of(request)
    rankings = page.doctors_rankings()
    agreement = measure_agreement(rankings, gold=page.store.gold()) if rankings else None
    return show(request, "agreement.html", account, agreement=agreement)


@routes.get("/export")
@limiter.limit(LARGE_LIMIT)
def export(request: Request, account: Admin) -> Response:
    headers = {"Content-Disposition": "attachment; filename=rankings.jsonl"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rankings.jsonl"
        ranking_file.write(path, *page_of(request).store.contents())
        return Response(path.read_bytes(), media_type="application/jsonl", headers=headers)


def _overview(request: Request, account: Account, new: tuple[str, str] | None = None) -> Response:
    """The administrator's first page. new: name and token of an account that was made just now."""
    page = page_of(request)
    page.catch_up()
    parts: dict[str, Any] = {"progress": page.desk.progress(), "gold": len(page.store.gold()), "roles": ROLES}
    parts["people"] = [(each, page.desk.tickets_of(each.name)) for each in page.accounts.all()]
    return show(request, "admin.html", account, new=new, **parts)
