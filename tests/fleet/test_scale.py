"""Asking for another number of rollout engines: by command, by Python; what is refused, and with which words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zj_ray.cli.main import app
from zj_ray.config.schema import Config
from zj_ray.errors import ConfigError
from zj_ray.runs.folder import Run, want_rollouts, wanted_rollouts
from zj_ray.runs.jobs import scale


def _run(folder: Path) -> Run:
    base = Config()
    return Run.open(folder, replace(base, name=folder.name, fleet=replace(base.fleet, max=5)))


def test_a_wish_stays_in_the_run_folder_until_it_is_taken_back(tmp_path: Path) -> None:
    run = _run(tmp_path / "r")
    assert wanted_rollouts(run.folder) is None
    words = scale("r", 4, runs=tmp_path)
    assert wanted_rollouts(run.folder) == 4 and "4 rollout engines" in words and "when it goes on" in words
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
