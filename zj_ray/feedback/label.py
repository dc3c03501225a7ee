"""`zj label`: opens a run's ranking page, makes accounts, and takes gold ranks from a file."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

import uvicorn

from zj_ray.config.schema import LabelConfig
from zj_ray.data.records import read_jsonl
from zj_ray.errors import DataError
from zj_ray.feedback.accounts import Accounts
from zj_ray.feedback.assignment import Desk, read_priorities
from zj_ray.feedback.store import open_store
from zj_ray.feedback.web.app import Page, create_app
from zj_ray.progress import console

IDLE_SECONDS = 120  # that a connection is kept while a doctor reads
CLOSING_SECONDS = 5  # what a request in progress has left when the server is told to stop


def open_page(folder: Path, config: LabelConfig) -> Page:
    """The page's parts for the store of a feedback stage. folder: the stage's; priorities.json is read there."""
    store = open_store(folder, config.store)
    desk = Desk(store, config)
    desk.plan(read_priorities(folder / "priorities.json"))
    return Page(store, desk, Accounts(store))


def add_gold(page: Page, path: Path, author: str) -> int:
    """Make gold items of the rows {"item": …, "overall": [1, 2, …]}; returns their number. Raises DataError at the first unfit one."""
    added = 0
    for where, row in read_jsonl(path):
        overall = row.get("overall")
        if not isinstance(row.get("item"), str) or not isinstance(overall, list):
            raise DataError("the row names no item and its ranks", where=where, remedy='write {"item": "open-1", "overall": [1, 2, 2, 4]}')
        page.desk.add_gold(row["item"], overall, author)
        added += 1
    return added


def serve(page: Page, folder: Path, *, host: str, port: int, tls: tuple[Path, Path] | None = None) -> None:
    """Serve the page until Ctrl-C. tls: certificate and key. The log goes to `label.log` in `folder`."""
    if not any(account.role == "admin" for account in page.accounts.known()):
        console.print(f"there was no administrator yet; the token of admin, shown only now:\n{page.accounts.give('admin', 'admin')}", soft_wrap=True)
    _log_to(folder / "label.log")
    app = create_app(page, secret=_secret(folder / "label.secret"), https=bool(tls))
    certificate, key = tls or (None, None)
    config = uvicorn.Config(
        app, host, port, access_log=False, log_level="warning", timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=CLOSING_SECONDS, server_header=False, ssl_certfile=certificate, ssl_keyfile=key,
    )  # fmt: skip
    socket = config.bind_socket()
    name = f"[{host}]" if ":" in host else host
    console.print(f"ranking page: {'https' if tls else 'http'}://{name}:{socket.getsockname()[1]}  (Ctrl-C ends it)", soft_wrap=True)
    uvicorn.Server(config).run(sockets=[socket])


def _secret(path: Path) -> str:
    """What signs the sessions, made once, so that a restart signs nobody out; readable by nobody else."""
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
