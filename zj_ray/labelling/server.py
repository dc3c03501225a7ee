"""`zj label`: opens a run's ranking page, makes accounts, and takes gold ranks from a file."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from zj_ray.cluster.ports import listen
from zj_ray.config.schema import LabelConfig
from zj_ray.errors import ConfigError, DataError
from zj_ray.files import read_jsonl
from zj_ray.labelling.accounts import Accounts
from zj_ray.labelling.app import create_app
from zj_ray.labelling.desk import Desk
from zj_ray.labelling.page import Page
from zj_ray.progress import console
from zj_ray.rankings.store import open_rankings

IDLE_SECONDS = 120  # for which a connection is kept while a doctor reads
CLOSING_SECONDS = 5  # what a request in progress has left when the server is told to stop


def open_page(folder: Path, config: LabelConfig) -> Page:
    """The page for the store of a feedback stage, with all its items planned.

    folder: the stage's, in which priorities.json is looked for.
    """
    store = open_rankings(folder, config.store)
    page = Page(store, Desk(store, config), Accounts(store), folder / "priorities.json")
    page.plan()
    return page


def add_gold(page: Page, path: Path, author: str) -> int:
    """Make gold items of the rows {"item": …, "overall": [1, 2, …]} of a file, and return their number.

    Raises DataError, and makes none, where a row is unfit.
    """
    ranks: dict[str, list[int]] = {}
    for where, row in read_jsonl(path):
        overall = row.get("overall")
        if not isinstance(row.get("item"), str) or not isinstance(overall, list):
            remedy = 'write {"item": "open-1", "overall": [1, 2, 2, 4]}'
            raise DataError("the row names no item and its ranks", where=where, remedy=remedy)
        if row["item"] in ranks:
            what = f"{row['item']!r} stands in an earlier line, too"
            raise DataError(what, where=where, remedy="keep one of the two")
        ranks[row["item"]] = overall
    page.desk.add_gold(ranks, author)
    return len(ranks)


def serve(page: Page, folder: Path, *, host: str, port: int, tls: tuple[Path, Path] | None = None) -> None:
    """Serve the page until Ctrl-C. tls: certificate and key. The log goes to `label.log` in `folder`."""
    if not any(account.role == "admin" for account in page.accounts.all()):
        token = page.accounts.give("admin", "admin")
        console.print(f"there was no administrator yet; the token of admin, shown only now:\n{token}", soft_wrap=True)
    _log_to(folder / "label.log")
    app = create_app(page, secret=_secret(folder / "label.secret"), https=bool(tls))
    server = _loaded(app, host, port, tls)
    name = f"[{host}]" if ":" in host else host
    with listen(host, port, where="--port") as listener:
        address = f"{'https' if tls else 'http'}://{name}:{listener.getsockname()[1]}"
        console.print(f"ranking page: {address}  (Ctrl-C ends it)", soft_wrap=True)
        server.run(sockets=[listener])


def _loaded(app: FastAPI, host: str, port: int, tls: tuple[Path, Path] | None) -> uvicorn.Server:
    """The web server. Raises ConfigError for a certificate that it can't use."""
    certificate, key = tls or (None, None)
    config = uvicorn.Config(
        app,
        host,
        port,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=CLOSING_SECONDS,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    try:
        config.load()
    except OSError as fault:  # ssl's, too
        what = f"HTTPS can't be served with {certificate} and {key} ({fault})"
        remedy = "give the certificate and its key, both PEM files that this account may read"
        raise ConfigError(what, where="--tls", remedy=remedy) from fault
    return uvicorn.Server(config)


def _secret(path: Path) -> str:
    """The secret that signs the sessions, made once, so that a restart signs nobody out; readable by nobody else."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        pass
    return path.read_text()


def _log_to(path: Path) -> None:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("zj_ray.label")
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    log.propagate = False
