"""What a run has before its first stage: data, tokenizer, and a model to start from, made or given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tests.helpers.tiny import tiny_folder
from zj_ray.config.schema import ClinicConfig, Config, DataConfig, ModelConfig, TinyConfig
from zj_ray.data.chat import ChatFormat
from zj_ray.data.tokenizer import load_tokenizer
from zj_ray.runs.folder import Run
from zj_ray.stages.context import StageContext
from zj_ray.stages.prepare import prepare

SMALL = DataConfig(clinic=ClinicConfig(consultations=24, single_turn=24, passages=24, cases=24))
TINY = ModelConfig(tiny=TinyConfig(vocab_size=400, hidden_size=64, layers=1, heads=1, intermediate_size=64))


def test_without_a_base_a_tiny_model_and_its_tokenizer_are_made(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", Config(data=SMALL, model=TINY))
    prepare(run)
    before = {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()}
    prepare(run)  # done already: nothing changes
    assert {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()} == before
    assert (
        StageContext(run).base_model() == str(run.folder / "base")
        and (run.folder / "base" / "model.safetensors").is_file()
    )
    assert len(load_tokenizer(run.folder / "tokenizer")) == 400


def test_a_base_model_brings_its_own_tokenizer_and_gets_a_chat_template_if_it_has_none(tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base")
    (base / "chat_template.jinja").unlink(missing_ok=True)
    run = Run.open(tmp_path / "run", Config(data=SMALL, model=replace(ModelConfig(), base=str(base))))
    prepare(run)
    context = StageContext(run)
    assert context.base_model() == str(base) and not (run.folder / "base").exists()
    chat = context.chat()
    embeddings = json.loads((base / "config.json").read_text())["vocab_size"]
    assert isinstance(chat, ChatFormat) and len(chat.tokenizer) == embeddings, (
        "a token was added that the model has no embedding for"
    )
    assert (
        chat.tokenizer.decode(chat.open("头痛。")) == "<human>:头痛。\n<bot>:"
        and chat.stop_id == chat.tokenizer.eos_token_id
    )
