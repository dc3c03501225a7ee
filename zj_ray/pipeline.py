"""The pipeline: which stage needs what, in which order, and what is already done.

A stage is done when its manifest is there; `run` does the rest. A run that was stopped anywhere goes on from there.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from zj_ray.cluster.connect import connect
from zj_ray.config.schema import STAGES, Config
from zj_ray.errors import ConfigError, PeopleNeeded
from zj_ray.evaluation.report import write_report
from zj_ray.progress import console
from zj_ray.roles.placement import plan_places
from zj_ray.runs.folder import Run
from zj_ray.runs.metrics import versions
from zj_ray.runs.summary import update_summary
from zj_ray.stages.collect import collect
from zj_ray.stages.context import StageContext
from zj_ray.stages.evaluate import evaluate
from zj_ray.stages.feedback import feedback
from zj_ray.stages.ppo import ppo
from zj_ray.stages.prepare import prepare
from zj_ray.stages.pretrain import pretrain
from zj_ray.stages.reward import reward
from zj_ray.stages.serve import serve
from zj_ray.stages.sft import sft

logger = logging.getLogger("zj_ray")

Stage = Callable[[StageContext], dict[str, Any]]
WORK: dict[str, Stage] = {
    "pretrain": pretrain,
    "sft": sft,
    "feedback": feedback,
    "reward": reward,
    "ppo": ppo,
    "evaluate": evaluate,
    "serve": serve,
}
NEEDS = {
    "pretrain": "base model, pretrain.jsonl",
    "sft": "pretrain/model, dialogues",
    "feedback": "sft/model, contexts",
    "reward": "rankings, pretrain/model or sft/model",
    "ppo": "sft/model, reward/model, patient cases",
    "evaluate": "sft/model, ppo/model, unseen cases",
    "serve": "ppo/model",
}


def run(config: Config, *, runs: Path, start_from: str | None = None, allowed: Sequence[str] = ()) -> Path:
    """Do every stage of the run that is not done; returns the run folder.

    start_from: forget this stage and those after it first, keeping their folders as `STAGE.before-…`.
    allowed: keys or sections of the config that may differ from those that the run was started with.
    Raises ZjError for whatever the user can mend.
    """
    work = Run.open(runs / config.name, config, allowed)
    with work.running():
        if start_from is not None:
            _forget_from(work, start_from)
        _run_stages(work)
        update_summary(work.folder, {"versions": versions()})
        report = write_report(work.folder)
    console.print(f"report: {report}")
    return work.folder


def collect_round(work: Run, prompts: int) -> dict[str, Any]:
    """Let the run's PPO model answer for the next round of ranking; returns what `stages.collect.collect` reports."""
    with work.running(), connect(work.config.ray, log_folder=work.folder):
        context = StageContext(work)
        try:
            return collect(context, prompts)
        finally:
            context.release_fleet()


def _run_stages(work: Run) -> None:
    todo = [stage for stage in work.config.stages if work.manifest(stage) is None]
    for stage in work.config.stages:
        if stage not in todo:
            console.print(f"{stage}: done already")
    prepare(work)
    if not todo:
        return
    with connect(work.config.ray, log_folder=work.folder):
        context = StageContext(work)
        try:
            for stage in todo:
                _run_stage(work, context, stage)
        finally:
            context.release_fleet()


def _run_stage(work: Run, context: StageContext, stage: str) -> None:
    work.status(stage=stage, step=0, total=0)
    update_summary(work.folder, {"stages": {stage: {"status": "running"}}})
    logger.info("stage %s started", stage)
    started = time.monotonic()
    try:
        manifest = WORK[stage](context)
    except BaseException as fault:
        status = "waiting" if isinstance(fault, PeopleNeeded) else "failed"
        update_summary(work.folder, {"stages": {stage: {"status": status, "seconds": time.monotonic() - started}}})
        raise
    seconds = round(time.monotonic() - started, 1)
    work.finish(stage, {**manifest, "seconds": seconds})
    update_summary(work.folder, {"stages": {stage: {"status": "done", "seconds": seconds}}})
    logger.info("stage %s done in %.1f s", stage, seconds)
    console.print(f"[green]✓[/green] {stage} in {seconds:.0f} s")


def _forget_from(work: Run, start_from: str) -> None:
    if start_from not in work.config.stages:
        what, remedy = f"this run has no stage {start_from!r}", f"use one of {', '.join(work.config.stages)}"
        raise ConfigError(what, where="--from", remedy=remedy)
    for stage in STAGES[STAGES.index(start_from) :]:
        folder = work.folder / stage
        if folder.is_dir():
            folder.rename(folder.with_name(f"{stage}.before-{time.strftime('%Y%m%d-%H%M%S')}"))
    shutil.rmtree(work.folder / "tensorboard" / start_from, ignore_errors=True)


def plan(config: Config) -> RenderableType:
    """What `run` would do, as a table: the stages, what each needs and with how many processes."""
    table = Table(title=f"run {config.name}", title_justify="left")
    for column in ("stage", "needs", "processes"):
        table.add_column(column)
    fleet = f"{config.fleet.initial} vLLM engines"
    roles = config.ppo.residents(config.fleet)
    places = [
        " with ".join(f"{name} ×{roles[name].ranks}" for name in place.roles)
        for place in plan_places(roles, config.ppo.colocate)
    ]
    processes = {
        "pretrain": f"{config.pretrain.ranks} DeepSpeed ranks (ZeRO-{config.pretrain.zero_stage})",
        "sft": f"{config.sft.ranks} DeepSpeed ranks (ZeRO-{config.sft.zero_stage})",
        "feedback": fleet,
        "reward": f"{config.reward.ranks} DeepSpeed ranks (ZeRO-{config.reward.zero_stage})",
        "ppo": f"{fleet}; {', '.join(places)}",
        "evaluate": f"{fleet}; evaluator ×{config.ppo.reward.ranks}",
        "serve": f"{config.serve.replicas} Ray Serve replicas",
    }
    for stage in config.stages:
        table.add_row(stage, NEEDS[stage], processes[stage])
    return table
