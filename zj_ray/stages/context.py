"""What a stage works with: the run, its data, its tokenizer, and the rollout fleet that stages share.

Starting vLLM engines costs more than a small stage's whole work, so the fleet outlives the stage that asked for it; a
stage that needs the machines for itself releases it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from zj_ray.data.chat import ChatFormat
from zj_ray.data.tokenizer import load_tokenizer
from zj_ray.errors import CheckpointError
from zj_ray.fleet.control.fleet import Fleet
from zj_ray.roles.scorer import Scorer, reward_scorer
from zj_ray.runs.folder import Run, wanted_rollouts
from zj_ray.weights.bucket import WeightVersions
from zj_ray.weights.folder import publish_folder


class StageContext:
    def __init__(self, run: Run) -> None:
        self.run, self.config = run, run.config
        self._fleet: Fleet | None = None
        self.versions = WeightVersions()

    def chat(self) -> ChatFormat:
        return ChatFormat(load_tokenizer(self.run.folder / "tokenizer"))

    def model(self, stage: str) -> Path:
        """The model folder that an earlier stage left. Raises CheckpointError when that stage has not finished."""
        if self.run.manifest(stage) is None:
            what, remedy = f"the {stage} stage has left no model", f"run it first: zj run CONFIG --from {stage}"
            raise CheckpointError(what, where=str(self.run.folder), remedy=remedy)
        return self.run.folder / stage / "model"

    def earlier_model(self, stage: str) -> Path:
        """The model that `zj run --from` has put aside last. Raises CheckpointError where there is none."""
        manifests = sorted(self.run.folder.glob(f"{stage}.before-*/manifest.json"))
        if not manifests:
            what, remedy = (
                f"there is no earlier {stage} model to start from",
                f"set {stage}.init to sft for the first round",
            )
            raise CheckpointError(what, where=str(self.run.folder), remedy=remedy)
        return manifests[-1].parent / "model"

    def base_model(self) -> str:
        """Folder or hub id of the model that pre-training starts from."""
        return self.config.model.base or str(self.run.folder / "base")

    def launch_fleet(self, model: Path, place: Callable[[int], Any] | None = None) -> Fleet:
        """Engines for models shaped like `model`, which start up if they don't run; follow with `fleet`.

        place: as for `Fleet`.
        """
        if self._fleet is None:
            config = self.config
            self._fleet = Fleet(
                str(model),
                config.model,
                config.fleet,
                config.ray.start_timeout,
                lora_rank=config.ppo.policy.lora.rank if config.ppo.push == "adapter" else 0,
                place=place,
                on_change=lambda table: self.run.status(fleet=table),
                wish=partial(wanted_rollouts, self.run.folder),
            )
            self._fleet.launch()
        return self._fleet

    def fleet(self, model: Path) -> Fleet:
        """The fleet with the weights of `model`, ready to serve."""
        fleet = self.launch_fleet(model)
        fleet.wait_ready()
        fleet.supervise()
        fleet.publish(publish_folder(model, self.versions.next()))
        self.run.status(fleet=fleet.table())
        return fleet

    def scorer(self, model: Path) -> AbstractContextManager[Scorer]:
        """The reward model in the folder `model` as a role by itself, which scores as PPO's does."""
        config = self.config
        return reward_scorer(model, config.ppo, config.model, config.seed, config.ray.start_timeout)

    def release_fleet(self) -> None:
        if self._fleet is not None:
            self._fleet.close()
            self._fleet = None
