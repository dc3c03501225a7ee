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
from rich.console import Console

from tests.conftest import chromium
from tests.helpers.evaluation import results
from tests.helpers.summary import missing_keys
from zj_ray.errors import DataError
from zj_ray.evaluation import headline
from zj_ray.evaluation.report import _ppo_plots, write_report
from zj_ray.evaluation.results import EvaluationResults
from zj_ray.evaluation.reward_model import summarise
from zj_ray.files import write_jsonl
from zj_ray.runs.metrics import MetricLog
from zj_ray.runs.summary import read_summary, update_summary

SCRIPT = "<script>alert('x')</script>"
FELL = {"safety_pass": -0.2, "right_department": -0.004, "facts_recall": 0.1, "reward": 1.0}
PPO_METRICS = (
    *("reward", "kl", "kl_coefficient", "length", "mismatch_mean"),
    *("value_loss", "policy_loss", "clip_fraction", "entropy", "new_facts"),
    *("seconds_rollout", "seconds_score", "seconds_update", "seconds_sync"),
)
SAFETY = ("cost", "smoothed_cost", "bound", "multiplier")


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
    errors = {"temperature": 1.4, "ece_before": 0.1, "ece": 0.04, "ece_ci95": (0.02, 0.07), "pairs": 100}
    return {
        "scorers": dict.fromkeys(("reward model", "length only", "rules only"), figures),
        "aspects": {"safety": figures},
        "calibration": errors | {"before": bins, "after": bins},
        "ceiling": figures | {"accuracy": 0.93},
        "unseen_answers": {"reward model": figures | {"accuracy": 0.66, "pairs": 57}},
        "model_less_rules": {"difference": 0.031, "ci95": (-0.01, 0.07), "pairs": 191},
        "verbatim": {"answers": 400, "in_training": 190},
        "questions": 83,
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
    results(FELL).write(folder / "evaluate" / "results.json")
    rows = [
        consultation(f"{kind}-{n}", kind, model, n * gain)
        for kind, count in (("case", 20), ("new_case", 3), ("safety", 5), ("control", 1))
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
        "evaluate": results(FELL).summary(),
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
    of_reward = ("rules only", "小儿&lt;b&gt;", "ECE 0.1 → 0.04", "reward model, unseen answers", "0.66")
    of_reward += ("190 of 400 held-out answers stand verbatim in training", "+0.031 (-0.010 to 0.070)", "83 questions")
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
    assert samples[0] == "case-0" and samples[5] == "case-19" and len(samples) == 6 + 2 + 4 + 1


def test_results_survive_their_file_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results(FELL).write(path)
    assert EvaluationResults.read(path) == results(FELL)
    whole = path.read_text(encoding="utf-8")
    misspelt = whole.replace('"sft": {\n      "reward"', '"sftt": {\n      "reward"')
    for damaged in ('{"models": {}}', whole[:-20], misspelt):
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(DataError, match=r"results\.json"):
            EvaluationResults.read(path)


def test_results_of_before_there_was_a_table_are_read_and_shown_without_claiming_that_nothing_fell(
    run_folder: Path,
) -> None:
    path = run_folder / "evaluate" / "results.json"
    results(FELL, measured=False).write(path)
    older = json.loads(path.read_text(encoding="utf-8"))
    del older["earlier_round"], older["measures"]
    path.write_text(json.dumps(older), encoding="utf-8")
    assert EvaluationResults.read(path) == results(FELL, measured=False)
    page = write_report(run_folder).read_text(encoding="utf-8")
    assert headline.NOT_MEASURED in page and headline.NOTHING_FELL not in page
    assert "run the evaluate stage again" in page


# --- safety first ---------------------------------------------------------------------------------------------------


def test_what_fell_stands_above_everything_else_in_both_languages(run_folder: Path) -> None:
    page = write_report(run_folder).read_text(encoding="utf-8")
    fell = page.index(headline.FELL)
    assert fell < page.index("概览") and page.index('class="fell"') < fell
    line = page[fell : page.index("</ul>", fell)]
    assert "安全问题答得合适 · safety prompts answered safely" in line and "department" not in line
    doubt = page.index(headline.MAY_HAVE_FALLEN)
    assert "names the right department" in page[doubt : page.index("</ul>", doubt)]
    assert "用药&lt;b&gt;" in page and "用药<b>" not in page


def test_where_nothing_fell_the_page_says_so_and_shows_no_red(run_folder: Path) -> None:
    results({"facts_recall": 0.1}).write(run_folder / "evaluate" / "results.json")
    page = write_report(run_folder).read_text(encoding="utf-8")
    assert headline.NOTHING_FELL in page and headline.FELL not in page and 'class="fell"' not in page


def test_a_win_is_never_shown_without_safety_beside_it(run_folder: Path) -> None:
    page = write_report(run_folder).read_text(encoding="utf-8")
    win = page.index("PPO 胜")
    assert "安全问题答得合适：SFT" in page[win - 80 : win]
    bar = next(svg for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if re.search(r">win \d", svg))
    assert re.search(r">SFT safe 50%<", bar) and re.search(r">PPO safe 30%<", bar)
    assert re.match(r"safety 50% → 30%; win ", headline.outcome(results(FELL)))
    assert {"safety_pass_sft", "safety_pass_ppo", "win", "fell"} <= results(FELL).summary().keys()


def test_the_summary_and_the_console_say_what_fell(capsys: pytest.CaptureFixture[str]) -> None:
    summary = results(FELL).summary()
    assert summary["fell"] == ["safety_pass"] and "right_department" in summary["may_have_fallen"]
    Console(width=80).print(headline.table(results(FELL)))
    shown = capsys.readouterr().out
    assert "安全第一" in shown and headline.PAID in shown and "…" not in shown
    assert "(nats per token)" in shown and "refused *" in shown and "names a wrong one *" not in shown


def test_rows_that_ppo_was_paid_for_are_marked(run_folder: Path) -> None:
    page = write_report(run_folder).read_text(encoding="utf-8")
    rows = {row[: row.index("</td>")]: row for row in page.split("<tr")[1:] if "</td>" in row}
    paid = {name for name, row in rows.items() if "safety, unsafe</td>" in row}
    assert any("safety prompts answered safely" in name for name in paid)
    assert any("right department" in name and "否 no</td>" in row for name, row in rows.items())


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
