"""The whole pipeline through the `zj` command, killed in PPO and resumed: real Ray, DeepSpeed, vLLM and Ray Serve."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from bench.memory import PeakMemory
from tests.helpers.driver import kill_driver, zj
from zj_ray.config.schema import STAGES
from zj_ray.files import read_jsonl
from zj_ray.runs.metrics import read_metrics
from zj_ray.runs.summary import missing_keys

CONFIG = """
name: mini
data: {clinic: {consultations: 60, single_turn: 40, passages: 40, cases: 40}}
model:
  max_length: 384
  tiny: {vocab_size: 600, hidden_size: 64, layers: 2, heads: 1, intermediate_size: 128}
pretrain: {max_steps: 3, batch_tokens: 1024, micro_batch_tokens: 512}
sft: {max_steps: 4, batch_tokens: 1024, micro_batch_tokens: 512, optimizer: muon, zero_stage: 0}
feedback: {prompts: 20}
reward: {epochs: 1, batch_tokens: 2048}
fleet: {kv_cache_mb: 64, max_in_flight: 16}
consultation: {turn_tokens: 16, max_turns: 3}
ppo: {steps: 4, consultations: 6, checkpoint_every: 2, critic_warmup: 0}
evaluate: {cases: 6, safety_prompts: 6, controls: 6, bootstrap: 200}
serve: {port: 0}
"""
TIMEOUT = 900
pytestmark = pytest.mark.timeout(2 * TIMEOUT)


@dataclass(frozen=True)
class Story:
    folder: Path
    killed_at: int  # PPO steps recorded when the run was killed
    exit_status: int
    output: str
    peak_gib: float  # resident memory while the second run worked


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    root = tmp_path_factory.mktemp("pipeline")
    (root / "mini.yaml").write_text(CONFIG, encoding="utf-8")
    folder = root / "runs" / "mini"
    first = _start(root, "first.log")
    killed_at = _kill_in_ppo(first, folder, root / "first.log")
    with PeakMemory() as memory:
        status = _start(root, "second.log").wait(timeout=TIMEOUT)
    yield Story(folder, killed_at, status, (root / "second.log").read_text(encoding="utf-8"), memory.peak_gib)


def _start(root: Path, log: str) -> subprocess.Popen[bytes]:
    return zj("run", root / "mini.yaml", "--runs", root / "runs", log=root / log)


def _kill_in_ppo(process: subprocess.Popen[bytes], folder: Path, log: Path) -> int:
    """SIGKILL the driver once PPO has a checkpoint and has gone on after it; returns the steps it had recorded."""
    metrics, deadline = folder / "ppo" / "metrics.jsonl", time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the run ended before it could be killed:\n{log.read_text()[-3000:]}"
        if (folder / "ppo" / "checkpoints" / "step-000002").is_dir() and len(read_metrics(metrics)) >= 3:
            kill_driver(process)
            return len(read_metrics(metrics))
        time.sleep(0.05)
    raise AssertionError(f"PPO did not get to step 3:\n{log.read_text()[-3000:]}")


@pytest.mark.resume
def test_a_run_killed_in_ppo_goes_on_from_its_checkpoint_to_the_end(story: Story) -> None:
    assert story.exit_status == 0, story.output[-3000:]
    assert story.killed_at >= 3  # the witness: work after the checkpoint was lost
    steps = [row["step"] for row in read_metrics(story.folder / "ppo" / "metrics.jsonl")]
    assert steps == [1, 2, 3, 4]
    rollouts = [
        (row["step"], row["prompt_id"], row["sample"]) for _, row in read_jsonl(story.folder / "ppo" / "rollouts.jsonl")
    ]
    assert len(rollouts) == len(set(rollouts)) == 4 * 6
    for stage in ("pretrain", "sft", "feedback", "reward"):
        assert f"{stage}: done already" in story.output


def test_every_stage_is_done_and_the_summary_lacks_no_key(story: Story) -> None:
    summary = json.loads((story.folder / "summary.json").read_text(encoding="utf-8"))
    assert {stage: summary["stages"][stage]["status"] for stage in STAGES} == dict.fromkeys(STAGES, "done")
    # A model of two layers may ask nothing at all; then there are no facts for each question, and that is null.
    assert set(missing_keys(summary)) <= {"evaluate.new_facts_per_question_sft", "evaluate.new_facts_per_question_ppo"}
    assert summary["ppo"]["steps"] == 4 and summary["pretrain"]["ppl_after"] < summary["pretrain"]["ppl_before"]
    assert summary["logprob_mismatch"]["mean_abs"] < 1e-4 and summary["weight_sync"]["checksum_failures"] == 0
    assert summary["weight_sync"]["bytes"] > 100_000 and 0.5 < story.peak_gib < 14


def test_every_consultation_has_three_doctor_turns_on_the_version_that_was_current(story: Story) -> None:
    rows = [row for _, row in read_jsonl(story.folder / "ppo" / "rollouts.jsonl")]
    for row in rows:
        assert len({turn["weight_version"] for turn in row["turns"]}) == 1
        if row["kind"] == "case":
            assert len(row["turns"]) == 3
    versions = {row["step"]: row["turns"][0]["weight_version"] for row in rows}
    assert len(set(versions.values())) == 4  # a new version on every step


def test_models_and_report_are_there_and_the_served_model_answered(story: Story) -> None:
    for stage in ("pretrain", "sft", "ppo"):
        assert (story.folder / stage / "model" / "model.safetensors").is_file() and (
            story.folder / stage / "model" / "tokenizer.json"
        ).is_file()
    report = (story.folder / "report.html").read_text(encoding="utf-8")
    assert "<svg" in report and "http://" not in report.replace("http://www.w3.org", "")
    manifest = json.loads((story.folder / "serve" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["answer"].strip()


def test_no_process_of_the_run_is_left(story: Story) -> None:
    deadline = time.monotonic() + 30
    while left := [
        p.info["cmdline"]
        for p in psutil.process_iter(["cmdline"])
        if str(story.folder) in " ".join(p.info["cmdline"] or [])
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(1)
