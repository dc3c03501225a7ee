"""A worker of a supervised stage is killed: Ray Train replaces it, and the stage ends bit for bit as otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.supervised import fit_with_a_kill, spec_of, weights
from tests.helpers.tiny import tiny_folder
from zj_ray.config.schema import TrainConfig
from zj_ray.runs.metrics import read_metrics
from zj_ray.training.supervised.examples import Examples
from zj_ray.training.supervised.fit import fit
from zj_ray.training.supervised.worker import FitSpec

# In `make test` a worker of a reward model's stage is killed (test_early_stopping.py).
pytestmark = [pytest.mark.resume, pytest.mark.slow]

STEPS = 60
FIGURES = ("step", "loss", "grad_norm", "lr")


def _spec(root: Path, name: str, zero_stage: int) -> FitSpec:
    draw = np.random.default_rng(0)
    documents = [draw.integers(5, 300, length) for length in draw.integers(20, 120, 200)]
    train = Examples(documents, [np.arange(1, len(document)) for document in documents])
    valid = Examples(documents[:8], train.positions[:8])
    config = TrainConfig(
        cpus=0.1, max_steps=STEPS, epochs=9, batch_tokens=600, micro_batch_tokens=200, zero_stage=zero_stage,
        save_every=5, stall_timeout=120,
    )  # type: ignore[arg-type]  # fmt: skip
    return spec_of(root, name, config, "tokens", train=train, valid=valid)


def _figures(spec: FitSpec) -> list[list[float]]:
    return [[row[name] for name in FIGURES] for row in read_metrics(Path(spec.folder) / "metrics.jsonl")]


@pytest.mark.parametrize("zero_stage", [2, 0])
def test_a_stage_whose_worker_was_killed_ends_bit_for_bit_as_one_that_was_not(
    ray_session: None, tmp_path: Path, zero_stage: int
) -> None:
    tiny_folder(tmp_path / "lm")
    quiet, disturbed = _spec(tmp_path, "quiet", zero_stage), _spec(tmp_path, "disturbed", zero_stage)
    expected = fit(quiet)
    result, steps = fit_with_a_kill(disturbed)
    assert 5 <= steps < STEPS
    assert result == expected and weights(disturbed) == weights(quiet)
    assert _figures(disturbed) == _figures(quiet) and len(_figures(quiet)) == STEPS
