"""The loop of every supervised stage, as each Ray Train worker runs it: pre-training, SFT and reward model.

What differs between them is an `Objective`: how documents make a batch, and the summed loss of a packed row.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch

from zj_ray.config.schema import ModelConfig, TrainConfig
from zj_ray.errors import WaitTimeout
from zj_ray.files import write_atomic
from zj_ray.runs.metrics import MetricLog
from zj_ray.training.checkpoint_copy import open_checkpoints
from zj_ray.training.supervised.examples import Examples
from zj_ray.training.supervised.objective import Objective, make_objective
from zj_ray.training.zero_engine import EngineSpec, TrainEngine, adopt_process_group, compute_repeatably

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class FitSpec:
    """Everything that a worker needs.

    start: model folder; folder: the stage's; train, valid: files written by `Examples.save`. stopping: such a file,
    whose loss early stopping looks at, so that what `valid` measures is chosen by nothing; None: it looks at `valid`.
    unseen: such a file, evaluated once training is over. checkpoint_url: where checkpoints are copied to, or None.
    """

    objective: str  # "tokens" or "rankings"
    stage: str
    start: str
    folder: str
    train: str
    valid: str
    config: TrainConfig
    model: ModelConfig
    seed: int
    tensorboard: str
    checkpoint_url: str | None = None
    stopping: str | None = None
    unseen: str | None = None


def worker(payload: dict[str, Any]) -> None:
    """One rank, from its model to the exported folder. Resumes at the newest checkpoint of the stage."""
    spec: FitSpec = payload["spec"]
    torch.set_num_threads(spec.config.threads)
    if spec.model.deterministic:
        compute_repeatably()
    adopt_process_group()
    train, valid = Examples.load(Path(spec.train)), Examples.load(Path(spec.valid))
    stopping = Examples.load(Path(spec.stopping)) if spec.stopping else valid
    objective = make_objective(spec.objective, spec.config)
    steps = plan_steps(train, objective, spec)
    engine = TrainEngine(objective.build(spec.start, spec.model, spec.seed), _engine_spec(spec, len(steps)))
    result = _Loop(spec, engine, objective, train=train, valid=valid, stopping=stopping).run(steps)
    if engine.rank == 0:
        write_atomic(Path(spec.folder) / "result.json", json.dumps(result))
    ray.train.report({"finished": 1.0})


def plan_steps(train: Examples, objective: Objective, spec: FitSpec) -> list[list[int]]:
    """The documents of every optimizer step, decided by the seed alone: a resumed run reads the same batches."""
    units = objective.units(train)
    sizes = [objective.size(train, unit) for unit in units]
    steps: list[list[int]] = []
    whole, part = divmod(spec.config.epochs, 1)
    for epoch in range(math.ceil(spec.config.epochs)):
        batches = list(_batches(units, sizes, spec.config.batch_tokens, random.Random(f"{spec.seed}/{epoch}")))
        steps += batches if epoch < whole else batches[: max(1, round(part * len(batches)))]
    return steps[: spec.config.max_steps]


def _batches(units: list[list[int]], sizes: list[int], batch_tokens: int, order: random.Random) -> Iterator[list[int]]:
    batch: list[int] = []
    tokens = 0
    for number in order.sample(range(len(units)), len(units)):
        if batch and tokens + sizes[number] > batch_tokens:
            yield batch
            batch, tokens = [], 0
        batch = batch + units[number]
        tokens += sizes[number]
    yield batch


def is_over(held_out: Sequence[tuple[int, float]], patience: int | None) -> bool:
    """Whether the last `patience` held-out losses are all no better than the best before them.

    held_out: (step, loss), oldest first.
    """
    if patience is None or len(held_out) <= patience:
        return False
    losses = [loss for _, loss in held_out]
    return min(losses[-patience:]) >= min(losses[:-patience])


def _engine_spec(spec: FitSpec, steps: int) -> EngineSpec:
    config = spec.config
    return EngineSpec(
        learning_rate=config.learning_rate,
        clip_norm=config.clip_norm,
        zero_stage=config.zero_stage,
        weight_decay=config.weight_decay,
        warmup_steps=math.ceil(config.warmup * steps),
        total_steps=steps,
        offload=config.offload,
        dtype=spec.model.dtype,
        optimizer=config.optimizer,
    )


class _Loop:
    """The steps of one stage on one rank, with its checkpoints."""

    def __init__(
        self,
        spec: FitSpec,
        engine: TrainEngine,
        objective: Objective,
        *,
        train: Examples,
        valid: Examples,
        stopping: Examples,
    ) -> None:
        self.spec, self.engine, self.objective = spec, engine, objective
        self.train, self.valid, self.stopping = train, valid, stopping
        self.folder = Path(spec.folder)
        keep_best = int(spec.config.patience is not None)
        self.checkpoints = open_checkpoints(
            spec.checkpoint_url, self.folder / "checkpoints", keep=2, keep_best=keep_best
        )
        # Step and state of the checkpoint that the ranks are writing.
        self.pending: tuple[int, dict[str, Any]] | None = None
        self.committing: Future[Path] | None = None  # the last one that they have written
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self.log = MetricLog(self.folder, Path(spec.tensorboard), spec.stage) if engine.rank == 0 else None

    def run(self, steps: list[list[int]]) -> dict[str, Any]:
        """Take the steps that are left, then leave the best weights in `model`; returns what was measured."""
        newest = self._of_first_rank(self.checkpoints.latest)
        state: dict[str, Any]
        if newest is None:
            step, state = 0, {"before": self.objective.evaluate(self.engine, self.valid), "held_out": []}
        else:
            step, path, state = newest
            self.engine.load_checkpoint(path)
        if self.log is not None:
            self.log.truncate_after(step)
        while step < len(steps) and not is_over(state["held_out"], self.spec.config.patience):
            self._step(step, steps[step], total=len(steps))
            step += 1
            if step % self.spec.config.save_every == 0 and step < len(steps):
                state = self._save(step, state)
        self._settle()
        best, after = self._best(step, state["held_out"])
        self.engine.save_model(self.folder / "model")
        unseen = self.spec.unseen and self.objective.evaluate(self.engine, Examples.load(Path(self.spec.unseen)))
        return {
            "before": state["before"],
            "after": after,
            "steps": step,
            "kept": best,
            "held_out": state["held_out"],
            "unseen": unseen,
        }

    def _best(self, last: int, held_out: list[tuple[int, float]]) -> tuple[int, dict[str, Any]]:
        """Leave the engine with the weights of the lowest held-out loss; returns their step and their evaluation."""
        best = last
        if held_out:
            step, loss = min(held_out, key=lambda measured: (measured[1], -measured[0]))  # of equal ones the newest
            if loss < self._stopping_loss():
                folder = self._of_first_rank(self.checkpoints.at, step)
                self.engine.load_checkpoint(folder)
                best = step
        return best, self.objective.evaluate(self.engine, self.valid)

    def _stopping_loss(self) -> float:
        """The loss that early stopping looks at, made comparable: what is no number is worse than any."""
        loss = self.objective.evaluate(self.engine, self.stopping)["loss"]
        return loss if math.isfinite(loss) else math.inf

    def _step(self, number: int, documents: list[int], total: int) -> None:
        started = time.monotonic()
        micro, denominator = self.objective.micro_batches(self.train, documents, self.engine)
        loss_sum = 0.0

        def loss_of(_: Any, rows: Any) -> torch.Tensor:
            nonlocal loss_sum
            loss = self.objective.loss(self.engine, self.train, rows)
            loss_sum += float(loss.detach())
            return loss

        result = self.engine.train_batch(micro, loss_of, denominator)
        saved = self.pending is not None and self.engine.is_saved()
        loss_total, ranks_done = self.engine.sum_over_ranks([loss_sum, float(saved)])
        if ranks_done == self.engine.world:
            self._commit()
        tokens = sum(len(self.train.token_ids[i]) for i in documents)
        if self.log is not None:
            seconds = time.monotonic() - started
            figures = {
                "loss": loss_total / denominator,
                "grad_norm": result.grad_norm,
                "lr": result.learning_rate,
                "tokens_per_second": tokens / seconds,
            }
            self.log.write(number + 1, {**figures, "skipped": float(not result.applied), "total_steps": total})

    def _save(self, step: int, state: dict[str, Any]) -> dict[str, Any]:
        """Copy what was learnt; it is written while the next steps go on, and declared whole after one of them.

        state: `before`, the evaluation before the first step, and `held_out`, step and held-out loss at every
        checkpoint if there is patience. Returns the new state.
        """
        self._settle()  # never two at a time
        if self.spec.config.patience is not None:
            state = {**state, "held_out": [*state["held_out"], (step, self._stopping_loss())]}
        draft = self._of_first_rank(self.checkpoints.begin, step)
        self.engine.save_checkpoint(draft)
        self.pending = step, state
        return state

    def _of_first_rank(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """On every rank, what the function returns on rank 0, which alone calls it."""
        values = [function(*arguments) if self.engine.rank == 0 else None]
        torch.distributed.broadcast_object_list(values)
        return values[0]

    def _commit(self) -> None:
        """Let rank 0 declare on the disk, beside the next steps, what all ranks have written."""
        assert self.pending is not None
        (step, state), self.pending = self.pending, None
        if self.engine.rank == 0:
            score = -state["held_out"][-1][1] if state["held_out"] else None
            self.committing = self._worker.submit(self.checkpoints.commit, step, state, score)

    def _settle(self) -> None:
        """Wait until the checkpoint that is being written is whole. Raises CheckpointError when it can't be."""
        limit = self.spec.config.stall_timeout
        deadline = time.monotonic() + limit
        while self.pending is not None:
            [ranks_done] = self.engine.sum_over_ranks([float(self.engine.is_saved())])
            if ranks_done == self.engine.world:
                self._commit()
            elif time.monotonic() > deadline:
                what = f"the checkpoint of step {self.pending[0]} was not written within {limit:.0f} s"
                raise WaitTimeout(what, where=str(self.checkpoints.folder), remedy="see whether its disk works")
            else:
                time.sleep(POLL_SECONDS)
        if self.committing is None:
            return
        if self.committing not in wait([self.committing], timeout=limit).done:
            what = f"the last checkpoint was not whole after {limit:.0f} s"
            remedy = "see whether its disk, and the place it is copied to, work"
            raise WaitTimeout(what, where=str(self.checkpoints.folder), remedy=remedy)
        if (fault := self.committing.exception()) is not None:
            raise fault
