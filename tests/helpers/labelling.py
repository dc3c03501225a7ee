"""What the tests of the ranking page share: a store of made-up consultations, and a real server in its own process."""

from __future__ import annotations

import contextlib
import os
import re
import select
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from zj_ray.config import dump_config
from zj_ray.config.schema import Config, FeedbackConfig, LabelConfig
from zj_ray.data.messages import Message
from zj_ray.labelling.server import open_page
from zj_ray.rankings.tables import Answer, Item

ANSWERS = (
    "您好，请问头痛是突然开始的，还是逐渐加重的？有没有发热、呕吐、看东西模糊或者手脚无力？",
    "可能是紧张性头痛，建议您注意休息，少看手机，如果三天内没有好转请到神经内科就诊。",
    "吃点止痛药就好了，不用去医院，也不需要做任何检查。",
    "您好。突然出现的剧烈头痛伴呕吐需要尽快排除颅内出血，请立即到急诊就诊或拨打120，途中保持平卧，不要自行开车。",
)


def items(number: int, answers: int = 4) -> list[Item]:
    """Consultations with `answers` distinct answers; the origins are what the page must not show."""
    opening = "医生您好，我这两天头痛得厉害，有点恶心，早上还吐了一次，需要去医院吗？"
    context = (
        Message("user", opening),
        Message("assistant", "头痛多久了？以前有过吗？"),
        Message("user", "两天了，以前没有这样痛过。"),
    )
    texts = ANSWERS[:answers]
    replies = tuple(Answer(text, {"model": "sft-origin", "temperature": 0.7 + k}) for k, text in enumerate(texts))
    return [Item(f"item-{n:05d}", f"case-{n}", context, "神经内科", replies) for n in range(number)]


def make_run(folder: Path, number: int, config: LabelConfig, answers: int = 4) -> Path:
    """A run folder whose feedback stage has left `number` items; returns it."""
    (folder / "feedback").mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(Config(feedback=FeedbackConfig(label=config))), encoding="utf-8")
    page = open_page(folder / "feedback", config)
    page.store.add_items(items(number, answers))
    page.store.close()
    return folder


def accounts(run: Path, config: LabelConfig, **roles: str) -> dict[str, str]:
    """Make accounts, and return their tokens by name."""
    page = open_page(run / "feedback", config)
    tokens = {name: page.accounts.give(name, role) for name, role in roles.items()}
    page.store.close()
    return tokens


@contextlib.contextmanager
def server(run: Path, *options: str, limit: float = 240.0) -> Iterator[tuple[str, subprocess.Popen]]:
    """`zj label` for a run in a process of its own: (URL, process); killed at the end."""
    command = [sys.executable, "-m", "zj_ray", "label", str(run), "--port", "0", *options]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, text=True, env=environment, **output)
    try:
        assert process.stdout is not None
        text, deadline = "", time.monotonic() + limit
        while (address := re.search(r"ranking page: (http\S+)", text)) is None:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            line = process.stdout.readline() if ready else ""
            assert line, f"the server did not start: {text}"
            text += line
        yield address[1], process
    finally:
        process.kill()
        process.wait(timeout=30)
        process.stdout.close()


class Annotator:
    """A doctor's browser without the browser."""

    def __init__(self, url: str, token: str, verify: ssl.SSLContext | bool = True) -> None:
        self.http = httpx.Client(base_url=url, timeout=30.0, follow_redirects=True, verify=verify)
        csrf = field_of(self.http.get("/login").text, 'name="csrf" value')
        self.page = self.http.post("/login", data={"token": token, "csrf": csrf}).text

    def open(self, path: str = "/") -> dict[str, str] | None:
        """The item that is shown: its id, key, and the session's CSRF token; None when there is none left."""
        self.page = self.http.get(path).text
        if 'id="task"' not in self.page:
            return None
        return {name: field_of(self.page, f"data-{name}") for name in ("item", "key", "csrf")}

    def rank(self, task: dict[str, str], overall: list[int], **more: object) -> httpx.Response:
        body = {"item": task["item"], "key": task["key"], "overall": overall, **more}
        return self.http.post("/api/rank", json=body, headers={"X-CSRF": task["csrf"]})

    def post(self, path: str, csrf: str, **body: object) -> httpx.Response:
        return self.http.post(path, json=body, headers={"X-CSRF": csrf})


def field_of(page: str, name: str) -> str:
    """The value of an attribute in a page's HTML."""
    match = re.search(rf'{re.escape(name)}="([^"]*)"', page)
    assert match is not None, f"the page has no {name}: {page[:500]}"
    return match[1]
