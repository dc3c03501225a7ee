"""Asking for another number of rollout engines: by command, by Python, by HTTP; what is refused, and with which words."""

from __future__ import annotations

import json
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from typer.testing import CliRunner

from zj_ray.cli.main import app
from zj_ray.config.schema import Config
from zj_ray.control import control
from zj_ray.errors import ConfigError
from zj_ray.runs.folder import Run, want_rollouts, wanted_rollouts
from zj_ray.runs.jobs import scale


def _run(folder: Path, http_port: int | None = None) -> Run:
    base = Config()
    return Run.open(folder, replace(base, name=folder.name, fleet=replace(base.fleet, max=5, http_port=http_port)))


def test_a_wish_stays_in_the_run_folder_until_it_is_taken_back(tmp_path: Path) -> None:
    run = _run(tmp_path / "r")
    assert wanted_rollouts(run.folder) is None
    said = scale("r", 4, runs=tmp_path)
    assert wanted_rollouts(run.folder) == 4 and "4 rollout engines" in said and "when it goes on" in said
    scale("r", None, runs=tmp_path)
    assert wanted_rollouts(run.folder) is None


def test_a_wish_that_cannot_be_read_is_named_and_can_be_asked_anew(tmp_path: Path) -> None:
    run = _run(tmp_path / "r")
    for damaged in ("{", "[]", '{"rollouts": "many"}', "{}"):
        (run.folder / "scale.json").write_text(damaged, encoding="utf-8")
        with pytest.raises(ConfigError, match="scale.json"):
            wanted_rollouts(run.folder)
    scale("r", 2, runs=tmp_path)
    assert wanted_rollouts(run.folder) == 2


def test_the_command_says_what_it_did_and_what_it_wants(tmp_path: Path) -> None:
    _run(tmp_path / "r")

    def zj(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["scale", "r", "--runs", str(tmp_path), *words])
        return result.exit_code, result.output

    assert zj("--rollouts", "3") == (0, "r is to have 3 rollout engines, from when it goes on\n")
    assert zj("--auto")[0] == 0
    for words in ((), ("--rollouts", "2", "--auto")):
        code, output = zj(*words)
        assert code == 2 and "give --rollouts N, or --auto, not both" in output
    code, output = zj("--rollouts", "6")
    assert code == 2 and "6 engines are not between fleet.min 1 and fleet.max 5" in " ".join(output.split())


def test_engines_with_fixed_places_are_not_scaled(tmp_path: Path) -> None:
    base = Config()
    run = Run.open(tmp_path / "r", replace(base, ppo=replace(base.ppo, colocate=(("policy", "engines"),))))
    with pytest.raises(ConfigError, match="fixed places"):
        want_rollouts(run, 2)


def test_http_shows_and_sets_the_fleet_for_who_has_the_token(tmp_path: Path) -> None:
    run = _run(tmp_path / "r", http_port=0)
    run.status(fleet=[{"engine": "engine-0", "state": "serving"}])
    with control(run):
        path = run.folder / "control.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        told = json.loads(path.read_text(encoding="utf-8"))
        url, allowed = told["url"] + "/fleet", {"Authorization": f"Bearer {told['token']}"}
        assert told["url"].startswith("http://127.0.0.1:")
        assert requests.get(url, timeout=10).status_code in (401, 403)
        assert (
            requests.put(url, json={"rollouts": 3}, headers={"Authorization": "Bearer guess"}, timeout=10).status_code
            == 401
        )
        assert wanted_rollouts(run.folder) is None
        assert requests.get(url, headers=allowed, timeout=10).json() == {
            "wanted": None,
            "engines": [{"engine": "engine-0", "state": "serving"}],
        }
        assert requests.put(url, json={"rollouts": 3}, headers=allowed, timeout=10).json()["wanted"] == 3
        assert wanted_rollouts(run.folder) == 3
        refused = requests.put(url, json={"rollouts": 9}, headers=allowed, timeout=10)
        assert refused.status_code == 422 and "fleet.max 5" in refused.text and wanted_rollouts(run.folder) == 3
        assert requests.put(url, json={"rollouts": "many"}, headers=allowed, timeout=10).status_code == 422
        assert requests.put(url, json={"rollouts": None}, headers=allowed, timeout=10).json()["wanted"] is None
    assert not path.exists()
    with pytest.raises(requests.ConnectionError):
        requests.get(url, headers=allowed, timeout=10)


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        other.listen()
        with (
            pytest.raises(ConfigError, match=f"fleet.http_port: can't listen on 127.0.0.1:{port}"),
            control(_run(tmp_path / "r", http_port=port)),
        ):
            pass


def test_without_a_port_nothing_listens(tmp_path: Path) -> None:
    run = _run(tmp_path / "r")
    with control(run):
        assert not (run.folder / "control.json").exists()
