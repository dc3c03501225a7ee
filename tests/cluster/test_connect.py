"""Joining Ray: tokens and addresses, as far as that needs no Ray (runs/test_jobs.py joins a real one)."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from zj_ray.cluster.connect import auth_token, connect
from zj_ray.config.schema import RayConfig
from zj_ray.errors import ConfigError, WaitTimeout, ZjError

RAY_VARIABLES = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def test_the_token_is_read_where_ray_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RAY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert auth_token() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("default\n")
    assert auth_token() == "default"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "missing"))
    with pytest.raises(ZjError, match="RAY_AUTH_TOKEN_PATH"):
        auth_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "named")
    assert auth_token() == "named"
    for mode in ("disabled", "DISABLED"):
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        assert auth_token() is None


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "http://127.0.0.1:8265", "head"])
def test_an_address_of_the_wrong_kind_is_refused_before_ray_sees_it(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ray.address"), connect(RayConfig(address=address), log_folder=tmp_path):
        pass


def test_joining_where_nobody_listens_fails_within_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    started = time.monotonic()
    with (
        pytest.raises(WaitTimeout, match="no Ray answers"),
        connect(RayConfig(address=f"127.0.0.1:{port}"), log_folder=tmp_path),
    ):
        pass
    assert time.monotonic() - started < 15
