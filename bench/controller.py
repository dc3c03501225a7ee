"""What the controller costs: a PPO step whose engines and roles answer at once, without computing.

`python -m bench.controller`. The step is the PPO stage's own, over real Ray actors: dialogues with the simulated
patient, a remote call for each turn, batch, plans, object store, merging, rules, advantages, mini-batches, publication,
records. Only what an engine or a rank would compute is left out. Beside it stands what the arithmetic of the same step
would cost at the machine's own rate: the least that it can take, so that the share of the controller is the most that
it can be.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import ray
import torch

from bench.arithmetic import PHASES, necessary
from bench.ceilings import fastest, measure, table
from bench.subject import SHAPE, SMOLLM2_135M, config, ppo_stage, room, settle, speaker
from zj_ray.config.schema import Config, PPOConfig
from zj_ray.data.datasets import load_dialogues
from zj_ray.fleet.turns import SyncReceipt, TurnOutput, TurnRequest
from zj_ray.ppo.advantages import estimate_advantages
from zj_ray.ppo.loop import PPOLoop
from zj_ray.rewards.mix import ScoredTurns
from zj_ray.roles.batch import RolloutBatch
from zj_ray.roles.policy import UpdateStats
from zj_ray.roles.rank import Rank
from zj_ray.training.zero_engine import EngineSpec
from zj_ray.weights.bucket import PublishedWeights, pack_weights

CONSULTATIONS, TURNS, TURN_TOKENS, LENGTH = 1024, 8, 216, 2048


class IdleEngine:
    """Answers at once, with the words of the clinic's doctors."""

    def __init__(self, phrases: list[list[int]]) -> None:
        self.phrases, self.version = phrases, -1

    async def wait_ready(self) -> int:
        return os.getpid()

    async def generate(self, request: TurnRequest) -> TurnOutput:
        draw = random.Random(request.seed)
        words = [token for phrase in draw.choices(self.phrases, k=40) for token in phrase][: request.max_tokens]
        return TurnOutput(words, [-1.0] * len(words), False, self.version)

    async def apply(self, *published: PublishedWeights) -> SyncReceipt:
        self.version = published[-1].manifest.version
        return SyncReceipt(self.version, 0.0, 0)

    async def health(self) -> dict[str, Any]:
        return {"version": self.version, "in_flight": 0, "tokens": 0, "seconds_since_progress": 0.0, "alive": True}


class IdleRank(Rank):
    """Answers at once, in the right shapes."""

    def __init__(self, *_: Any) -> None:
        self.rank = 0

    def join(self, rank: int, *_: Any) -> int:
        self.rank = rank
        return os.getpid()

    def build(self, path: str, spec: EngineSpec) -> None:
        pass

    def logprobs(
        self, token_ids: Sequence[np.ndarray], positions: Sequence[np.ndarray], rows: Any
    ) -> dict[int, np.ndarray]:
        return {i: np.full(len(positions[i]), -1.0, np.float32) for row in rows[self.rank] for i in row}

    values = logprobs

    def scores(self, token_ids: Sequence[np.ndarray], ends: Sequence[np.ndarray], rows: Any) -> dict[int, np.ndarray]:
        return {i: np.zeros((len(ends[i]), 4), np.float32) for row in rows[self.rank] for i in row}

    def update(self, *_: Any) -> UpdateStats:
        return UpdateStats(loss=0.0, grad_norm=1.0, clip_fraction=0.0, entropy=1.0, learning_rate=1e-4, skipped=0)

    def weights(self, version: int, adapters_alone: bool) -> PublishedWeights:
        manifest, buckets = pack_weights([("w", torch.zeros(1))], version)
        return PublishedWeights(manifest, tuple(map(ray.put, buckets)))


@contextmanager
def idle(phrases: list[list[int]]) -> Iterator[None]:
    """Inside, fleets start engines and roles start ranks that compute nothing."""

    def start(*_: Any, **__: Any) -> Any:
        return ray.remote(IdleEngine).options(num_cpus=0, max_concurrency=4 * CONSULTATIONS).remote(phrases)

    with ExitStack() as stack:
        stack.enter_context(patch("zj_ray.fleet.control.fleet.start_engine", start))
        for name in ("PolicyRank", "ReferenceRank", "CriticRank", "RewardRank"):
            stack.enter_context(patch(f"zj_ray.roles.roles.{name}", IdleRank))
        yield


@contextmanager
def idle_stage(folder: Path, settings: Config) -> Iterator[PPOLoop]:
    """The PPO stage's loop in a new run, with engines and ranks that compute nothing."""
    run, tokenizer = room(folder, settings)
    settle(run, speaker(SHAPE, tokenizer, 0.0), tokenizer)
    dialogues = load_dialogues(run.folder / "data", "train")[:400]
    turns = [m.content for dialogue in dialogues for m in dialogue if m.role == "assistant"]
    phrases = [tokenizer.encode(text, add_special_tokens=False) for text in turns]
    with idle(phrases), ppo_stage(run) as loop:
        yield loop


def algorithms_alone(consultations: int = CONSULTATIONS, length: int = LENGTH) -> float:
    """Seconds of `estimate_advantages` on one core, every token generated: the largest that the batch can be."""
    random_numbers = np.random.default_rng(0)

    def arrays() -> list[np.ndarray]:
        return list(random_numbers.normal(size=(consultations, length)).astype(np.float32))

    ends = np.arange(length // TURNS - 1, length, length // TURNS)
    batch = RolloutBatch(
        prompts=list(range(consultations)),
        token_ids=[np.zeros(length, dtype=np.int64)] * consultations,
        positions=[np.arange(length)] * consultations,
        turn_ends=[ends] * consultations,
        behaviour_logprobs=arrays(),
        staleness=[np.zeros(length, dtype=np.int64)] * consultations,
        old_logprobs=arrays(),
        reference_logprobs=arrays(),
        values=arrays(),
    )
    scored = [ScoredTurns(rewards=[1.0] * len(ends))] * consultations
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = fastest(lambda: estimate_advantages(batch, scored, 0.05, PPOConfig()), repeats=3)
    torch.set_num_threads(before)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--consultations", type=int, default=CONSULTATIONS)
    options = parser.parse_args()
    ceilings = measure(os.cpu_count() or 1)
    print(f"{ceilings}\n")
    print(f"The algorithms alone, {CONSULTATIONS} × {LENGTH} generated tokens, one core: ", end="", flush=True)
    print(f"**{algorithms_alone():.2f} s** (target 1).\n", flush=True)
    talk = {"max_turns": TURNS, "turn_tokens": TURN_TOKENS}
    ppo = {"consultations": options.consultations, "epochs": 1, "mini_batches": 4}
    settings = config(SHAPE, 2, 1, max_length=LENGTH + 256, talk=talk, **ppo)
    settings = replace(settings, ray=replace(settings.ray, object_store_mb=1024))
    with tempfile.TemporaryDirectory() as folder, idle_stage(Path(folder), settings) as loop:
        held: list[Any] = []
        rollout = loop.fleet.rollout
        loop.fleet.rollout = lambda *a, **k: held.append(rollout(*a, **k)) or held[-1]
        started = time.monotonic()
        loop.step(0)
        whole, laps = time.monotonic() - started, loop.record.rows[-1]
        trajectories = held[0].trajectories
    lengths = [len(t.token_ids) for t in trajectories]
    generated = sum(sum(t.loss_mask) for t in trajectories)
    size = f"{np.mean(lengths):.0f} tokens each ({min(lengths)} to {max(lengths)})"
    share = f"{generated / sum(lengths):.0%} of them generated"
    print(f"{len(trajectories)} consultations of {TURNS} turns, {size}, {share}.\n")
    rows = [(phase, laps[f"seconds_{phase}"]) for phase in PHASES]
    rows += [("records", whole - sum(seconds for _, seconds in rows)), ("the controller's whole step", whole)]
    print(table(("controller, seconds", ""), rows) + "\n")
    shares = []
    for name, shape in {"7.3 M": SHAPE, "SmolLM2-135M's shape": SMOLLM2_135M}.items():
        cost = sum(necessary(shape, lengths, generated).values()) / ceilings.flops
        shares.append((name, cost, f"{100 * whole / (whole + cost):.2f} %"))
    header = ("model", "arithmetic of the step at the ceiling [s]", "controller's share at most (target 5 %)")
    print(table(header, shares))


if __name__ == "__main__":
    main()
