"""A run that was started before keys moved is opened, resumed and listed; its owner freezes the config anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.config.test_moved import EARLIER
from zj_ray.cli.main import app
from zj_ray.config import dump_config, load_config
from zj_ray.errors import ConfigError
from zj_ray.runs.folder import Run

TODAY = """\
name: det
consultation: {max_turns: 3, turn_tokens: 48, temperature: 0.7, timeout: 900}
ppo: {steps: 4, consultations: 8, safety_share: 0.5}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a run that an earlier version started."""
    folder = tmp_path / "runs" / "det"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(EARLIER, encoding="utf-8")
    (tmp_path / "det.yaml").write_text(TODAY, encoding="utf-8")
    return folder


def test_it_is_resumed_with_the_keys_of_today_and_frozen_anew(folder: Path, tmp_path: Path) -> None:
    config = load_config(tmp_path / "det.yaml")
    with Run.open(folder, config).running():
        pass
    assert (folder / "config.yaml").read_text(encoding="utf-8") == dump_config(config)
    assert load_config(folder / "config.yaml") == config


def test_another_value_at_the_new_place_is_refused_as_ever(folder: Path, tmp_path: Path) -> None:
    config = load_config(tmp_path / "det.yaml", ["consultation.turn_tokens=32"])
    with pytest.raises(ConfigError, match="consultation.turn_tokens is 32, but this run was started with 48"):
        Run.open(folder, config)


def test_readers_leave_it_as_it_is(folder: Path) -> None:
    assert Run.load(folder).config.consultation.turn_tokens == 48
    answer = CliRunner().invoke(app, ["status", "det", "--runs", str(folder.parent)])
    assert answer.exit_code == 0, answer.output
    assert (folder / "config.yaml").read_text(encoding="utf-8") == EARLIER


def test_it_may_be_continued_by_its_own_config(folder: Path) -> None:
    (folder / "run.json").write_text("{}", encoding="utf-8")
    answer = CliRunner().invoke(app, ["run", str(folder / "config.yaml"), "--dry-run"])
    assert answer.exit_code == 0 and "  turn_tokens: 48\n" in answer.output
