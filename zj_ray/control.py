"""A run's HTTP address: how its fleet is, and how large it should be. Off unless `fleet.http_port` is set.

It listens on this machine only. Whoever may read the run folder may call it: `control.json` there holds its URL and a
token that is new for every start. `GET /fleet` returns run.json's rows of the engines, `PUT /fleet` takes
`{"rollouts": 4}`, or null to leave the number to the config again.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from zj_ray.cluster.ports import listen
from zj_ray.errors import WaitTimeout, ZjError
from zj_ray.runs.folder import Run, read_status, want_rollouts, wanted_rollouts

START_SECONDS = 30.0
BEARER = HTTPBearer()


class Wish(BaseModel):
    rollouts: int | None


@contextlib.contextmanager
def control(run: Run) -> Iterator[None]:
    """Listen for the length of the block. Raises ConfigError if the port is taken."""
    port = run.config.fleet.http_port
    if port is None:
        yield
        return
    token = secrets.token_urlsafe(24)
    with listen("127.0.0.1", port, where="fleet.http_port") as listener:
        server = uvicorn.Server(uvicorn.Config(_application(run, token), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="control", daemon=True)
        thread.start()
        _wait_until_started(server, port)
        path = run.folder / "control.json"
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)  # before the token is in it
        path.write_text(
            json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}", "token": token}) + "\n",
            encoding="utf-8",
        )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            server.should_exit = True
            thread.join(timeout=10)


def _wait_until_started(server: uvicorn.Server, port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not server.started:
        if time.monotonic() > deadline:
            raise WaitTimeout(
                f"the HTTP server did not start within {START_SECONDS:.0f} s",
                where=f"fleet.http_port {port}",
                remedy="leave it out",
            )
        time.sleep(0.02)


def _application(run: Run, token: str) -> FastAPI:
    def allowed(given: Annotated[HTTPAuthorizationCredentials, Depends(BEARER)]) -> None:
        if not secrets.compare_digest(given.credentials, token):
            raise HTTPException(401, "wrong token: control.json in the run folder has the right one")

    application = FastAPI(title=f"zj_ray run {run.config.name}", dependencies=[Depends(allowed)])

    @application.get("/fleet")
    def fleet() -> dict[str, Any]:
        return {"wanted": wanted_rollouts(run.folder), "engines": read_status(run.folder).get("fleet") or []}

    @application.put("/fleet")
    def scale(wish: Wish) -> dict[str, Any]:
        try:
            want_rollouts(run, wish.rollouts)
        except ZjError as error:
            raise HTTPException(422, str(error)) from error
        return fleet()

    return application
