"""A PPO step of a 1.1B model with all four roles and the engine on one GPU. `python -m bench.gpu`

The real stage on random weights of TinyLlama's shape, in bfloat16, once for each way that weights can take to the
engine. Printed are medians over the steps: the seconds of each phase, tokens per second, the share of the GPU's own
matrix speed that the update reaches, and how far the log-probs of engine and trainer differ. With `ipc` the engine
sleeps while the others work. Without a GPU the same runs on the CPU with a small model, to show that it works, not how
fast.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import LlamaConfig

from bench.arithmetic import PHASES, necessary
from bench.ceilings import table
from bench.leak import TINY
from bench.subject import config, ppo_stage, room, settle, speaker
from zj_ray.config.schema import Config
from zj_ray.runs.metrics import read_metrics

TINYLLAMA_1_1B = LlamaConfig(
    vocab_size=32000,
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=22,
    num_attention_heads=32,
    num_key_value_heads=4,
)
WARMUP = 1  # steps that compile and allocate


def settings_of(transport: str, consultations: int, micro_batch_tokens: int) -> tuple[LlamaConfig, Config]:
    on_gpu = torch.cuda.is_available()
    shape = TINYLLAMA_1_1B if on_gpu else TINY
    talk = {"max_turns": 4, "turn_tokens": 128}
    learning = {"consultations": consultations, "epochs": 1, "mini_batches": 4, "mismatch_bound": 1.0}
    base = config(shape, 1, 1, max_length=1024, talk=talk, micro_batch_tokens=micro_batch_tokens, **learning)
    fleet = replace(base.fleet, transport=transport)
    if not on_gpu:
        return shape, replace(base, fleet=fleet)
    names = ("policy", "critic", "reward", "reference")
    roles: dict[str, Any] = {name: replace(getattr(base.ppo, name), gpus=0.15) for name in names}
    roles |= {name: replace(roles[name], zero_stage=2) for name in ("policy", "critic")}
    fleet = replace(fleet, engine_gpus=0.4, gpu_memory_utilization=0.4, max_in_flight=256, sleep=transport == "ipc")
    return shape, replace(
        base,
        ray=replace(base.ray, object_store_mb=16384),
        model=replace(base.model, dtype="bfloat16"),
        fleet=fleet,
        ppo=replace(base.ppo, **roles, colocate=((*names, "engines"),)),
    )


def matrix_speed() -> float:
    """FLOP/s of a large bf16 matrix product on this GPU."""
    one, other = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        one @ other
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(10):
        one @ other
    torch.cuda.synchronize()
    return 10 * 2 * 8192**3 / (time.perf_counter() - started)


def steps_of(transport: str, options: argparse.Namespace) -> tuple[LlamaConfig, list[dict[str, Any]]]:
    """The metrics of every step, the first WARMUP of which don't count."""
    shape, settings = settings_of(transport, options.consultations, options.micro_batch_tokens)
    with tempfile.TemporaryDirectory() as folder:
        run, tokenizer = room(Path(folder), settings)
        settle(run, speaker(shape, tokenizer, 0.02).to(getattr(torch, settings.model.dtype)), tokenizer)
        started = time.monotonic()
        with ppo_stage(run) as loop:
            print(f"{transport}: started in {time.monotonic() - started:.0f} s", flush=True)
            for step in range(WARMUP + options.steps):
                loop.step(step)
        return shape, read_metrics(run.folder / "ppo" / "metrics.jsonl")


def summary(shape: LlamaConfig, rows: list[dict[str, Any]], consultations: int, speed: float | None) -> dict[str, str]:
    def middle(name: str) -> float:
        return median(row[name] for row in rows)

    seconds = {phase: middle(f"seconds_{phase}") for phase in PHASES}
    tokens = median(row["tokens_per_second"] * sum(row[f"seconds_{phase}"] for phase in PHASES) for row in rows)
    flops = necessary(shape, [tokens / consultations] * consultations, int(middle("generated_tokens")))
    share = f"{100 * flops['update'] / seconds['update'] / speed:.0f} %" if speed else "no GPU"
    return {
        **{f"{phase} [s]": f"{value:.2f}" for phase, value in seconds.items()},
        "step [s]": f"{sum(seconds.values()):.2f}",
        "generated tokens/s in the rollout": f"{middle('generated_tokens') / seconds['rollout']:.0f}",
        "trained tokens/s in the update": f"{tokens / seconds['update']:.0f}",
        "update, share of the matrix speed": share,
        "weight sync [GB/s]": f"{middle('sync_bytes') / 1e9 / seconds['sync']:.2f}",
        "log-probs, engine against trainer, mean": f"{middle('mismatch_mean'):.4f}",
        "log-probs, largest": f"{max(row['mismatch_max'] for row in rows):.3f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--consultations", type=int, default=256)
    parser.add_argument("--micro-batch-tokens", type=int, default=8192)
    direct = "ipc" if torch.cuda.is_available() else "gloo"
    parser.add_argument("--transports", nargs="+", default=[direct, "object_store"])
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    speed = matrix_speed() if torch.cuda.is_available() else None
    if speed:
        machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
        print(f"{machine}: {speed / 1e12:.0f} TFLOP/s in bf16 matrix products", flush=True)
        torch.cuda.empty_cache()
    columns = {}
    for transport in options.transports:
        shape, rows = steps_of(transport, options)
        columns[transport] = summary(shape, rows[WARMUP:], options.consultations, speed)
        print(table(("", transport), columns[transport].items()), flush=True)
    names = list(columns[options.transports[0]])
    print(f"\n{options.consultations} consultations a step, {rows[-1]['generated_tokens']:.0f} tokens generated\n")
    print(table(("", *columns), [(name, *(column[name] for column in columns.values())) for name in names]))


if __name__ == "__main__":
    main()
