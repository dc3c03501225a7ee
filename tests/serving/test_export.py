"""`zj export` and `zj runs`: a folder that others load as it is, and what there is to export."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from typer.testing import CliRunner

from tests.helpers.tiny import tiny_folder
from zj_ray.cli.main import app
from zj_ray.config.schema import Config
from zj_ray.data.chat import ChatFormat
from zj_ray.runs.folder import Run
from zj_ray.runs.summary import update_summary


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One whose SFT is done; its model is tiny."""
    run = Run.open(tmp_path_factory.mktemp("runs") / "mini", replace(Config(), name="mini"))
    tiny_folder(run.stage("sft") / "model")
    (run.stage("sft") / "adapter").mkdir()
    (run.stage("sft") / "adapter" / "adapter_config.json").write_text("{}")
    run.finish("sft", {})
    run.finish("evaluate", {})
    figures = {
        "sft": {"loss_before": 5.0, "loss_after": 2.125},
        "evaluate": {"general_perplexity": {"base": 9.5, "sft": 3.25}},
    }
    update_summary(run.folder, {**figures, "versions": {"torch": "2.11"}})
    run.status(state="stopped", stage="sft", step=3, total=4)
    return run


def _zj(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(map(str, words)))
    return result.exit_code, " ".join(result.output.split())


def _answer_with_vllm(folder: str) -> None:
    from tests.helpers.tiny import MODEL
    from zj_ray.config.schema import FleetConfig
    from zj_ray.fleet.engine import EngineThread
    from zj_ray.fleet.turns import TurnRequest
    from zj_ray.fleet.vllm_settings import engine_arguments, engine_environment

    os.environ.update(engine_environment(FleetConfig()))
    engine = EngineThread(engine_arguments(folder, MODEL, FleetConfig(kv_cache_mb=64), 0))
    engine.ready.result(200)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = ChatFormat(tokenizer)
    greedy = TurnRequest("one", chat.open("头痛。"), max_tokens=8, temperature=0.0, seed=0, stop_id=chat.stop_id)
    output = engine.generate(greedy).result(100)
    Path(folder, "answer.json").write_text(json.dumps(output.token_ids))
    os._exit(0)  # the engine's thread never ends


def test_transformers_and_vllm_load_what_is_exported_and_answer_alike(run: Run, tmp_path: Path) -> None:
    to = tmp_path / "exported"
    code, output = _zj("export", "mini", "--stage", "sft", "--to", to, "--runs", run.folder.parent)
    assert code == 0 and str(to) in output
    tokenizer, model = AutoTokenizer.from_pretrained(to), AutoModelForCausalLM.from_pretrained(to, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "头痛。"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert prompt["input_ids"][0].tolist() == ChatFormat(tokenizer).open("头痛。")
    answer = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :].tolist()
    assert GenerationConfig.from_pretrained(to).eos_token_id == ChatFormat(tokenizer).stop_id
    assert (
        not list(to.rglob("*.bin"))
        and (to / "model.safetensors").is_file()
        and (to / "adapter" / "adapter_config.json").is_file()
    )

    process = multiprocessing.get_context("spawn").Process(target=_answer_with_vllm, args=(str(to),))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    assert json.loads((to / "answer.json").read_text()) == answer

    card = (to / "README.md").read_text(encoding="utf-8")
    parts = (
        "# mini: sft",
        "| stages | sft |",
        "| sft.loss_after | 2.125 |",
        "| torch | 2.11 |",
        "base: 9.5; sft: 3.25",
        "research only",
        "仅供研究",
    )
    for part in (*parts, "synthetic"):
        assert part in card, part


def test_what_cannot_be_exported_is_named_and_nothing_is_written(run: Run, tmp_path: Path) -> None:
    for stage, to, words in (
        ("reward", tmp_path / "a", "leaves no language model"),
        ("ppo", tmp_path / "a", "the ppo stage has left no model"),
        ("sft", run.folder, "there is something already"),
    ):
        code, output = _zj("export", "mini", "--stage", stage, "--to", to, "--runs", run.folder.parent)
        assert code == 2 and words in output
    assert not list(tmp_path.iterdir())


def test_runs_are_listed_with_stage_step_age_and_size(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    shutil.copytree(run.folder, tmp_path / "older")
    record = json.loads((tmp_path / "older" / "run.json").read_text())
    died = {**record, "state": "running", "updated": time.time() - 7300}  # no process holds its lock
    (tmp_path / "older" / "run.json").write_text(json.dumps(died))
    (tmp_path / "older" / "ballast").write_bytes(b"x" * 5_000_000)
    shutil.copytree(run.folder, tmp_path / "newer")
    result = CliRunner().invoke(app, ["runs", "--runs", str(tmp_path)])
    newer, older = [line for line in result.output.splitlines() if "newer" in line or "older" in line]
    assert "newer" in newer and "stopped" in newer and "3 of 4" in newer
    assert "died" in older and "2.0 h ago" in older
    assert any(f"{size}.{part} MB" in older for size in (5, 6) for part in range(10))
    code, output = _zj("runs", "--runs", tmp_path / "nowhere")
    assert code == 2 and "there are no runs" in output
