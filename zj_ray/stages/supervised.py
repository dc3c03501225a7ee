"""What the supervised stages share: hand the examples to Ray Train, put the tokenizer beside the trained model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from zj_ray.config.schema import TrainConfig
from zj_ray.stages.context import StageContext
from zj_ray.training.supervised.examples import Examples
from zj_ray.training.supervised.fit import fit
from zj_ray.training.supervised.worker import FitSpec


def train(
    context: StageContext,
    stage: str,
    objective: str,
    *,
    start: Path | str,
    examples: dict[str, Examples],
    config: TrainConfig,
    member: int = 1,
) -> dict[str, Any]:
    """Train on `examples["train"]`, measure on `["valid"]`, leave `STAGE/model`; returns the workers' result.

    Early stopping looks at `["stopping"]` where there are such, else at `["valid"]`; `["unseen"]` are evaluated at the
    end. start: model folder or hub id. member: of an ensemble; each has a seed of its own and, from the second on, a
    folder of its own, `STAGE/member-2`.
    """
    name = stage if member == 1 else f"{stage}/member-{member}"
    folder = context.run.stage(name)
    for split, part in examples.items():
        part.save(folder / f"{split}.npz")
    spec = FitSpec(
        objective=objective,
        stage=stage,
        start=str(start),
        folder=str(folder),
        train=str(folder / "train.npz"),
        valid=str(folder / "valid.npz"),
        config=config,
        model=context.config.model,
        seed=context.config.seed + member - 1,
        tensorboard=str(context.run.tensorboard if member == 1 else context.run.tensorboard / name),
        checkpoint_url=context.run.checkpoint_url(name),
        **{split: str(folder / f"{split}.npz") for split in ("stopping", "unseen") if split in examples},
    )
    if config.gpus > 0:
        context.release_fleet()  # idle engines cost little on CPUs; on GPUs they hold what training needs
    result = fit(spec)
    shutil.copytree(context.run.folder / "tokenizer", folder / "model", dirs_exist_ok=True)
    return result
