"""The whole pipeline through the `zj` command: real Ray, DeepSpeed, vLLM and Ray Serve."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import psutil
import pytest

from tests.helpers.driver import zj
from tests.helpers.pipeline import CONFIG, LIMIT, NAME, FinishedRun
from tests.helpers.summary import missing_keys
from zj_ray.config.schema import STAGES
from zj_ray.files import read_jsonl
from zj_ray.runs.metrics import read_metrics

pytestmark = pytest.mark.timeout(LIMIT + 60)
STEPS, CONSULTATIONS = 8, 6


def test_every_stage_is_done_and_the_summary_lacks_no_key(finished: FinishedRun) -> None:
    summary = json.loads((finished.folder / "summary.json").read_text(encoding="utf-8"))
    stages = [stage for stage in STAGES if stage != "serve"]
    assert {stage: summary["stages"][stage]["status"] for stage in stages} == dict.fromkeys(stages, "done")
    # A model of two layers may ask nothing at all; then there are no facts for each question, and that is null.
    unasked = {f"evaluate.new_facts_per_question_{stage}" for stage in ("sft", "ppo")}
    assert set(missing_keys(summary)) <= unasked | {"stages.serve.status", "stages.serve.seconds"}
    assert summary["ppo"]["steps"] == STEPS
    assert summary["pretrain"]["ppl_after"] < summary["pretrain"]["ppl_before"]
    assert summary["logprob_mismatch"]["mean_abs"] < 1e-4 and summary["weight_sync"]["checksum_failures"] == 0
    assert summary["weight_sync"]["bytes"] > 100_000 and 3 < finished.peak_gib < 14


def test_without_patience_every_step_is_trained_and_the_last_weights_stay(finished: FinishedRun) -> None:
    manifest = json.loads((finished.folder / "sft" / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["steps"], manifest["kept"], manifest["held_out"]) == (50, 50, [])


def test_every_step_has_its_consultations_and_each_once(finished: FinishedRun) -> None:
    steps = [row["step"] for row in read_metrics(finished.folder / "ppo" / "metrics.jsonl")]
    assert steps == list(range(1, STEPS + 1))
    rows = [row for _, row in read_jsonl(finished.folder / "ppo" / "rollouts.jsonl")]
    held = {(row["step"], row["prompt_id"], row["sample"]) for row in rows}
    assert len(rows) == len(held) == STEPS * CONSULTATIONS


def test_every_consultation_has_three_doctor_turns_on_the_version_that_was_current(finished: FinishedRun) -> None:
    rows = [row for _, row in read_jsonl(finished.folder / "ppo" / "rollouts.jsonl")]
    for row in rows:
        assert len({turn["weight_version"] for turn in row["turns"]}) == 1
        if row["kind"] == "case":
            assert len(row["turns"]) == 3
    versions = {row["step"]: row["turns"][0]["weight_version"] for row in rows}
    assert len(set(versions.values())) == STEPS  # a new version on every step


def test_models_and_report_are_there(finished: FinishedRun) -> None:
    for stage in ("pretrain", "sft", "ppo"):
        for file in ("model.safetensors", "tokenizer.json"):
            assert (finished.folder / stage / "model" / file).is_file()
    report = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "<svg" in report and "http://" not in report.replace("http://www.w3.org", "")


@pytest.mark.slow
def test_the_same_command_serves_what_the_run_has_trained(finished: FinishedRun, tmp_path: Path) -> None:
    """All that the config asks for is done; with `serve` among its stages the command does that alone."""
    runs, config, log = tmp_path / "runs", tmp_path / "exact.yaml", tmp_path / "zj.log"
    shutil.copytree(finished.runs, runs, symlinks=True)
    config.write_text(CONFIG, encoding="utf-8")
    served = ["--set", f"stages=[{', '.join(STAGES)}]", "--set", "serve.port=0"]
    assert zj("run", config, *served, "--runs", runs, log=log).wait(LIMIT) == 0, log.read_text()[-3000:]
    assert "evaluate: done already" in log.read_text(encoding="utf-8")
    manifest = json.loads((runs / NAME / "serve" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["answer"].strip()


def test_no_process_of_the_run_is_left(finished: FinishedRun) -> None:
    deadline = time.monotonic() + 30
    while left := [
        process.info["cmdline"]
        for process in psutil.process_iter(["cmdline"])
        if str(finished.folder) in " ".join(process.info["cmdline"] or [])
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(1)
