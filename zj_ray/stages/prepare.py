"""Before the first stage: the data, the tokenizer and the model to start from. Quick, and skipped where it is done."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from zj_ray.config.schema import Config
from zj_ray.data.clinic import write_clinic
from zj_ray.data.datasets import load_dialogues, load_prompts, load_texts
from zj_ray.data.tokenizer import load_tokenizer, train_tokenizer
from zj_ray.progress import console
from zj_ray.runs.folder import Run
from zj_ray.training.model import check_checkpoint, make_tiny


def prepare(run: Run) -> None:
    """Leave `data/`, `tokenizer/` and, without a base model, `base/` in the run folder, with every data row checked."""
    disable_progress_bar()  # transformers draws one for each file it writes
    if not torch.cuda.is_available():
        # transformers imports DeepSpeed, which else warns that it found no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    config, root = run.config, run.data_root
    if config.data.source == "clinic" and not (root / "train").is_dir():
        console.print(f"synthetic clinic in {root}: {write_clinic(root, config.data.clinic)}")
    texts, dialogues = load_texts(root, "train"), load_dialogues(root, "train")
    for split in ("train", "valid"):
        load_prompts(root, split)
    load_dialogues(root, "valid")
    folder = run.folder / "tokenizer"
    if folder.is_dir():
        return
    if config.model.base is not None:
        tokenizer = load_tokenizer(config.model.base)
        if Path(config.model.base).is_dir():
            check_checkpoint(Path(config.model.base))
    else:
        corpus = texts + [m.content for dialogue in dialogues for m in dialogue]
        tokenizer = train_tokenizer(corpus, config.model.tiny.vocab_size, config.model.max_length)
        _make_base(run.folder / "base", config, tokenizer)
    tokenizer.save_pretrained(folder)


def _make_base(folder: Path, config: Config, tokenizer: PreTrainedTokenizerBase) -> None:
    make_tiny(config.model.tiny, tokenizer, config.model.max_length, config.seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
