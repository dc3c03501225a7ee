"""Keys of earlier versions: refused with their new place in what a user writes, read in what a run has frozen."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from zj_ray.config import Config, dump_config, explain, load_config
from zj_ray.config.moved import BEFORE, MOVED, REMOVED
from zj_ray.errors import ConfigError

# As the version before the section `consultation` wrote it, without sections that are as they were.
EARLIER = """\
name: det
seed: 0
stages: [pretrain, sft, feedback, reward, ppo, evaluate, serve]
checkpoints: null
fleet:
  initial: 2
  min: 1
  max: 8
  autoscale: false
  # idle_seconds: 300.0  # no effect: fleet.autoscale is off, so no engine is let go because it is idle
  http_port: null
  engine_cpus: 0.25
ppo:
  steps: 4
  init: sft
  consultations: 8
  safety_share: 0.5
  max_turns: 3
  turn_tokens: 48
  temperature: 0.7
  max_staleness: 0
  top_p: 1.0
  keep_every: 0
  rollout_timeout: 900.0
  role_timeout: 1800.0
"""


def write(folder: Path, text: str) -> Path:
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return folder / "config.yaml"


@pytest.mark.parametrize("key", MOVED)
def test_a_key_that_moved_is_refused_with_its_new_place(key: str, tmp_path: Path) -> None:
    section, _, name = key.partition(".")
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, f"name: a\n{section}:\n  {name}: 3\n"))
    assert (caught.value.what, caught.value.remedy) == (f"'{key}' moved", f"write {MOVED[key]}")
    assert caught.value.where == f"{tmp_path / 'config.yaml'}:3"


@pytest.mark.parametrize("key", REMOVED)
def test_a_key_that_is_gone_is_refused_with_what_to_do_instead(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--set {key}=1: '{key}' is gone — leave it out"):
        load_config(write(tmp_path, "name: a\n"), [f"{key}=1"])


def test_the_new_places_exist_and_the_old_ones_do_not() -> None:
    text = explain(Config)
    assert all(f"  {key}: " in text for key in MOVED.values())
    assert not any(f"  {key}: " in text for key in (*MOVED, *REMOVED))


def test_a_frozen_config_of_before_is_read_at_the_new_places(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, EARLIER)
    with caplog.at_level(logging.WARNING):
        config = load_config(path, frozen=True)
    talk = config.consultation
    assert (talk.max_turns, talk.turn_tokens, talk.temperature, talk.timeout) == (3, 48, 0.7, 900.0)
    assert (config.ppo.consultations, config.evaluate.temperature) == (8, 1.0)
    assert len(caplog.messages) == 1 and str(path) in caplog.text
    assert all(f"{old} is now {new}" in caplog.text for old, new in MOVED.items())
    assert all(f"{old} is gone" in caplog.text for old in REMOVED)
    assert all(f"{new} did not exist, which is {value}" in caplog.text for new, value in BEFORE.items())
    assert config.ppo.safety.method == "weight"
    assert load_config(write(tmp_path, dump_config(config))) == config


def test_a_frozen_config_of_today_is_read_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_config(write(tmp_path, dump_config(Config())), frozen=True) == Config()
    assert not caplog.messages


def test_a_run_of_before_the_constraint_goes_on_as_a_weighted_sum_with_the_weights_it_had(tmp_path: Path) -> None:
    before = "name: a\nppo:\n  steps: 4\n  mix:\n    safety: 1.5\n    unsafe: -2.0\n"
    ppo = load_config(write(tmp_path, before), frozen=True).ppo
    assert (ppo.safety.method, ppo.mix.safety, ppo.mix.unsafe) == ("weight", 1.5, -2.0)
    with pytest.raises(ConfigError, match="'ppo.mix.safety' has no effect: ppo.safety.method is constraint"):
        load_config(write(tmp_path, before))


def test_an_override_of_a_frozen_config_must_use_the_new_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'ppo.turn_tokens' moved — write consultation.turn_tokens"):
        load_config(write(tmp_path, EARLIER), ["ppo.turn_tokens=3"], frozen=True)
