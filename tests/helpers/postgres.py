"""A real PostgreSQL for tests: Debian's, in a folder of its own, stopped at the end. It refuses to run as root."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The URL of a server with an empty database `labels`; skips the test where PostgreSQL is not installed."""
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL here (initdb); install Debian's postgresql package")
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="zj-pg-"))
    try:
        if as_user:
            shutil.chown(folder, "postgres")
        _run(
            [
                *as_user,
                programs / "initdb",
                "-D",
                folder / "data",
                "-U",
                "zj",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--no-locale",
            ],
            folder,
        )
        port = _free_port()
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c max_connections=100"
        control = [*as_user, programs / "pg_ctl", "-D", folder / "data", "-w", "-t", "60"]
        _run([*control, "-l", folder / "log", "-o", options, "start"], folder)
        try:
            yield f"postgresql+psycopg://zj@127.0.0.1:{port}/postgres"
        finally:
            _run([*control, "-m", "immediate", "stop"], folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fresh_database(server: str) -> str:
    """The URL of a new, empty database."""
    name = f"labels_{secrets.token_hex(8)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{server.rpartition('/')[0]}/{name}"


def _run(command: list, folder: Path) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
