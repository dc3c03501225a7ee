"""A worker of a supervised stage is killed: Ray Train replaces it, and the stage ends bit for bit as otherwise."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.torch import load_file

from bench.soak import kill
from tests.helpers.tiny import MODEL, tiny_folder
from zj_ray.config.schema import TrainConfig
from zj_ray.runs.metrics import read_metrics
from zj_ray.training.supervised.examples import Examples
from zj_ray.training.supervised.fit import fit
from zj_ray.training.supervised.worker import FitSpec

pytestmark = pytest.mark.resume

STEPS = 60


def _spec(root: Path, name: str, zero_stage: int) -> FitSpec:
    draw = np.random.default_rng(0)
    documents = [draw.integers(5, 300, length) for length in draw.integers(20, 120, 200)]
    examples = Examples(documents, [np.arange(1, len(document)) for document in documents])
    folder = root / name
    examples.save(folder / "train.npz")
    Examples(documents[:8], examples.positions[:8]).save(folder / "valid.npz")
    config = TrainConfig(
        cpus=0.1,
        max_steps=STEPS,
        epochs=9,
        batch_tokens=600,
        micro_batch_tokens=200,
        zero_stage=zero_stage,
        save_every=5,
        stall_timeout=120,
    )  # type: ignore[arg-type]
    train, valid = str(folder / "train.npz"), str(folder / "valid.npz")
    return FitSpec(
        objective="tokens",
        stage="sft",
        start=str(root / "lm"),
        folder=str(folder),
        train=train,
        valid=valid,
        config=config,
        model=MODEL,
        seed=0,
        tensorboard=str(folder),
    )


def _weights(spec: FitSpec) -> dict[str, bytes]:
    return {
        name: tensor.numpy().tobytes()
        for name, tensor in load_file(Path(spec.folder) / "model" / "model.safetensors").items()
    }


@pytest.mark.parametrize("zero_stage", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_a_stage_whose_worker_was_killed_ends_bit_for_bit_as_one_that_was_not(
    ray_session: None, tmp_path: Path, zero_stage: int
) -> None:
    tiny_folder(tmp_path / "lm")
    quiet, disturbed = _spec(tmp_path, "quiet", zero_stage), _spec(tmp_path, "disturbed", zero_stage)
    expected = fit(quiet)
    killed: list[tuple[int, int]] = []

    def kill_soon() -> None:
        checkpoints, deadline = Path(disturbed.folder) / "checkpoints", time.monotonic() + 120
        while not list(checkpoints.glob("step-*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        pid = kill("RayTrainWorker")
        killed.append((pid, len(read_metrics(Path(disturbed.folder) / "metrics.jsonl"))))

    thread = threading.Thread(target=kill_soon, daemon=True)
    thread.start()
    result = fit(disturbed)
    thread.join(10)
    [(pid, steps)] = killed
    assert not psutil.pid_exists(pid) and 5 <= steps < STEPS  # the witness
    assert result == expected
    assert _weights(disturbed) == _weights(quiet)
    ours, theirs = (read_metrics(Path(spec.folder) / "metrics.jsonl") for spec in (quiet, disturbed))
    figures = ("step", "loss", "grad_norm", "lr")
    assert [[row[name] for name in figures] for row in ours] == [
        [row[name] for name in figures] for row in theirs
    ] and len(ours) == STEPS
