"""Ten random kills in one PPO run, against runs without. `python -m bench.soak`

SIGKILL for a process of a random kind (an engine, or a rank of a role), again and again once the run has recovered. The
disturbed run must do all its steps, ask the same prompts in the same steps, and end with a reward within the spread of
runs with other seeds.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from transformers import LlamaConfig

from bench.ceilings import table
from bench.subject import config, room, settle, speaker
from zj_ray.cluster.connect import connect
from zj_ray.files import read_jsonl
from zj_ray.runs.folder import Run
from zj_ray.runs.metrics import read_metrics
from zj_ray.stages.context import StageContext
from zj_ray.stages.ppo import ppo

SHAPE = LlamaConfig(vocab_size=600, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=1)
KINDS = ("RolloutEngine", "PolicyRank", "CriticRank", "RewardRank", "ReferenceRank")
LONGEST_STEP = 600.0  # with the recovery in it [s]


def small_run(folder: Path, steps: int, seed: int = 0, engines: int = 1, ranks: int = 2, **ppo: Any) -> Run:
    """PPO alone, with a checkpoint after every step. ranks: of policy and critic."""
    ppo |= {"consultations": 8, "steps": steps, "checkpoint_every": 1}
    talk = {"max_turns": 3, "turn_tokens": 12}
    settings = config(SHAPE, engines, 1, max_length=384, ranks=ranks, talk=talk, **ppo)
    settings = replace(settings, seed=seed, fleet=replace(settings.fleet, kv_cache_mb=64))
    run, tokenizer = room(folder, settings)
    settle(run, speaker(SHAPE, tokenizer, stop=0.1), tokenizer)
    return run


def learn(run: Run) -> float:
    """Do the PPO stage on the Ray that is there; returns its seconds."""
    context, started = StageContext(run), time.monotonic()
    try:
        ppo(context)
    finally:
        context.release_fleet()
    return time.monotonic() - started


def steps_done(run: Run) -> list[dict[str, Any]]:
    path = run.folder / "ppo" / "metrics.jsonl"
    return read_metrics(path) if path.exists() else []


def seconds_of(step: dict[str, Any]) -> float:
    return sum(value for name, value in step.items() if name.startswith("seconds_"))


def prompts_by_step(run: Run) -> list[tuple[int, str]]:
    """(step, prompt) of every consultation, in the order of the file."""
    rows = read_jsonl(run.folder / "ppo" / "rollouts.jsonl")
    return [(row["step"], row["prompt_id"]) for _, row in rows]


def wait_for_step(run: Run, step: int) -> None:
    """Wait until a step is written down and its checkpoint is there."""
    deadline = time.monotonic() + LONGEST_STEP
    while len(steps_done(run)) < step or not (run.folder / "ppo" / "checkpoints" / f"step-{step:06d}").exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"step {step} was not done within {LONGEST_STEP:.0f} s")
        time.sleep(0.02)


def kill(kind: str) -> int:
    """SIGKILL for the youngest process of a kind below this one, as soon as there is one; returns its pid."""
    deadline = time.monotonic() + LONGEST_STEP
    while not (alive := [each for each in psutil.Process().children(recursive=True) if _is(each, kind)]):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {kind} was alive within {LONGEST_STEP:.0f} s")
        time.sleep(0.1)
    victim = max(alive, key=lambda process: process.create_time())
    victim.send_signal(signal.SIGKILL)
    return victim.pid


def _is(process: psutil.Process, kind: str) -> bool:
    try:
        return kind in "".join(process.cmdline()[:1])
    except psutil.Error:  # it has ended
        return False


@dataclass
class Killer:
    """Kills in a thread of its own while `run` goes on."""

    run: Run
    kinds: list[str]
    seed: int = 0
    killed: list[tuple[int, str, int]] = field(default_factory=list)  # (after step, kind, pid)

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, daemon=True)
        thread.start()
        return thread

    def _work(self) -> None:
        draw = random.Random(self.seed)
        step = 1
        for kind in self.kinds:
            wait_for_step(self.run, step)
            # Into a rollout, an update, a publication, whatever it may be.
            time.sleep(draw.random() * seconds_of(steps_done(self.run)[-1]))
            self.killed.append((len(steps_done(self.run)), kind, kill(kind)))
            step = len(steps_done(self.run)) + 2  # only a run that has recovered gets there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3, help="undisturbed runs, each with a seed of its own")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    steps = 6 * options.kills
    kinds = list(itertools.islice(itertools.cycle(KINDS), options.kills))  # each as often as any other, in random order
    random.Random(0).shuffle(kinds)
    with tempfile.TemporaryDirectory() as root:
        quiet = [small_run(Path(root) / f"quiet-{seed}", steps, seed, engines=2) for seed in range(options.seeds)]
        disturbed = small_run(Path(root) / "disturbed", steps, 0, engines=2, role_restarts=options.kills)
        with connect(disturbed.config.ray, log_folder=Path(root)):
            seconds = [learn(run) for run in quiet]
            killer = Killer(disturbed, kinds)
            thread = killer.start()
            longer = learn(disturbed)
            thread.join(timeout=10)
        assert len(killer.killed) == options.kills, killer.killed
        assert not any(psutil.pid_exists(pid) for _, _, pid in killer.killed), killer.killed
        assert [row["step"] for row in steps_done(disturbed)] == [row["step"] for row in steps_done(quiet[0])]
        same = prompts_by_step(disturbed) == prompts_by_step(quiet[0])
        rewards = [float(np.mean([row["reward"] for row in steps_done(run)[-4:]])) for run in (*quiet, disturbed)]
        names = [f"undisturbed, seed {seed}" for seed in range(options.seeds)] + [f"{options.kills} kills, seed 0"]
        steps_of_runs = [len(steps_done(run)) for run in (*quiet, disturbed)]
        rows = list(zip(names, steps_of_runs, [*seconds, longer], rewards, strict=True))
        print("\n" + table(("run", "steps", "seconds", "reward of the last 4 steps"), rows))
        print(f"\nkilled: {', '.join(f'{kind} after step {step}' for step, kind, _ in killer.killed)}")
        difference, spread = abs(rewards[-1] - rewards[0]), max(rewards[:-1]) - min(rewards[:-1])
        print(f"same prompts in the same steps: {same}; the reward of seed 0 differs by {difference:.2g}, ", end="")
        print(f"seeds spread over {spread:.2g}; {(longer - seconds[0]) / options.kills:.1f} s a kill")
        assert same and difference <= spread


if __name__ == "__main__":
    main()
