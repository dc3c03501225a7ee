"""Metrics that survive kills and resumes, and the summary with exactly its keys."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.helpers.summary import missing_keys
from zj_ray.errors import DataError
from zj_ray.files import write_json
from zj_ray.runs.metrics import MetricLog, read_metrics, versions
from zj_ray.runs.summary import KEYS, read_summary, update_summary


def test_rows_come_back_and_a_value_that_is_not_finite_is_null(tmp_path: Path) -> None:
    log = MetricLog(tmp_path / "sft", None, "sft")
    log.write(1, {"loss": 2.5})
    log.write(2, {"loss": math.nan})
    assert [(r["step"], r["loss"]) for r in read_metrics(tmp_path / "sft" / "metrics.jsonl")] == [(1, 2.5), (2, None)]


def test_a_resumed_stage_has_no_step_twice(tmp_path: Path) -> None:
    log = MetricLog(tmp_path, None, "ppo")
    for step in range(6):
        log.write(step, {"reward": 0.0})
    resumed = MetricLog(tmp_path, None, "ppo")
    resumed.truncate_after(3)
    for step in (4, 5):
        resumed.write(step, {"reward": 1.0})
    assert [(r["step"], r["reward"]) for r in read_metrics(tmp_path / "metrics.jsonl")] == [
        (0, 0),
        (1, 0),
        (2, 0),
        (3, 0),
        (4, 1),
        (5, 1),
    ]


def test_a_line_half_written_by_a_killed_process_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    assert [r["step"] for r in read_metrics(path)] == [1]
    MetricLog(tmp_path, None, "sft").write(2, {"loss": 0.5})
    assert [r["step"] for r in read_metrics(path)] == [1, 2]


def test_damage_inside_the_file_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\ngarbage\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl:2"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricLog(tmp_path / "ppo", tmp_path / "tensorboard", "ppo")
    for step in range(4):
        log.write(step, {"reward": 0.0})
    log.truncate_after(1)
    log.write(2, {"reward": 1.0})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "ppo"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("ppo/reward")] == [(0, 0.0), (1, 0.0), (2, 1.0)]


def test_versions_name_what_a_run_depends_on() -> None:
    assert {"python", "torch", "ray", "transformers"} <= versions().keys()


def test_summary_merges_deeply_and_keeps_what_other_stages_wrote(tmp_path: Path) -> None:
    update_summary(tmp_path, {"stages": {"sft": {"seconds": 3.0, "status": "done"}}, "sft": {"loss_before": 5.0}})
    later = {"stages": {"ppo": {"seconds": 9.0}}, "sft": {"loss_after": math.inf}, "versions": {"ray": "2"}}
    update_summary(tmp_path, later)
    assert read_summary(tmp_path) == {
        "stages": {"sft": {"seconds": 3.0, "status": "done"}, "ppo": {"seconds": 9.0}},
        "sft": {"loss_before": 5.0, "loss_after": None},
        "versions": {"ray": "2"},
    }
    assert json.loads((tmp_path / "summary.json").read_text()) == read_summary(tmp_path)


def test_a_key_that_the_summary_does_not_have_is_refused(tmp_path: Path) -> None:
    for patch in ({"sft": {"loss": 1.0}}, {"stages": {"sfft": {"seconds": 1.0}}}, {"pretrain": 3}):
        with pytest.raises(ValueError, match="has no key"):
            update_summary(tmp_path, patch)
    assert read_summary(tmp_path) == {}


def test_a_key_that_an_older_version_left_is_kept(tmp_path: Path) -> None:
    write_json(tmp_path / "summary.json", {"peak_rss_gib": 9.7, "sft": {"loss_before": 5.0}})
    update_summary(tmp_path, {"sft": {"loss_after": 1.0}})
    assert read_summary(tmp_path) == {"peak_rss_gib": 9.7, "sft": {"loss_before": 5.0, "loss_after": 1.0}}


def test_every_key_that_the_summary_has_can_be_written(tmp_path: Path) -> None:
    assert missing_keys({}) == list(KEYS)
    for key in KEYS:
        patch: object = 0.0
        for part in reversed(key.split(".")):
            patch = {part: patch}
        update_summary(tmp_path, patch)  # type: ignore[arg-type]
    assert missing_keys(read_summary(tmp_path)) == []
