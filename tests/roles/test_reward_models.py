"""The reward role's model: one member as it is, or all of an ensemble's with what makes their scores one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.helpers.tiny import MODEL, tiny_folder
from zj_ray.algorithms.ensemble import Ensemble
from zj_ray.roles.reward import RewardRank, load_ensemble, save_ensemble
from zj_ray.training.model import load_heads, new_heads

DOCUMENTS = [np.arange(5, 5 + length) for length in (9, 4, 17)]
ENDS = [np.array([3, 8]), np.array([3]), np.array([2, 9, 16])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward stage's folder with two members, of which nothing says yet that they are an ensemble."""
    root = tmp_path_factory.mktemp("reward")
    lm = tiny_folder(root / "lm")
    for seed, part in enumerate(("model", "member-2/model")):
        new_heads(lm, 4, MODEL, seed=seed).save(root / part)
    return root


def scored(folder: Path, method: str = "scores") -> dict[int, np.ndarray]:
    """What a rank of the role gives without Ray and DeepSpeed."""
    rank = RewardRank(MODEL, seed=0, timeout=1.0)
    model = rank.load_model(str(folder)).eval()
    rank.engine = SimpleNamespace(engine=model, device="cpu", rest=lambda: None)  # type: ignore[assignment]
    rank.rank = 0
    return getattr(rank, method)(DOCUMENTS, ENDS, [[[0, 2], [1]]])


def alone(folder: Path) -> list[np.ndarray]:
    """Each document's scores by `load_heads` itself, `[ends, heads]`, one document a row."""
    model, found = load_heads(folder, MODEL).eval(), []
    with torch.no_grad():
        for ids, ends in zip(DOCUMENTS, ENDS, strict=True):
            positions = torch.arange(len(ids))[None]
            found.append(model(torch.from_numpy(ids)[None], positions, torch.from_numpy(ends)).numpy())
    return found


def test_a_single_model_scores_as_it_does_by_itself(folder: Path) -> None:
    models, ensemble = load_ensemble(folder / "model", MODEL)
    assert len(models.members) == 1 and ensemble is None
    for number, expected in enumerate(alone(folder / "model")):
        assert scored(folder / "model")[number] == pytest.approx(expected, abs=1e-5)
        assert scored(folder / "model", "member_scores")[number].shape == (len(ENDS[number]), 1, 4)


def test_an_ensemble_scores_by_all_its_members(folder: Path, tmp_path: Path) -> None:
    fitted = Ensemble(np.array([[0.1] * 4, [-0.2] * 4]), np.array([[0.5] * 4, [2.0] * 4]), pessimism=1.5)
    save_ensemble(folder / "model", [folder / "member-2" / "model"], fitted)
    first, second = alone(folder / "model"), alone(folder / "member-2" / "model")
    together, apart = scored(folder / "model"), scored(folder / "model", "member_scores")
    for number in range(3):
        both = np.stack([first[number], second[number]])
        assert apart[number].swapaxes(0, 1) == pytest.approx(both, abs=1e-5)
        assert together[number] == pytest.approx(fitted.combine(both), abs=1e-4)
        assert not np.allclose(together[number], first[number], atol=1e-2)


def test_a_run_that_was_moved_still_finds_its_members(folder: Path, tmp_path: Path) -> None:
    save_ensemble(folder / "model", [folder / "member-2" / "model"], Ensemble(np.zeros((2, 4)), np.ones((2, 4)), 0.0))
    moved = folder.rename(folder.with_name("elsewhere"))
    try:
        assert len(load_ensemble(moved / "model", MODEL)[0].members) == 2
    finally:
        moved.rename(folder)
