"""A stage's model as a plain Hugging Face folder, with a card that says where it comes from and what it is not for."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from zj_ray.data.chat import ChatFormat
from zj_ray.data.tokenizer import load_tokenizer
from zj_ray.errors import CheckpointError, ConfigError
from zj_ray.runs.folder import Run
from zj_ray.runs.summary import read_summary

STAGES = ("ppo", "sft", "pretrain")  # that leave a causal language model

CARD = """---
library_name: transformers
pipeline_tag: text-generation
language: zh
tags: [medical, dialogue, zj_ray]
---

# {name}: {stage}

A Chinese medical dialogue model trained by [zj_ray](https://arxiv.org/abs/2308.03549), from the run `{name}`.

**For research only. Nothing that it says is medical advice; it must not be used to diagnose or treat anybody.**
**仅供研究，不构成医疗建议，不得用于诊断或治疗。**

## How it was made

| | |
| --- | --- |
{made}

## Measured

{measured}

## Limits

- The figures above were measured by the run's own rules and simulated patients; no doctor has judged this model \
unless `feedback` above says so.
- It answers in Chinese, in the chat template that lies in this folder, and was trained on at most {max_length} tokens \
of a consultation.
- What it was not asked in training it may answer wrongly, with the same certainty.

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModelForCausalLM.from_pretrained(".")
asked = [{{"role": "user", "content": "我咳嗽三天了。"}}]
text = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**text, max_new_tokens=200)[0]))
```

or `vllm serve .`
"""


def export(run: Run, stage: str, to: Path) -> Path:
    """Write the stage's model to the folder `to`, whole or not at all; its adapters, if any, to `adapter` inside.

    Raises ConfigError for a stage without a language model, CheckpointError if it is not finished or `to` is in use.
    """
    if stage not in STAGES:
        remedy = f"choose from {', '.join(STAGES)}"
        raise ConfigError(f"stage {stage!r} leaves no language model", where="--stage", remedy=remedy)
    model = run.folder / stage / "model"
    if run.manifest(stage) is None or not (model / "config.json").is_file():
        remedy = f"let it finish: zj run {run.folder / 'config.yaml'}"
        raise CheckpointError(f"the {stage} stage has left no model", where=str(run.folder), remedy=remedy)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        remedy = "name a folder that does not exist yet, or empty it"
        raise CheckpointError("there is something already", where=str(to), remedy=remedy)
    draft = to.with_name(f".{to.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        shutil.copytree(model, draft)
        if (adapter := model.with_name("adapter")).is_dir():
            shutil.copytree(adapter, draft / "adapter")
        _generation(draft).save_pretrained(draft)
        (draft / "README.md").write_text(card(run, stage), encoding="utf-8")
        if to.exists():
            to.rmdir()
        draft.rename(to)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        what, remedy = f"the model could not be written: {error}", "make room, or name another folder"
        raise CheckpointError(what, where=str(to), remedy=remedy) from error
    return to


def _generation(folder: Path) -> GenerationConfig:
    """How the model was sampled in training: until its turn's end token, without cuts of the distribution."""
    tokenizer = load_tokenizer(folder)
    stop = ChatFormat(tokenizer).stop_id
    pad = stop if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return GenerationConfig(do_sample=True, temperature=1.0, top_p=1.0, eos_token_id=stop, pad_token_id=pad)


def card(run: Run, stage: str) -> str:
    """The model card, from what the run has written down."""
    config, summary = run.config, read_summary(run.folder)
    finished = [name for name in config.stages if run.manifest(name) is not None]
    before = finished[: finished.index(stage) + 1] if stage in finished else finished
    own = f"the user's own ({Path(config.data.root or '').name})"
    data = "synthetic, made by zj_ray's clinic" if config.data.source == "clinic" else own
    origin = {
        "base model": Path(config.model.base).name if config.model.base else "none: trained from random weights",
        "stages": " → ".join(before),
        "data": data,
        "seed": config.seed,
        **(summary.get("versions") or {}),
    }
    figures = {
        f"{name}.{key}": _shown(value)
        for name in (*before, "evaluate")
        if name in summary and name in finished
        for key, value in summary[name].items()
        if value is not None
    }
    return CARD.format(
        name=config.name,
        stage=stage,
        made=_rows(origin),
        measured="| figure | value |\n| --- | --- |\n" + _rows(figures) if figures else "Nothing yet.",
        max_length=config.model.max_length,
    )


def _rows(cells: Mapping[str, Any]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in cells.items())


def _shown(value: Any) -> str:
    """A figure of the summary as text in a table's cell."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_shown(part)}" for name, part in value.items())
    return ", ".join(map(_shown, value)) if isinstance(value, list) else str(value)
