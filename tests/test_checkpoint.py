from __future__ import annotations

from pathlib import Path

import pytest

from zj_ray.errors import CheckpointError
from zj_ray.training.checkpoint import CheckpointStore


def _write(store: CheckpointStore, step: int) -> Path:
    (store.begin(step) / "weights.bin").write_bytes(b"w" * step)
    return store.commit(step, {"step": step})


def test_the_newest_whole_checkpoint_is_found_and_old_ones_go(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    assert store.latest() is None
    for step in (1, 2, 3):
        _write(store, step)
    assert store.steps() == [2, 3]
    step, folder, state = store.latest()  # type: ignore[misc]
    assert (step, state) == (3, {"step": 3}) and (folder / "weights.bin").read_bytes() == b"www"


@pytest.mark.parametrize("damage", ["truncate", "missing", "no list"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, damage: str) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    _write(store, 1)
    folder = _write(store, 2)
    if damage == "truncate":
        (folder / "weights.bin").write_bytes(b"w")
    else:
        (folder / ("weights.bin" if damage == "missing" else "checkpoint.json")).unlink()
    assert store.latest()[0] == 1  # type: ignore[index]


def test_a_draft_is_no_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    (store.begin(4) / "weights.bin").write_bytes(b"w")
    assert store.latest() is None


def test_when_all_are_damaged_the_error_names_them(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    (_write(store, 1) / "weights.bin").unlink()
    with pytest.raises(CheckpointError, match=r"step-000001: weights\.bin is missing"):
        store.latest()
