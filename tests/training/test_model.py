from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.helpers.tiny import MODEL, tiny_folder
from zj_ray.errors import CheckpointError
from zj_ray.rankings.aspects import HEADS
from zj_ray.training.model import check_checkpoint, load_causal_lm, load_heads, new_heads


def _edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("change", [{"hidden_size": 128}, {"num_hidden_layers": 3}, {"vocab_size": 999}])
def test_a_checkpoint_of_another_architecture_is_one_clear_line(tmp_path: Path, change: dict[str, int]) -> None:
    folder = tiny_folder(tmp_path / "model")
    _edit_config(folder, **change)
    with pytest.raises(CheckpointError) as caught:
        load_causal_lm(folder, MODEL)
    with pytest.raises(CheckpointError, match="another architecture"):
        check_checkpoint(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_whole_checkpoint_passes_and_damaged_or_foreign_ones_are_named(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "model")
    check_checkpoint(folder)
    _edit_config(folder, model_type="vit", architectures=["ViTModel"])
    with pytest.raises(CheckpointError, match="no causal LM"):
        check_checkpoint(folder)
    other = tiny_folder(tmp_path / "other")
    (other / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes()[:500])
    with pytest.raises(CheckpointError, match="damaged weights"):
        check_checkpoint(other)


def test_a_missing_or_empty_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match="can't be loaded") as caught:
            load_causal_lm(folder, MODEL)
        assert "\n" not in str(caught.value)


def test_heads_survive_the_disk_and_a_critic_takes_the_overall_one(tmp_path: Path) -> None:
    model = new_heads(tiny_folder(tmp_path / "lm"), len(HEADS), MODEL, seed=3)
    model.save(tmp_path / "reward")
    row = torch.tensor([[5, 6, 7, 8]]), torch.arange(4)[None], torch.tensor([3])
    scores = model(*row)
    torch.testing.assert_close(load_heads(tmp_path / "reward", MODEL)(*row), scores)
    torch.testing.assert_close(load_heads(tmp_path / "reward", MODEL, only=1)(*row), scores[:, :1])
    with pytest.raises(CheckpointError, match="no reward model"):
        load_heads(tmp_path / "lm", MODEL)
