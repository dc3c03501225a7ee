"""Early stopping under Ray Train: held-out loss ends a stage, its best weights stay, a kill changes neither."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.supervised import fit_with_a_kill, spec_of, weights
from tests.helpers.tiny import tiny_folder
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


def spec(root: Path, name: str, **parts: Examples) -> FitSpec:
    config = RewardTrainConfig(
        cpus=0.1, max_steps=STEPS, epochs=99, batch_tokens=250, micro_batch_tokens=200, learning_rate=3e-3,
        warmup=0.0, save_every=EVERY, patience=2, stall_timeout=120,
    )  # fmt: skip
    return spec_of(root, name, config, "rankings", train=rankings(24, seed=0), valid=rankings(16, seed=1), **parts)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopping")
    tiny_folder(folder / "lm")
    return folder


@pytest.fixture(scope="module")
def stopped(ray_session: None, root: Path) -> tuple[FitSpec, dict]:
    patient = spec(root, "stopped")
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
    patient = spec(root, "apart", stopping=rankings(16, seed=2))
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
    disturbed = spec(root, "disturbed")
    result, steps = fit_with_a_kill(disturbed)
    assert EVERY <= steps < expected["steps"]
    assert result == expected and weights(disturbed) == weights(quiet)


def test_patience_counts_checkpoints_that_beat_none_before_them() -> None:
    def over(*losses: float) -> bool:
        return is_over(list(enumerate(losses)), 2)

    assert not over() and not over(3.0, 4.0) and not over(3.0, 4.0, 2.9) and not over(3.0, 2.0, 2.5)
    assert over(3.0, 3.0, 3.0) and over(3.0, 2.0, 2.5, 2.1) and over(3.0, float("inf"), float("inf"))
    assert not is_over([(1, 1.0), (2, 2.0), (3, 3.0)], None)
