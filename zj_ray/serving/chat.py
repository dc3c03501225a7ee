"""Consult a run's model in the terminal: streamed answers, the history kept, /reset and /quit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from zj_ray.cluster.connect import connect
from zj_ray.data.messages import Message
from zj_ray.errors import ZjError
from zj_ray.progress import console
from zj_ray.runs.folder import Run
from zj_ray.serving.client import converse, model_name
from zj_ray.serving.serve import served_model, serving

TURN_SECONDS = 120.0  # longest silence of the server
GREETING = "仲景：您好，请说说您哪里不舒服。（/reset 重新开始，/quit 退出；仅供研究，不构成医疗建议）"


def chat(run_folder: Path, url: str | None = None) -> None:
    """Talk until /quit or the end of input. url: of an endpoint that already runs; None: serve the run's model here."""
    with _endpoint(run_folder, url) as (address, model):
        console.print(GREETING, style="green", markup=False)
        history: list[Message] = []
        while (words := _listen()) is not None:
            if words == "/reset":
                history.clear()
                console.print("（已重新开始）", style="dim", markup=False)
            elif words:
                history.append(Message("user", words))
                _reply(address, model, history)


def _reply(url: str, model: str, history: list[Message]) -> None:
    """Print the model's turn as it comes and add it to the history; a failed turn leaves the history as it was."""
    console.print("仲景：", style="green", end="", markup=False)
    pieces: list[str] = []
    try:
        for piece in converse(url, model, history, TURN_SECONDS):
            pieces.append(piece)
            console.print(piece, end="", markup=False, soft_wrap=True)
        console.print()
    except ZjError as error:
        history.pop()
        advice = "/reset starts afresh if the conversation became too long"
        console.print(f"\n{error}\n{advice}", style="red", markup=False, soft_wrap=True)
    else:
        if "".join(pieces).strip():
            history.append(Message("assistant", "".join(pieces)))
        else:
            history.pop()


def _listen() -> str | None:
    """What the user types next, or None when they want to leave."""
    try:
        words = console.input("患者：", markup=False).strip()
    except (EOFError, KeyboardInterrupt):
        return None
    return None if words in ("/quit", "/exit") else words


@contextlib.contextmanager
def _endpoint(run_folder: Path, url: str | None) -> Iterator[tuple[str, str]]:
    """URL and model name of the endpoint to talk to, for the length of the block."""
    if url is not None:
        yield url, model_name(url, TURN_SECONDS)
        return
    run = Run.load(run_folder)
    folder = served_model(run)
    config = replace(run.config.serve, host="127.0.0.1", port=0)
    console.print(f"loading {folder}; this takes about a minute on a CPU …", style="dim", markup=False, soft_wrap=True)
    with (
        connect(run.config.ray, log_folder=run.stage("serve")),
        serving(folder, config, run.config.model, name=run.config.name) as endpoint,
    ):
        yield endpoint.url, endpoint.model
