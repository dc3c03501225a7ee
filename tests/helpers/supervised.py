"""A supervised stage under Ray Train on made-up examples, and one of whose workers is killed on its way."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Literal

import psutil
from safetensors.torch import load_file

from bench.soak import kill
from tests.helpers.tiny import MODEL
from zj_ray.config.schema import TrainConfig
from zj_ray.runs.metrics import read_metrics
from zj_ray.training.supervised.examples import Examples
from zj_ray.training.supervised.fit import fit
from zj_ray.training.supervised.worker import FitSpec


def spec_of(
    root: Path, name: str, config: TrainConfig, objective: Literal["tokens", "rankings"], **parts: Examples
) -> FitSpec:
    """What `fit` needs, in the folder `root / name`; it starts from the model in `root / "lm"`.

    parts: the examples, by their fields of FitSpec.
    """
    folder = root / name
    for part, examples in parts.items():
        examples.save(folder / f"{part}.npz")
    return FitSpec(
        objective=objective,
        stage={"tokens": "sft", "rankings": "reward"}[objective],
        start=str(root / "lm"),
        folder=str(folder),
        config=config,
        model=MODEL,
        seed=0,
        tensorboard=str(folder),
        **{part: str(folder / f"{part}.npz") for part in parts},
    )


def fit_with_a_kill(spec: FitSpec) -> tuple[dict[str, Any], int]:
    """What `fit` returns though a worker was killed once there was a checkpoint, and how many steps were done then."""
    killed: list[tuple[int, int]] = []

    def kill_soon() -> None:
        checkpoints, deadline = Path(spec.folder) / "checkpoints", time.monotonic() + 120
        while not list(checkpoints.glob("step-*")) and time.monotonic() < deadline:
            time.sleep(0.005)
        pid = kill("RayTrainWorker")
        killed.append((pid, len(read_metrics(Path(spec.folder) / "metrics.jsonl"))))

    thread = threading.Thread(target=kill_soon, daemon=True)
    thread.start()
    result = fit(spec)
    thread.join(10)
    [(pid, steps)] = killed
    assert not psutil.pid_exists(pid)  # the witness
    return result, steps


def weights(spec: FitSpec) -> dict[str, bytes]:
    """Every bit of the model that the stage has left, by file and name."""
    return {
        f"{file.name}/{name}": tensor.numpy().tobytes()
        for file in sorted((Path(spec.folder) / "model").glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }
