"""What stands between the network and the ranking page: sessions, roles, CSRF, rate limits, headers, and the log.

Nothing that a patient, an answer or a doctor says is ever logged: a request's line names its route, not its address,
and a fault's lines name code, not values.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Form, Header, HTTPException, Request, Response
from fastapi.responses import PlainTextResponse
from slowapi import Limiter
from slowapi.util import get_remote_address
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zj_ray.labelling.accounts import Account

LARGEST_BODY = 256 * 1024  # [bytes]
LOGIN_LIMIT = "60/minute"  # from one address, which a whole ward may share
WORK_LIMIT = "300/minute"  # of one account on one route
NOTHING_FROM_ELSEWHERE = "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'"
HEADERS = {
    "Content-Security-Policy": f"{NOTHING_FROM_ELSEWHERE}; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",  # a shared tablet keeps no consultation
}

TOO_LARGE = Response(status_code=413)
FAILED = PlainTextResponse("服务器出错 / the server failed", status_code=500)

log = logging.getLogger("zj_ray.label")


def _caller(request: Request) -> str:
    return request.session.get("name") or get_remote_address(request)


limiter = Limiter(key_func=_caller)


class Guard:
    """Refuses large bodies, adds the headers, and logs one line for each request.

    A fault of ours becomes a 500, and where it is in the code becomes a line of the log.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started, status = time.monotonic(), 0
        static = scope["path"].startswith("/static/")

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(HEADERS | ({"Cache-Control": "no-cache"} if static else {}))
            await send(message)

        try:
            await (TOO_LARGE if _is_large(Headers(scope=scope)) else self._app)(scope, receive, answer)
        except Exception as fault:
            frames = reversed(traceback.extract_tb(fault.__traceback__)[-6:])
            code = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames)
            log.error("%s in %s", type(fault).__name__, code)
            if not status:
                await FAILED(scope, receive, answer)
        if not static:
            route = getattr(scope.get("route"), "path", "(none)")
            log.info("%s %s %d %.0f ms", scope["method"], route, status, 1000 * (time.monotonic() - started))


def _is_large(headers: Headers) -> bool:
    """Whether a body is too large to be read. One of unknown length is: whoever sends a small one can say so."""
    length = headers.get("content-length", "0")
    return "transfer-encoding" in headers or not length.isdigit() or int(length) > LARGEST_BODY


def open_session(request: Request, account: Account) -> None:
    """Sign the account in; only the language stays of what the session held."""
    language = request.session.get("language")
    request.session.clear()
    request.session.update(name=account.name, event=account.event, **({"language": language} if language else {}))


def csrf_token(request: Request) -> str:
    """The session's own secret, which every form carries: a page elsewhere can't know it."""
    return request.session.setdefault("csrf", secrets.token_urlsafe(24))


def _check_csrf(request: Request, token: str | None) -> None:
    if not hmac.compare_digest(request.session.get("csrf", "").encode(), (token or "").encode()) or not token:
        raise HTTPException(403)


def csrf_form(request: Request, csrf: Annotated[str | None, Form()] = None) -> None:
    _check_csrf(request, csrf)


def csrf_header(request: Request, x_csrf: Annotated[str | None, Header()] = None) -> None:
    _check_csrf(request, x_csrf)


def signed_in(request: Request) -> Account:
    """The account behind the session. Raises 401 where there is none, or it was closed or changed since."""
    name, event = request.session.get("name"), request.session.get("event")
    account = request.app.state.page.accounts.by_session(name, event) if name else None
    if account is None:
        raise HTTPException(401)
    return account


def one_of(*roles: str) -> Callable[[Account], Account]:
    """A dependency: the account, if it has one of these roles; 403 if not."""

    def check(account: Annotated[Account, Depends(signed_in)]) -> Account:
        if account.role not in roles:
            raise HTTPException(403)
        return account

    return check


# Who a route is for.
SignedIn = Annotated[Account, Depends(signed_in)]
Ranker = Annotated[Account, Depends(one_of("annotator", "adjudicator"))]
Adjudicator = Annotated[Account, Depends(one_of("adjudicator"))]
Admin = Annotated[Account, Depends(one_of("admin"))]
