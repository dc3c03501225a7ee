"""Consult a run's model in the terminal: streamed answers, the history kept, /reset and /quit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from zj_ray.cluster.connect import connect
from zj_ray.data.messages import Message
from zj_ray.errors import ZjError
from zj_ray.progress import console
from zj_ray.runs.folder import Run
from zj_ray.serving.client import converse
from zj_ray.serving.serve import Endpoint, served_model, serving

TURN_SECONDS = 120.0  # longest silence of the server
GREETING = "仲景：您好，请说说您哪里不舒服。（/reset 重新开始，/quit 退出；仅供研究，不构成医疗建议）"


def chat(run_folder: Path) -> None:
    """Serve the run's model and let the user talk with it until /quit or the end of input."""
    run = Run.load(run_folder)
    folder = served_model(run)
    config = replace(run.config.serve, host="127.0.0.1", port=0)
    console.print(f"loading {folder}; this takes about a minute on a CPU …", style="dim", markup=False, soft_wrap=True)
    with (
        connect(run.config.ray, log_folder=run.stage("serve")),
        serving(folder, config, run.config.model, name=run.config.name) as endpoint,
    ):
        converse_with(endpoint)


def converse_with(endpoint: Endpoint) -> None:
    """Let the user talk with the model behind an endpoint."""
    console.print(GREETING, style="green", markup=False)
    history: list[Message] = []
    while (words := _listen()) is not None:
        if words == "/reset":
            history.clear()
            console.print("（已重新开始）", style="dim", markup=False)
        elif words:
            history.append(Message("user", words))
            _reply(endpoint.url, endpoint.model, history)


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
