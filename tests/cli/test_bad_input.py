"""Bad input through the real `zj run`: one clear line, status 2, no traceback, nothing overwritten, Ray not started."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from typer.testing import CliRunner

from tests.helpers.tiny import tiny_folder
from zj_ray.cli.main import app
from zj_ray.config.schema import ClinicConfig
from zj_ray.data.clinic import write_clinic

Spoil = Callable[[Path], str]  # spoils a data folder, returns what the error must say


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_clinic(tmp_path / "data", ClinicConfig(consultations=24, single_turn=24, passages=24, cases=24))
    return tmp_path / "data"


def _append(path: Path, row: object) -> int:
    text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)
    with path.open("a", encoding="utf-8") as file:
        file.write(text + "\n")
    return len(path.read_text(encoding="utf-8").splitlines())


def _missing(data: Path) -> str:
    (data / "train" / "pretrain.jsonl").unlink()
    return "pretrain.jsonl"


def _malformed(data: Path) -> str:
    line = _append(data / "train" / "sft_multi.jsonl", '{"id": 1, ')
    return f"train/sft_multi.jsonl:{line}: the row is not JSON"


def _wrong_order(data: Path) -> str:
    row = {"id": "bad", "messages": [{"role": "assistant", "content": "您好"}, {"role": "user", "content": "痛"}]}
    line = _append(data / "train" / "sft_multi.jsonl", row)
    return f"train/sft_multi.jsonl:{line}: message 1 is from 'assistant' where 'user' must speak"


def _empty_answer(data: Path) -> str:
    row = {"id": "bad", "messages": [{"role": "user", "content": "痛"}, {"role": "assistant", "content": " "}]}
    return f"valid/sft_single.jsonl:{_append(data / 'valid' / 'sft_single.jsonl', row)}: message 2 (assistant) is empty"


def _case_without_answer(data: Path) -> str:
    row = {"id": "bad", "opening": "痛", "facts": [{"slot": "起病", "answer": ""}]}
    return f"train/patient_cases.jsonl:{_append(data / 'train' / 'patient_cases.jsonl', row)}: fact 1 has no answer"


def _run(tmp_path: Path, *settings: str) -> tuple[int, str]:
    config = tmp_path / "mine.yaml"
    if not config.exists():
        config.write_text("name: mine\ndata: {source: files}\n", encoding="utf-8")
    arguments = ["run", str(config), "--runs", str(tmp_path / "runs")]
    for setting in settings:
        arguments += ["--set", setting]
    result = CliRunner().invoke(app, arguments)
    assert not ray.is_initialized()
    return result.exit_code, result.output


def _one_clear_line(status: int, output: str, expected: str) -> None:
    assert status == 2 and "Traceback" not in output
    assert expected in output.replace("\n", "")
    assert sum("error" in line for line in output.splitlines()) == 1


@pytest.mark.parametrize("spoil", [_missing, _malformed, _wrong_order, _empty_answer, _case_without_answer])
def test_a_fault_in_the_data_is_named_by_file_and_line(tmp_path: Path, data: Path, spoil: Spoil) -> None:
    expected = spoil(data)
    _one_clear_line(*_run(tmp_path, f"data.root={data}"), expected)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    _one_clear_line(*_run(tmp_path, f"data.root={tmp_path / 'nowhere'}"), "nowhere")


def test_an_unknown_key_is_named_by_line_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nppo:\n  stesp: 3\n", encoding="utf-8")
    _one_clear_line(*_run(tmp_path), "mine.yaml:3: unknown key 'ppo.stesp' — did you mean 'ppo.steps'?")
    assert not (tmp_path / "runs").exists()


def test_a_base_of_another_architecture_is_named_before_anything_starts(tmp_path: Path, data: Path) -> None:
    base = tiny_folder(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "hidden_size": 128}))
    status, output = _run(tmp_path, f"data.root={data}", f"model.base={base}")
    _one_clear_line(status, output, "where config.json means")


def test_another_setting_for_a_run_that_exists_is_refused_and_its_files_stay(tmp_path: Path, data: Path) -> None:
    (data / "train" / "pretrain.jsonl").unlink()  # ends the first attempt before Ray, with the config frozen
    _run(tmp_path, f"data.root={data}")
    frozen = (tmp_path / "runs" / "mine" / "config.yaml").read_text(encoding="utf-8")
    _one_clear_line(*_run(tmp_path, f"data.root={data}", "ppo.steps=99"), "ppo.steps")
    assert (tmp_path / "runs" / "mine" / "config.yaml").read_text(encoding="utf-8") == frozen
