"""Checkpoints below an fsspec URL: whole or not there, and fetched by a machine that has none."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from moto.server import ThreadedMotoServer

from tests.training.test_checkpoint import FILES, _write
from zj_ray.errors import CheckpointError, ConfigError
from zj_ray.training.checkpoint import LIST
from zj_ray.training.checkpoint_copy import RemoteStore


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket of an S3 server on this machine, which s3fs reaches over HTTP as it would Amazon's."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "ENDPOINT_URL": f"http://{host}:{port}",
            "ACCESS_KEY_ID": "for",
            "SECRET_ACCESS_KEY": "tests",
        }.items():
            patch.setenv(f"AWS_{name}", value)
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(params=["memory", "file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/bucket/ppo"
        return
    bucket = request.getfixturevalue("s3") if request.param == "s3" else "memory://bucket"
    yield f"{bucket}/run/ppo"
    files, _ = fsspec.core.url_to_fs(bucket)
    files.rm("bucket/run", recursive=True)


def test_another_machine_fetches_the_newest_and_both_keep_the_same(url: str, tmp_path: Path) -> None:
    store = RemoteStore(url, tmp_path / "here", keep=2, keep_best=1)
    assert store.latest() is None
    for step, score in enumerate([0.1, 0.9, 0.3, 0.2], start=1):
        _write(store, step, score)
    assert store.steps() == store.steps_there() == [2, 3, 4]
    elsewhere = RemoteStore(url, tmp_path / "elsewhere", keep=2, keep_best=1)
    step, folder, state = elsewhere.latest()  # type: ignore[misc]
    assert step == state["step"] == 4 and folder.parent == tmp_path / "elsewhere" and elsewhere.steps() == [4]
    assert all((folder / name).read_bytes() == text + b"4" for name, text in FILES.items())
    _write(elsewhere, 5, 0.0)
    assert elsewhere.steps_there() == [2, 4, 5]  # the best is known there, though it was never here
    best = elsewhere.at(2)
    assert all((best / name).read_bytes() == text + b"2" for name, text in FILES.items())
    with pytest.raises(CheckpointError, match="step-000003"):
        elsewhere.at(3)


def test_a_copy_that_is_damaged_or_without_its_list_is_passed_over(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = RemoteStore(url, tmp_path / "here", keep=3)
    for step in (1, 2, 3):
        _write(store, step)
    files, root = fsspec.core.url_to_fs(url)
    files.rm_file(f"{root}/step-000003/{LIST}")
    name = f"{root}/step-000002/policy/rank-00000.json"
    files.pipe_file(name, files.cat_file(name)[:-1] + b"?")
    shutil.rmtree(tmp_path / "here")
    assert store.latest()[0] == 1  # type: ignore[index]
    assert "step-000002: policy/rank-00000.json is not what was written" in caplog.text


def test_a_copy_that_is_cut_off_anywhere_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection fails at each call in turn."""
    calls, limit = itertools.count(), [10**9]

    def failing(name: str) -> None:
        whole = getattr(MemoryFileSystem, name)

        def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
            if next(calls) >= limit[0]:
                raise ConnectionError("gone for this test")
            return whole(self, *arguments, **keywords)

        monkeypatch.setattr(MemoryFileSystem, name, call)

    for name in ("put_file", "rm_file", "rm", "info"):
        failing(name)
    cut = 0
    for n in range(100):
        calls = itertools.count()
        limit[0] = 10**9
        url = f"memory://cut/{n}"
        store = RemoteStore(url, tmp_path / f"here-{n}", keep=1)
        _write(store, 1)
        calls, limit[0] = itertools.count(), n
        try:
            _write(store, 2)
        except CheckpointError as error:
            assert "step 2 could not be copied: gone for this test" in str(error)
            cut += 1
        limit[0] = 10**9
        assert store.latest()[0] == 2  # type: ignore[index]  # here it is whole
        newest = RemoteStore(url, tmp_path / f"elsewhere-{n}", keep=1).latest()
        assert newest is not None and newest[0] in (1, 2)
        if cut == n:
            assert n > 5  # the witness
            return
    raise AssertionError("it never came to its end")


def test_a_url_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="checkpoints: 'nowhere://bucket' can't be opened"):
        RemoteStore("nowhere://bucket", tmp_path, keep=1)
