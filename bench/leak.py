"""Does the driver's memory grow? Two hundred PPO steps with the real parts on a tiny model. `python -m bench.leak`

Printed are the resident memory of the driver and of every actor, the driver's slope after warm-up (least squares), and
how many trajectories of finished steps are still alive.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from transformers import LlamaConfig

from bench.ceilings import table
from bench.subject import config, ppo_stage, room, settle, speaker
from zj_ray.ppo.loop import PPOLoop

TINY = LlamaConfig(vocab_size=3000, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=1)


class Witness:
    """Weak references to every trajectory that a loop's fleet has held."""

    def __init__(self, loop: PPOLoop) -> None:
        self.references: list[weakref.ref[Any]] = []
        rollout = loop.fleet.rollout

        def watched(*arguments: Any, **keywords: Any) -> Any:
            consultations = rollout(*arguments, **keywords)
            self.references += map(weakref.ref, consultations.trajectories)
            return consultations

        loop.fleet.rollout = watched

    def alive(self) -> int:
        gc.collect()
        return sum(reference() is not None for reference in self.references)


def actors() -> dict[str, float]:
    """Resident MiB of this session's actors, by name."""
    resident: dict[str, float] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            name = process.cmdline()[0].removeprefix("ray::").split(".")[0] if process.cmdline() else ""
            if name.endswith(("Rank", "RolloutEngine")):
                resident[name] = resident.get(name, 0.0) + process.memory_info().rss / 2**20
        except psutil.NoSuchProcess:
            continue
    return resident


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--warmup", type=int, default=50)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    ppo = {"consultations": 16, "epochs": 1, "mini_batches": 2, "micro_batch_tokens": 1024}
    settings = config(TINY, 1, 1, talk={"max_turns": 3, "turn_tokens": 16}, **ppo)
    driver, resident, others = psutil.Process(), [], []
    with tempfile.TemporaryDirectory() as folder:
        run, tokenizer = room(Path(folder), settings)
        settle(run, speaker(TINY, tokenizer, 0.05), tokenizer)
        with ppo_stage(run) as loop:
            witness, started, most = Witness(loop), time.monotonic(), 0
            for step in range(options.steps):
                loop.step(step)
                resident.append(driver.memory_info().rss / 2**20)
                if step % 25 == 24:
                    most = max(most, witness.alive())
                    others.append((step + 1, resident[-1], *[f"{mib:.0f}" for mib in actors().values()]))
            names = list(actors())
            seconds = time.monotonic() - started
    print(f"\n{options.steps} steps of {settings.ppo.consultations} consultations in {seconds:.0f} s\n")
    print(table(("step", "driver [MiB]", *(f"{name} [MiB]" for name in names)), others))
    slope = float(np.polyfit(np.arange(options.warmup, options.steps), resident[options.warmup :], 1)[0])
    grown = slope * (options.steps - options.warmup)
    growth = (
        f"**{1024 * slope:.1f} KiB a step** ({grown:.1f} MiB over the rest, {100 * grown / resident[-1]:.2f} % of it)"
    )
    print(f"\nAfter {options.warmup} steps the driver grows by {growth}.")
    print(f"Of {len(witness.references)} trajectories at most {most} were alive after their step.")


if __name__ == "__main__":
    main()
