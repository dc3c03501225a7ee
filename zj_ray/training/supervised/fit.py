"""Runs a supervised stage under Ray Train and watches it from the driver."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from zj_ray.errors import WaitTimeout, ZjError
from zj_ray.progress import Bar, progress
from zj_ray.runs.metrics import read_metrics
from zj_ray.training.supervised.worker import FitSpec, worker

POLL_SECONDS = 0.5


def fit(spec: FitSpec) -> dict[str, Any]:
    """Train until done and return the workers' result.

    A lost worker is replaced twice, resuming at the stage's newest checkpoint. Raises WaitTimeout when no step is
    finished for `stall_timeout`, ZjError with the cause when training fails.
    """
    folder = Path(spec.folder)
    (folder / "result.json").unlink(missing_ok=True)
    # Ray Train's own record of an attempt; what we resume from is ours.
    shutil.rmtree(folder / "ray_train", ignore_errors=True)
    outcome: list[BaseException | None] = []
    thread = threading.Thread(target=_fit, args=(spec, outcome), daemon=True, name=f"fit-{spec.stage}")
    thread.start()
    with progress(spec.stage) as bar:
        _watch(thread, folder / "metrics.jsonl", bar, spec)
    if outcome and outcome[0] is not None:
        raise _explained(outcome[0], spec)
    return json.loads((folder / "result.json").read_text())


def _fit(spec: FitSpec, outcome: list[BaseException | None]) -> None:
    config = spec.config
    on_gpu = config.gpus > 0
    resources = {"CPU": config.cpus, "GPU": config.gpus} if on_gpu else {"CPU": config.cpus}
    environment = {"OMP_NUM_THREADS": str(config.threads), "TOKENIZERS_PARALLELISM": "false"}
    trainer = TorchTrainer(
        worker,
        train_loop_config={"spec": spec},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=config.ranks, use_gpu=on_gpu, resources_per_worker=resources),
        run_config=RunConfig(  # type: ignore[call-arg]  # the stubs are those of Ray Train v1
            name=spec.stage,
            storage_path=str(Path(spec.folder) / "ray_train"),
            failure_config=FailureConfig(max_failures=2),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            worker_runtime_env={"env_vars": environment},
        ),
    )
    try:
        trainer.fit()
        outcome.append(None)
    except BaseException as error:  # carried to the main thread, which raises it
        outcome.append(error)


def _watch(thread: threading.Thread, metrics: Path, bar: Bar, spec: FitSpec) -> None:
    last_step, last_progress, size = 0, time.monotonic(), -1
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        now = metrics.stat().st_size if metrics.exists() else -1
        if now == size:
            if time.monotonic() - last_progress > spec.config.stall_timeout:
                raise WaitTimeout(
                    f"no step was finished for {spec.config.stall_timeout:.0f} s (at step {last_step})",
                    where=f"stage {spec.stage}",
                    remedy=f"see log.txt and the cluster's free resources, or raise {spec.stage}.stall_timeout",
                )
            continue
        size, last_progress = now, time.monotonic()
        rows = read_metrics(metrics)
        if rows and rows[-1]["step"] > last_step:
            bar.total = int(rows[-1]["total_steps"])
            if last_step == 0:
                bar.started = time.monotonic()  # the workers' start-up must not enter the estimate of what is left
            bar.advance(
                rows[-1]["step"] - last_step,
                loss=rows[-1]["loss"] or float("nan"),
                tokens_per_second=int(rows[-1]["tokens_per_second"]),
            )
            last_step = rows[-1]["step"]


def _explained(error: BaseException, spec: FitSpec) -> BaseException:
    """The ZjError that a worker raised, if that is at the bottom of it; else Ray Train's own error."""
    link: BaseException | None = error
    while link is not None:
        for failure in [link, *getattr(link, "worker_failures", {}).values()]:
            cause = getattr(failure, "cause", failure)
            if isinstance(cause, ZjError):
                return cause
        link = link.__cause__ or link.__context__
    return error
