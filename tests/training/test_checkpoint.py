"""Checkpoints are whole or not there: what is kept, what is passed over, what is said when there is no room."""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from zj_ray.errors import CheckpointError
from zj_ray.training.checkpoint import LIST, CheckpointStore

FILES = {
    "policy/rank-00000.safetensors": b"weights" * 100,
    "policy/rank-00000.json": b'{"world": 1}',
    "critic/rank-00000.json": b"{}",
}


def _write(store: CheckpointStore, step: int, score: float | None = None) -> Path:
    draft = store.begin(step)
    for name, content in FILES.items():
        (draft / name).parent.mkdir(exist_ok=True)
        (draft / name).write_bytes(content + str(step).encode())
    return store.commit(step, {"step": step, "kl": 0.1}, score)


def test_the_newest_whole_checkpoint_is_found_and_old_ones_go(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    assert store.latest() is None
    for step in (1, 2, 3):
        _write(store, step)
    assert store.steps() == [2, 3]
    step, folder, state = store.latest()  # type: ignore[misc]
    assert (step, state) == (3, {"step": 3, "kl": 0.1})
    assert all((folder / name).read_bytes() == text + b"3" for name, text in FILES.items())


def test_the_best_and_every_so_many_steps_are_kept_besides(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1, keep_best=2, keep_every=4)
    for step, score in enumerate([0.1, 0.9, 0.3, 0.2, 0.8, 0.9, 0.4, 0.0, 0.5], start=1):
        _write(store, step, score)
    assert store.steps() == [2, 4, 6, 8, 9]  # the two best, every fourth, the last


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_truncate, _flip_one_bit, Path.unlink])
@pytest.mark.parametrize("name", [*FILES, LIST])
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_used(
    tmp_path: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    _write(store, 1)
    damage(_write(store, 2) / name)
    step, folder, state = store.latest()  # type: ignore[misc]
    assert step == state["step"] == 1 and folder.name == "step-000001"
    assert f"step-000002: {name} " in caplog.text and "the checkpoint of step 1 is used" in caplog.text
    _write(store, 2)  # it is done again
    assert store.latest()[0] == 2  # type: ignore[index]


def test_every_bit_of_the_list_counts(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    whole = (_write(store, 1) / LIST).read_bytes()
    for bit in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / "step-000001" / LIST).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"step-000001: {LIST} is missing or damaged"):
            store.latest()


def test_a_draft_is_no_checkpoint_and_the_next_one_sweeps_it_away(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    (store.begin(4) / "weights.bin").write_bytes(b"w")
    assert store.latest() is None
    _write(store, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000005"]


def test_when_all_are_damaged_the_error_names_them(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    (_write(store, 1) / "policy/rank-00000.json").unlink()
    with pytest.raises(CheckpointError, match=r"step-000001: policy/rank-00000\.json is missing"):
        store.latest()


def _commit_without_room(folder: Path) -> None:
    store = CheckpointStore(folder, keep=2)
    draft = store.begin(2)
    (draft / "weights.bin").write_bytes(b"w" * 100)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))  # no file may grow beyond: what a full disk does to the list
    with pytest.raises(
        CheckpointError, match=r"step 2 could not be written: .*the last whole one is that of step 1 — make room"
    ):
        store.commit(2, {"state": "x" * 1000})


def test_without_room_the_last_good_one_stays_and_is_named(tmp_path: Path) -> None:
    _write(CheckpointStore(tmp_path, keep=1), 1)
    process = multiprocessing.get_context("spawn").Process(target=_commit_without_room, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert CheckpointStore(tmp_path, keep=1).latest()[0] == 1  # type: ignore[index]
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_a_folder_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    (tmp_path / "checkpoints").write_text("a file, not a folder")
    with pytest.raises(CheckpointError, match="step 1 could not be written: .*there is no other yet"):
        store.begin(1)


def test_a_writer_that_is_killed_leaves_the_one_before(tmp_path: Path) -> None:
    """At every call that changes the disk: whatever was there before is there after."""
    store = CheckpointStore(tmp_path / "whole", keep=1)
    _write(store, 1)
    for calls in range(40):
        folder = tmp_path / f"killed-{calls}"
        shutil.copytree(tmp_path / "whole", folder)
        process = multiprocessing.get_context("fork").Process(target=_write_and_die, args=(folder, calls))
        process.start()
        process.join(60)
        step, _, _ = CheckpointStore(folder, keep=1).latest()  # type: ignore[misc]
        assert step in (1, 2)
        if process.exitcode == 0:
            assert step == 2 and calls > 10  # the witness: it was killed at ten moments at least
            return
    raise AssertionError("it never came to its end")


def _write_and_die(folder: Path, calls: int) -> None:
    import os
    import sys

    remaining = calls

    def watch(event: str, _: tuple) -> None:
        nonlocal remaining
        if event in ("open", "os.mkdir", "os.rename", "os.rmdir", "os.remove", "shutil.rmtree"):
            remaining -= 1
            if remaining < 0:
                os._exit(9)

    sys.addaudithook(watch)
    _write(CheckpointStore(folder, keep=1), 2)
    os._exit(0)
