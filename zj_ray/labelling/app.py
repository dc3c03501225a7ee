"""The ranking page as a web application: its routes put together, signing in and out, and how a refusal is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Form, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from slowapi.errors import RateLimitExceeded
from slowapi.util import get_remote_address
from starlette.exceptions import HTTPException as HttpError
from starlette.middleware.sessions import SessionMiddleware

from zj_ray.errors import DataError
from zj_ray.labelling import admin_routes, ranking_routes
from zj_ray.labelling.page import Page, language_of, page_of, show
from zj_ray.labelling.security import LOGIN_LIMIT, Guard, csrf_form, limiter, open_session
from zj_ray.labelling.tickets import NotAssigned
from zj_ray.labelling.words import LANGUAGES, words

SESSION_SECONDS = 12 * 3600
# What a change of language may lead back to.
PAGES = ("/", "/adjudicate", "/history", "/admin", "/gold", "/agreement", "/login")
STATUS: dict[type, int] = {RequestValidationError: 422, DataError: 422, NotAssigned: 403, RateLimitExceeded: 429}

routes = APIRouter()


def create_app(page: Page, *, secret: str, https: bool = False) -> FastAPI:
    """The application for one run's page. secret: signs the sessions; https: send their cookie over HTTPS only."""
    app = FastAPI(title="zj label", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.page, app.state.limiter = page, limiter
    for router in (routes, ranking_routes.routes, admin_routes.routes):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    cookie: dict[str, Any] = {"session_cookie": "zj_label", "max_age": SESSION_SECONDS, "https_only": https}
    app.add_middleware(SessionMiddleware, secret, same_site="strict", **cookie)
    app.add_middleware(Guard)
    for fault in (HttpError, RequestValidationError, DataError, RateLimitExceeded):
        app.add_exception_handler(fault, _refuse)
    return app


@routes.get("/login")
def login_page(request: Request) -> Response:
    return show(request, "login.html", wrong=False)


@routes.post("/login", dependencies=[Depends(csrf_form)])
@limiter.limit(LOGIN_LIMIT, key_func=get_remote_address)
def login(request: Request, token: Annotated[str, Form(max_length=200)]) -> Response:
    account = page_of(request).accounts.by_token(token.strip())
    if account is None:
        return show(request, "login.html", wrong=True, status=401)
    open_session(request, account)
    return RedirectResponse("/admin" if account.role == "admin" else "/", 303)


@routes.post("/logout", dependencies=[Depends(csrf_form)])
def logout(request: Request) -> Response:
    request.session.clear()
    return RedirectResponse("/login", 303)


@routes.get("/language/{language}")
def change_language(request: Request, language: str, page: str = "/") -> Response:
    if language not in LANGUAGES:
        raise HTTPException(404)
    request.session["language"] = language
    return RedirectResponse(page if page in PAGES else "/", 303)


def _refuse(request: Request, fault: Exception) -> Response:
    """Say what was refused, to the script as JSON, to a reader as a page; who is not signed in may do that first."""
    status = STATUS.get(type(fault)) or fault.status_code  # type: ignore[attr-defined]
    text = words(language_of(request)).get(f"e{status}", str(status))
    if isinstance(fault, DataError):
        text = f"{text} {fault.what}"
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": text}, status)
    return RedirectResponse("/login", 303) if status == 401 else show(request, "error.html", status=status, text=text)
