"""Consultations that were held ahead of the updates when a run was stopped: the resumed run goes on with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.soak import learn, small_run, steps_done
from tests.helpers.forked import forked_workers
from zj_ray.cluster.connect import connect
from zj_ray.data.chat import ChatFormat
from zj_ray.data.tokenizer import load_tokenizer
from zj_ray.files import read_jsonl
from zj_ray.fleet.control.courier import Courier
from zj_ray.fleet.turns import SpokenTurn, TurnOutput, TurnRequest
from zj_ray.ppo.ahead import SPOKEN, load_spoken, save_spoken
from zj_ray.ppo.loop import PPOLoop
from zj_ray.runs.folder import Run

STEPS, STOPPED_AT, CONSULTATIONS = 5, 2, 8
LIMIT = 120.0
WITHOUT_CRITIC = {"advantage": "reinforce_pp", "colocate": (("policy", "reward"),)}


def test_turns_come_back_as_old_as_they_were_under_the_number_that_their_weights_have_now(tmp_path: Path) -> None:
    turn = SpokenTurn(TurnOutput([5, 9, 2], [-0.1, -1.0 / 3.0, -2e-9], True, version=6), "engine-1", 2)
    save_spoken(tmp_path, {3: {"case-7/0/0": turn}, 4: {}}, version=7)
    assert load_spoken(tmp_path, version=7) == {3: {"case-7/0/0": turn}}
    assert load_spoken(tmp_path, version=12)[3]["case-7/0/0"].output.version == 11


class Watched:
    """Takes down which turns an engine is asked for.

    Until `stopped`, odd consultations of the step ahead are stuck after their first turn.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: list[str] = []
        self.stopped = False
        ask, checkpoint = Courier.ask, PPOLoop._checkpoint

        async def watched(courier: Courier, request: TurnRequest, previous: str | None) -> SpokenTurn:
            self.keys.append(request.key)
            sample, turn = map(int, request.key.split("/")[-2:])
            if not self.stopped and request.key.startswith(f"step-{STOPPED_AT}/") and sample % 2 and turn:
                await asyncio.sleep(10 * LIMIT)
            return await ask(courier, request, previous)

        def stopping(loop: PPOLoop, step: int) -> None:
            if step == STOPPED_AT and not self.stopped:
                _until(lambda: self.stuck() == CONSULTATIONS // 2 and len(loop.spoken[STOPPED_AT]) >= 2 * CONSULTATIONS)
                checkpoint(loop, step)
                self.stopped = True
                raise KeyboardInterrupt
            checkpoint(loop, step)

        monkeypatch.setattr(Courier, "ask", watched)
        monkeypatch.setattr(PPOLoop, "_checkpoint", stopping)

    def stuck(self) -> int:
        asked = [key.split("/") for key in self.keys if key.startswith(f"step-{STOPPED_AT}/")]
        return sum(int(sample) % 2 and turn == "1" for *_, sample, turn in asked)


def _until(condition: Any) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _turns(run: Run, step: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, words and record of every turn that the policy learnt from in a step (counted from 0)."""
    for _, row in read_jsonl(run.folder / "ppo" / "rollouts.jsonl"):
        if row["step"] == step + 1:
            words = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
            for number, (text, turn) in enumerate(zip(words, row["turns"], strict=True)):
                yield f"{row['prompt_id']}/{row['sample']}/{number}", text, turn


@pytest.mark.resume
def test_a_stopped_run_asks_for_no_turn_that_was_spoken_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small_run(tmp_path, STEPS, ranks=1, max_staleness=1, **WITHOUT_CRITIC)
    watched = Watched(monkeypatch)
    with forked_workers(), connect(run.config.ray, log_folder=tmp_path):
        with pytest.raises(KeyboardInterrupt):
            learn(run)
        rows = [row for _, row in read_jsonl(run.folder / "ppo" / "checkpoints" / f"step-{STOPPED_AT:06d}" / SPOKEN)]
        watched.keys.clear()
        learn(run)
    assert [row["step"] for row in steps_done(run)] == list(range(1, STEPS + 1))

    spoken = {row["turn"]: row for row in rows if row["step"] == STOPPED_AT}
    begun, done = ({name[:-2] for name in spoken if name.endswith(turn)} for turn in ("/0", "/2"))
    # Both kinds were there: stuck in the middle, and done.
    assert len(begun - done) == CONSULTATIONS // 2 and len(spoken) >= 2 * CONSULTATIONS
    asked = {key.split("/", 2)[2] for key in watched.keys if key.startswith(f"step-{STOPPED_AT}/")}
    assert asked and not asked & spoken.keys()
    chat = ChatFormat(load_tokenizer(run.folder / "tokenizer"))
    learnt = {name: (text, turn) for name, text, turn in _turns(run, STOPPED_AT)}
    assert learnt.keys() == asked | spoken.keys()
    newest = max(turn["weight_version"] for _, turn in learnt.values())
    for name, row in spoken.items():
        text, turn = learnt[name]
        assert text == chat.decode(row["token_ids"]) and turn["tokens"] == len(row["token_ids"])
        assert turn["weight_version"] == newest - row["age"]
