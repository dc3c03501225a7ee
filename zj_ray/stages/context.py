"""What a stage works with: the run, its data, its tokenizer, and the rollout fleet that stages share.

Starting vLLM engines costs more than a small stage's whole work, so the fleet outlives the stage that asked for it; a
stage that needs the machines for itself releases it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from zj_ray.config.schema import Config
from zj_ray.data.chat import ChatFormat
from zj_ray.data.tokenizer import load_tokenizer
from zj_ray.errors import CheckpointError
from zj_ray.fleet.control.fleet import Fleet
from zj_ray.fleet.control.publisher import SyncReport
from zj_ray.runs.folder import Run, wanted_rollouts
from zj_ray.weights.bucket import PublishedWeights
from zj_ray.weights.folder import publish_folder


class StageContext:
    def __init__(self, run: Run) -> None:
        self.run, self.config = run, run.config
        self._fleet: Fleet | None = None
        self.version = 0  # of the weights published last

    @property
    def data_root(self) -> Path:
        return data_root(self.run.folder, self.config)

    @property
    def tensorboard(self) -> Path:
        return self.run.folder / "tensorboard"

    def checkpoint_url(self, stage: str) -> str | None:
        """Where a stage's checkpoints are copied to, if anywhere."""
        return f"{self.config.checkpoints.rstrip('/')}/{self.config.name}/{stage}" if self.config.checkpoints else None

    def chat(self) -> ChatFormat:
        return ChatFormat(load_tokenizer(self.run.folder / "tokenizer"))

    def model(self, stage: str) -> Path:
        """The model folder that an earlier stage left. Raises CheckpointError when that stage has not finished."""
        if self.run.manifest(stage) is None:
            raise CheckpointError(
                f"the {stage} stage has left no model",
                where=str(self.run.folder),
                remedy=f"run it first: zj run CONFIG --from {stage}",
            )
        return self.run.folder / stage / "model"

    def earlier_model(self, stage: str) -> Path:
        """The model that `zj run --from` has put aside last. Raises CheckpointError where there is none."""
        found = sorted(self.run.folder.glob(f"{stage}.before-*/manifest.json"))
        if not found:
            what = f"there is no earlier {stage} model to start from"
            raise CheckpointError(
                what, where=str(self.run.folder), remedy=f"set {stage}.init to sft for the first round"
            )
        return found[-1].parent / "model"

    def base_model(self) -> str:
        """Folder or hub id of the model that pre-training starts from."""
        return self.config.model.base or str(self.run.folder / "base")

    def launch_fleet(self, model: Path, place: Callable[[int], Any] | None = None) -> Fleet:
        """Engines for models shaped like `model`, starting up if they are not there; follow with `fleet`. place: as for `Fleet`."""
        if self._fleet is None:
            ppo = self.config.ppo
            lora_rank = ppo.policy.lora.rank if ppo.push == "adapter" else 0
            self._fleet = Fleet(
                str(model), self.config.model, self.config.fleet, self.config.ray.start_timeout, lora_rank, place,
                on_change=lambda table: self.run.status(fleet=table), wanted=partial(wanted_rollouts, self.run.folder),
            )  # fmt: skip
            self._fleet.launch()
        return self._fleet

    def fleet(self, model: Path) -> Fleet:
        """The fleet with the weights of `model`, ready to serve."""
        fleet = self.launch_fleet(model)
        fleet.wait_ready()
        fleet.supervise()
        self.publish(publish_folder(model, self.next_version()))
        return fleet

    def next_version(self) -> int:
        """Weight versions only ever grow, across stages too: an engine's version names its weights."""
        self.version += 1
        return self.version

    def publish(self, weights: PublishedWeights) -> SyncReport:
        assert self._fleet is not None
        report = self._fleet.publish(weights)
        self.run.status(fleet=self._fleet.table())
        return report

    def release_fleet(self) -> None:
        if self._fleet is not None:
            self._fleet.close()
            self._fleet = None


def data_root(run_folder: Path, config: Config) -> Path:
    """Where train/ and valid/ lie: the clinic's texts inside the run, or the user's own folder."""
    return run_folder / "data" if config.data.source == "clinic" else Path(config.data.root or "")
