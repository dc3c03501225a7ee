"""Early stopping under Ray Train: held-out loss ends a stage, its best weights stay, a kill changes neither."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from bench.soak import kill
from tests.helpers.tiny import MODEL, tiny_folder
from zj_ray.config.schema import RewardTrainConfig
from zj_ray.rankings.aspects import HEADS
from zj_ray.runs.metrics import read_metrics
from zj_ray.training.shards import Fragments
from zj_ray.training.supervised.examples import Examples
from zj_ray.training.supervised.fit import fit
from zj_ray.training.supervised.worker import FitSpec, is_over

pytestmark = pytest.mark.resume

STEPS, EVERY = 80, 4


def rankings(prompts: int, seed: int) -> Examples:
    """Random answers in a random order: nothing to learn but by heart, so the held-out loss soon rises."""
    draw = np.random.default_rng(seed)
    documents: list[np.ndarray] = []
    for _ in range(prompts):
        shared = draw.integers(5, 300, 10)
        documents += [np.concatenate([shared, draw.integers(5, 300, 12)]) for _ in range(4)]
    ranks = (
        np.stack([draw.permutation(4) for _ in range(prompts)])
        .reshape(-1, 1, 1)
        .repeat(len(HEADS), axis=1)
        .astype(float)
    )
    return Examples(
        documents,
        [np.array([len(d) - 1]) for d in documents],
        np.repeat(np.arange(prompts), 4),
        ranks,
        np.ones((len(documents), 1)),
    )


def spec(root: Path, name: str, patience: int, stopping: bool = False) -> FitSpec:
    folder = root / name
    rankings(24, seed=0).save(folder / "train.npz")
    rankings(16, seed=1).save(folder / "valid.npz")
    config = RewardTrainConfig(
        cpus=0.1, max_steps=STEPS, epochs=99, batch_tokens=250, micro_batch_tokens=200, learning_rate=3e-3,
        warmup=0.0, save_every=EVERY, patience=patience, stall_timeout=120,
    )  # fmt: skip
    train, valid = str(folder / "train.npz"), str(folder / "valid.npz")
    apart = None
    if stopping:
        rankings(16, seed=2).save(folder / "stopping.npz")
        apart = str(folder / "stopping.npz")
    return FitSpec(
        objective="rankings",
        stage="reward",
        start=str(root / "lm"),
        folder=str(folder),
        train=train,
        valid=valid,
        config=config,
        model=MODEL,
        seed=0,
        tensorboard=str(folder),
        stopping=apart,
    )


def weights(of: FitSpec) -> dict[str, bytes]:
    files = ("model.safetensors", "heads.safetensors")
    return {
        f"{file}/{name}": t.numpy().tobytes()
        for file in files
        for name, t in load_file(Path(of.folder) / "model" / file).items()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopping")
    tiny_folder(folder / "lm")
    return folder


@pytest.fixture(scope="module")
def stopped(ray_session: None, root: Path) -> tuple[FitSpec, dict]:
    patient = spec(root, "stopped", patience=2)
    return patient, fit(patient)


def test_a_stage_stops_when_its_held_out_loss_no_longer_falls_and_keeps_its_best_weights(
    stopped: tuple[FitSpec, dict],
) -> None:
    patient, result = stopped
    losses = dict(result["held_out"])
    assert result["steps"] < STEPS and len(read_metrics(Path(patient.folder) / "metrics.jsonl")) == result["steps"]
    assert min(losses, key=lambda step: losses[step]) == result["kept"] == result["steps"] - 2 * EVERY
    assert (
        result["after"]["loss"] == pytest.approx(losses[result["kept"]])
        and losses[result["steps"]] > losses[result["kept"]]
    )


def test_the_weights_kept_are_those_of_that_step_and_not_the_last(root: Path, stopped: tuple[FitSpec, dict]) -> None:
    patient, result = stopped
    heads = load_file(Path(patient.folder) / "model" / "heads.safetensors")["weight"].flatten()

    def at(step: int) -> torch.Tensor:
        return Fragments(Path(patient.folder) / "checkpoints" / f"step-{step:06d}").read(
            "weight", "heads.weight", 0, len(heads)
        )

    assert torch.equal(heads, at(result["kept"])) and not torch.equal(heads, at(result["steps"]))


def test_examples_of_their_own_decide_when_to_stop_and_what_is_reported_decides_nothing(
    root: Path, stopped: tuple[FitSpec, dict]
) -> None:
    patient = spec(root, "apart", patience=2, stopping=True)
    result = fit(patient)
    losses, by_valid = dict(result["held_out"]), dict(stopped[1]["held_out"])
    assert min(losses, key=lambda step: losses[step]) == result["kept"] and result["steps"] < STEPS
    assert result["after"]["loss"] == pytest.approx(
        by_valid[result["kept"]]
    )  # as the run that stopped by `valid` saw it at this step
    assert all(losses[step] != pytest.approx(by_valid[step], rel=1e-3) for step in losses.keys() & by_valid.keys())


def test_a_stage_killed_before_it_stops_ends_bit_for_bit_as_one_that_was_not(
    root: Path, stopped: tuple[FitSpec, dict]
) -> None:
    quiet, expected = stopped
    disturbed = spec(root, "disturbed", patience=2)
    killed: list[tuple[int, int]] = []

    def kill_soon() -> None:
        checkpoints, deadline = Path(disturbed.folder) / "checkpoints", time.monotonic() + 120
        while not list(checkpoints.glob("step-*")) and time.monotonic() < deadline:
            time.sleep(0.005)
        pid = kill("RayTrainWorker")
        killed.append((pid, len(read_metrics(Path(disturbed.folder) / "metrics.jsonl"))))

    thread = threading.Thread(target=kill_soon, daemon=True)
    thread.start()
    result = fit(disturbed)
    thread.join(10)
    [(pid, steps)] = killed
    assert not psutil.pid_exists(pid) and EVERY <= steps < expected["steps"]  # the witness
    assert result == expected and weights(disturbed) == weights(quiet)


def test_patience_counts_checkpoints_that_beat_none_before_them() -> None:
    def over(*losses: float) -> bool:
        return is_over(list(enumerate(losses)), 2)

    assert not over() and not over(3.0, 4.0) and not over(3.0, 4.0, 2.9) and not over(3.0, 2.0, 2.5)
    assert over(3.0, 3.0, 3.0) and over(3.0, 2.0, 2.5, 2.1) and over(3.0, float("inf"), float("inf"))
    assert not is_over([(1, 1.0), (2, 2.0), (3, 3.0)], None)
