"""The whole pipeline through the `zj` command: real Ray, DeepSpeed, vLLM and Ray Serve."""

from __future__ import annotations

import json
import time

import psutil
import pytest

from tests.helpers.pipeline import LIMIT, FinishedRun
from tests.helpers.summary import missing_keys
from zj_ray.config.schema import STAGES
from zj_ray.files import read_jsonl
from zj_ray.runs.metrics import read_metrics

pytestmark = pytest.mark.timeout(LIMIT + 60)
STEPS, CONSULTATIONS = 8, 6


def test_every_stage_is_done_and_the_summary_lacks_no_key(finished: FinishedRun) -> None:
    summary = json.loads((finished.folder / "summary.json").read_text(encoding="utf-8"))
    assert {stage: summary["stages"][stage]["status"] for stage in STAGES} == dict.fromkeys(STAGES, "done")
    # A model of two layers may ask nothing at all; then there are no facts for each question, and that is null.
    assert set(missing_keys(summary)) <= {"evaluate.new_facts_per_question_sft", "evaluate.new_facts_per_question_ppo"}
    assert summary["ppo"]["steps"] == STEPS
    assert summary["pretrain"]["ppl_after"] < summary["pretrain"]["ppl_before"]
    assert summary["logprob_mismatch"]["mean_abs"] < 1e-4 and summary["weight_sync"]["checksum_failures"] == 0
    assert summary["weight_sync"]["bytes"] > 100_000 and 0.5 < finished.peak_gib < 14


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


def test_models_and_report_are_there_and_the_served_model_answered(finished: FinishedRun) -> None:
    for stage in ("pretrain", "sft", "ppo"):
        for file in ("model.safetensors", "tokenizer.json"):
            assert (finished.folder / stage / "model" / file).is_file()
    report = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "<svg" in report and "http://" not in report.replace("http://www.w3.org", "")
    manifest = json.loads((finished.folder / "serve" / "manifest.json").read_text(encoding="utf-8"))
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
