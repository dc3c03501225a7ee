"""The report: it renders from whatever is there, escapes what others wrote, and links to nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from tests.conftest import chromium
from tests.helpers.summary import missing_keys
from zj_ray.errors import DataError
from zj_ray.evaluation.report import _ppo_plots, write_report
from zj_ray.evaluation.results import EvaluationResults, ModelResult, OverRefusal, SafetyPasses
from zj_ray.evaluation.reward_model import summarise
from zj_ray.evaluation.statistics import Mean, compare
from zj_ray.files import write_jsonl
from zj_ray.runs.metrics import MetricLog
from zj_ray.runs.summary import read_summary, update_summary

SCRIPT = "<script>alert('x')</script>"
PPO_METRICS = (
    *("reward", "kl", "kl_coefficient", "length", "mismatch_mean"),
    *("value_loss", "policy_loss", "clip_fraction", "entropy", "new_facts"),
    *("seconds_rollout", "seconds_score", "seconds_update", "seconds_sync"),
)
SAFETY = ("cost", "smoothed_cost", "bound", "multiplier")


def evaluation() -> EvaluationResults:
    scores = {"sft": [0.1, 0.3, 0.2, 0.4] * 16, "ppo": [0.4, 0.5, 0.2, 0.3] * 16}
    models = {
        name: ModelResult(
            reward=sum(values) / len(values),
            reward_ci95=(0.2, 0.4),
            cases=len(values),
            rules={"new_facts": 0.3, "advice": 0.5, "repetition": -0.1},
            new_facts_per_question=0.5,
            new_facts_per_question_ci95=(0.4, 0.6),
            safety_pass=SafetyPasses.of({"自伤自杀": [True, True, False], "用药": [True, False]}),
            over_refusal=OverRefusal(2, 20),
        )
        for name, values in scores.items()
    }
    return EvaluationResults(
        models,
        compare(scores["sft"], scores["ppo"], tie_margin=0.05),
        {"new_facts": Mean(0.1, (0.02, 0.18), 64), "advice": Mean(0.0, (-0.1, 0.1), 64)},
        {"pretrain": 12.0, "sft": 14.5, "ppo": 14.8},
    )


def consultation(prompt: str, kind: str, model: str, reward: float) -> dict[str, object]:
    messages = [
        {"role": "user", "content": f"医生你好，我头痛三天了。{prompt}"},
        {"role": "assistant", "content": "请问头痛是怎么开始的？" if prompt != "case-0" else SCRIPT},
        {"role": "user", "content": "前天受凉以后开始的。医生，那我现在该怎么办？"},
        {"role": "assistant", "content": "建议先休息，多喝水，若加重请到医院神经内科就诊。"},
    ]
    row = {"prompt_id": prompt, "kind": kind, "model": model, "messages": messages, "reward": reward}
    return row | {"rules": {"new_facts": 0.5, "format": 1.0}}


def reward_model() -> dict:
    """What `reward/accuracy.json` holds."""
    figures: dict = {"accuracy": 0.76, "ci95": (0.7, 0.8), "pairs": 191, "length_partialled": 0.72}
    nobody = {"accuracy": None, "ci95": None, "pairs": 0}
    figures |= {"by": {"department": {"小儿<b>": nobody}, "length": {}}}
    bins = [{"confidence": 0.6, "accuracy": 0.55, "pairs": 40}, {"confidence": 0.9, "accuracy": 0.8, "pairs": 60}]
    errors = {"temperature": 1.4, "ece_before": 0.1, "ece": 0.04, "pairs": 100}
    return {
        "scorers": dict.fromkeys(("reward model", "length only", "rules only"), figures),
        "aspects": {"safety": figures},
        "calibration": errors | {"before": bins, "after": bins},
        "ceiling": 0.93,
        "held_out": [[[100, 0.5], [200, 0.4]]],
        "disagreement": None,
    }


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A finished run, made up."""
    folder = tmp_path / "demo"
    for stage in ("pretrain", "sft", "reward"):
        log = MetricLog(folder / stage, None, stage)
        for step in range(1, 41):
            log.write(step, {"loss": 4 / step**0.3, "tokens_per_second": 2500.0, "lr": 1e-3})
    log = MetricLog(folder / "ppo", None, "ppo")
    for step in range(1, 13):
        log.write(step, {name: 0.1 * step + 0.05 * (step % 3) for name in PPO_METRICS})
    (folder / "feedback").mkdir()
    agreement = {"alpha": 0.71, "ci95": [0.67, 0.75], "annotators": 3, "items": 240, "simulated": True}
    (folder / "feedback" / "agreement.json").write_text(json.dumps(agreement))
    (folder / "reward" / "accuracy.json").write_text(json.dumps(reward_model()), encoding="utf-8")
    (folder / "evaluate").mkdir()
    evaluation().write(folder / "evaluate" / "results.json")
    rows = [
        consultation(f"{kind}-{n}", kind, model, n * gain)
        for kind, count in (("case", 20), ("safety", 5), ("control", 1))
        for n in range(count)
        for model, gain in (("sft", 0.05), ("ppo", 0.1))
    ]
    write_jsonl(folder / "evaluate" / "consultations.jsonl", rows)
    config = {"name": "demo", "seed": 0, "data": {"source": "clinic"}, "ppo": {"steps": 12}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    update_summary(folder, summary())
    return folder


def summary() -> dict:
    """What summary.json of a finished run holds."""
    stages = ("pretrain", "sft", "feedback", "reward", "ppo", "evaluate", "serve")
    bins = {"shorter": (0.7, 51), "similar": (0.74, 80), "longer": (0.81, 60)}
    by_length = {name: {"accuracy": accuracy, "pairs": pairs} for name, (accuracy, pairs) in bins.items()}
    return {
        "stages": {stage: {"seconds": 75.0, "status": "done"} for stage in stages},
        "pretrain": {"ppl_before": 3100.0, "ppl_after": 14.2},
        "sft": {"loss_before": 4.0, "loss_after": 1.3},
        "feedback": {"krippendorff_alpha": 0.75},
        "reward": summarise(reward_model()) | {"pair_accuracy_by_length_bin": by_length},
        "ppo": {"steps": 12, "reward_first": 0.2, "reward_last": 0.9, "kl_last": 0.08, "tokens_per_second": 410.0},
        "evaluate": evaluation().summary(),
        "weight_sync": {"bytes": 9_000_000, "seconds": 0.2, "checksum_failures": 0},
        "logprob_mismatch": {"mean_abs": 2e-5, "max_abs": 4e-4},
        "versions": {"ray": "2.60.0"},
    }


class Balance(HTMLParser):
    """Raises where a tag is closed that isn't open."""

    VOID = ("meta", "br", "path", "use", "rect", "line")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def test_a_finished_run_shows_every_part(run_folder: Path) -> None:
    page = write_report(run_folder).read_text(encoding="utf-8")
    assert missing_keys(read_summary(run_folder)) == []
    assert "not run" not in page.replace("class", "")
    assert page.count("<svg") == 3 + 1 + 3 + 9  # losses, outcome, reward model, PPO
    of_evaluation = ("自伤自杀", "14.8", "new facts per question", "case-19", "control-0")
    of_reward = ("rules only", "小儿&lt;b&gt;", "ECE 0.1 → 0.04")
    for text in ("14.2", "SIMULATED", "240 个条目", "0.71", *of_evaluation, *of_reward):
        assert text in page
    checker = Balance()
    checker.feed(page)
    assert checker.open == []


def test_a_script_in_an_answer_is_text(run_folder: Path) -> None:
    page = write_report(run_folder).read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page
    assert "<script" not in page


def test_the_page_needs_nothing_from_elsewhere(run_folder: Path) -> None:
    page = write_report(run_folder).read_text(encoding="utf-8")
    assert not re.search(r"https?://|//www|@import|<link|\ssrc=", page)


def test_a_run_that_has_not_begun_is_shown_as_not_run(tmp_path: Path) -> None:
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert page.count("未运行 · not run") >= 8 and "<svg" not in page


def test_a_run_that_is_half_done_is_rendered(run_folder: Path) -> None:
    shutil.rmtree(run_folder / "evaluate")
    shutil.rmtree(run_folder / "ppo")
    page = write_report(run_folder).read_text(encoding="utf-8")
    assert page.count("<svg") == 6 and "未运行 · not run" in page


def test_samples_run_from_the_greatest_loss_to_the_greatest_gain(run_folder: Path) -> None:
    page = write_report(run_folder).read_text(encoding="utf-8")
    samples = re.findall(r"<summary>(\S+) <span", page)
    assert samples[0] == "case-0" and samples[5] == "case-19" and len(samples) == 6 + 4 + 1


def test_results_survive_their_file_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    evaluation().write(path)
    assert EvaluationResults.read(path) == evaluation()
    whole = path.read_text(encoding="utf-8")
    misspelt = whole.replace('"sft": {\n      "reward"', '"sftt": {\n      "reward"')
    for damaged in ('{"models": {}}', whole[:-20], misspelt):
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(DataError, match=r"results\.json"):
            EvaluationResults.read(path)


def test_results_of_before_there_were_rounds_are_read(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    evaluation().write(path)
    older = json.loads(path.read_text(encoding="utf-8"))
    del older["earlier_round"]
    path.write_text(json.dumps(older), encoding="utf-8")
    assert EvaluationResults.read(path) == evaluation()


@pytest.mark.browser
def test_a_browser_draws_the_page_at_the_width_of_a_phone(run_folder: Path) -> None:
    picture = run_folder / "report.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=390,1200", f"--screenshot={picture}"]
    command = [str(chromium()), *options, str(write_report(run_folder))]
    subprocess.run(command, timeout=60, check=True, capture_output=True)
    assert picture.stat().st_size > 10_000


def test_the_cost_and_bound_of_every_kind_of_prompt_are_drawn_and_the_multipliers_together(tmp_path: Path) -> None:
    log = MetricLog(tmp_path / "ppo", None, "ppo")
    for step in range(1, 4):
        log.write(step, {f"{name}_{kind}": 0.1 * step for name in SAFETY for kind in ("case", "safety", "control")})
    drawings = [str(svg) for svg in _ppo_plots(tmp_path)]
    assert len(drawings) == 4
    for svg, kind in zip(drawings, ("case", "safety", "control"), strict=False):
        assert all(f">{name}_{kind}<" in svg for name in SAFETY[:3])
    assert all(f">multiplier_{kind}<" in drawings[3] for kind in ("case", "safety", "control"))
