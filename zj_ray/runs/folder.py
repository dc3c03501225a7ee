"""The run folder: the frozen config, every stage's folder and manifest, the run's status and its lock.

`Run` owns the names and the atomicity of what lies in the folder; the stages own the contents. What a reader must not
get wrong: a stage is finished when, and only when, its `manifest.json` exists. It is written last and in one rename, so
a stage that was killed leaves none and is done again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zj_ray.config import dump_config, load_config
from zj_ray.config.schema import Config
from zj_ray.errors import CheckpointError, ConfigError, PeopleNeeded, ZjError
from zj_ray.files import read_json, write_atomic, write_json
from zj_ray.runs.lock import RunLock

# Where a run runs and how far it goes may change between sessions; what it computes may not.
MOVABLE = ("ray", "serve", "stages", "checkpoints")
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
JOB_ID, JOB_ADDRESS = "ZJ_JOB_ID", "ZJ_JOB_ADDRESS"  # `jobs.submit` sets them in the environment of the run


@dataclass
class Run:
    folder: Path
    config: Config
    _writing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def open(cls, folder: Path, config: Config, allowed: Sequence[str] = ()) -> Run:
        """Create the folder and freeze the config in it, or reopen it with the same config.

        allowed: keys or sections that may differ, as `MOVABLE` ones may. Raises ConfigError naming the first other key
        that does.
        """
        folder = Path(folder).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        frozen = folder / "config.yaml"
        if frozen.exists():
            changed = _first_difference(load_config(frozen, frozen=True), config, allowed)
            if changed is not None:
                key, before, now = changed
                what = f"{key} is {now!r}, but this run was started with {before!r}"
                remedy = f"start a new run with --set name=…, go on with --set {key}={_as_setting(before)}, "
                remedy += f"or change it with --allow-change {key}"
                raise ConfigError(what, where=str(frozen), remedy=remedy)
        else:
            write_atomic(frozen, dump_config(config))
        return cls(folder, config)

    @classmethod
    def load(cls, folder: Path) -> Run:
        """An existing run, for readers. Raises CheckpointError if the folder holds no run."""
        folder = Path(folder).absolute()
        if not (folder / "config.yaml").is_file():
            what, remedy = "no run was started in this folder (no config.yaml)", "start it with: zj run CONFIG"
            raise CheckpointError(what, where=str(folder), remedy=remedy)
        return cls(folder, load_config(folder / "config.yaml", frozen=True))

    @property
    def data_root(self) -> Path:
        """Where train/ and valid/ lie: the clinic's texts inside the run, or the user's own folder."""
        return self.folder / "data" if self.config.data.source == "clinic" else Path(self.config.data.root or "")

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tensorboard"

    def checkpoint_url(self, stage: str) -> str | None:
        """Where a stage's checkpoints are copied to, if anywhere."""
        return f"{self.config.checkpoints.rstrip('/')}/{self.config.name}/{stage}" if self.config.checkpoints else None

    def stage(self, name: str) -> Path:
        """The folder of a stage, made if need be."""
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """What the stage left behind, or None while it is not finished."""
        return read_json(self.folder / stage / "manifest.json")

    def finish(self, stage: str, manifest: dict[str, Any]) -> None:
        """Declare the stage finished. Everything that the manifest names must be on disk by now."""
        write_json(self.stage(stage) / "manifest.json", manifest)

    def status(self, **fields: Any) -> dict[str, Any]:
        """Merge fields into run.json and return all of it.

        Its fields: name, state, error; stage, step, total; pid, host, job_id, ray_address; fleet; started, updated.
        """
        with self._writing:
            merged = {**read_status(self.folder), **fields, "name": self.config.name, "updated": time.time()}
            write_json(self.folder / "run.json", merged)
        return merged

    @contextlib.contextmanager
    def running(self) -> Iterator[Run]:
        """Own the run while it works: the lock, log.txt, and run.json's state from start to end.

        Raises ZjError naming the owner if another live process works on this run.
        """
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # A shell's background process ignores what `zj stop` sends.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        with RunLock(self.folder / "run.lock"):
            # Movable keys may be new; only the owner writes them.
            write_atomic(self.folder / "config.yaml", dump_config(self.config))
            handler = self.log_to_file()
            process = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
            job = {"job_id": os.environ.get(JOB_ID), "ray_address": os.environ.get(JOB_ADDRESS)}
            self.status(state="running", error=None, stage=None, step=0, total=0, fleet=None, **process, **job)
            try:
                yield self
            except (KeyboardInterrupt, SystemExit):
                self.status(state="stopped")
                raise
            except PeopleNeeded as wait:
                self.status(state="waiting", error=str(wait))
                raise
            except BaseException as fault:
                self.status(state="failed", error=f"{type(fault).__name__}: {fault}")
                logging.getLogger("zj_ray").exception("the run failed")
                raise
            else:
                self.status(state="finished")
            finally:
                logging.getLogger("zj_ray").removeHandler(handler)
                handler.close()

    def log_to_file(self) -> logging.Handler:
        """Let all that `zj_ray` logs in this process go to log.txt, too; returns the handler, to be removed later."""
        handler = logging.FileHandler(self.folder / "log.txt", encoding="utf-8")
        handler.setFormatter(logging.Formatter(LOG_FORMAT))
        logger = logging.getLogger("zj_ray")
        logger.addHandler(handler)
        if logger.getEffectiveLevel() > logging.INFO:
            logger.setLevel(logging.INFO)
        return handler


def load_settings(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config in a file that the user names. A run folder's own may have been frozen by an earlier version."""
    return load_config(path, overrides, frozen=(Path(path).parent / "run.json").is_file())


def read_status(folder: Path) -> dict[str, Any]:
    """The run.json of a run folder, empty if there is none yet; a submitted job has one before its config is frozen."""
    return read_json(folder / "run.json") or {}


def want_rollouts(run: Run, engines: int | None) -> None:
    """Ask for so many rollout engines; the process that works on the run sees to it within seconds.

    engines: None for what the config says. The wish stays when the run is stopped and resumed. Raises ConfigError if
    the run can't have so many.
    """
    path, fleet = run.folder / "scale.json", run.config.fleet
    if engines is None:
        path.unlink(missing_ok=True)
        return
    if any("engines" in group for group in run.config.ppo.colocate):
        remedy = "start a run without engines in ppo.colocate"
        raise ConfigError("the run's engines have fixed places beside roles", where="ppo.colocate", remedy=remedy)
    if not fleet.min <= engines <= fleet.max:
        what = f"{engines} engines are not between fleet.min {fleet.min} and fleet.max {fleet.max}"
        remedy = "ask for a number between them; the bounds stand when a run is started"
        raise ConfigError(what, where=str(run.folder / "config.yaml"), remedy=remedy)
    write_json(path, {"rollouts": engines, "asked": time.time()})


def wanted_rollouts(folder: Path) -> int | None:
    """The engines that `want_rollouts` asked for last. Raises ConfigError if somebody else has written there."""
    path = folder / "scale.json"
    try:
        wish = read_json(path)
        return None if wish is None else int(wish["rollouts"])
    except (ValueError, KeyError, TypeError) as error:
        what = f"no number of engines can be read here: {error}"
        raise ConfigError(what, where=str(path), remedy="ask anew with: zj scale RUN") from error


def find_run(name_or_path: str, runs: Path) -> Path:
    """The folder of a run given by its name under `runs` or by its path. Raises ZjError listing the nearest names."""
    for folder in (runs / name_or_path, Path(name_or_path)):
        if (folder / "run.json").is_file() or (folder / "config.yaml").is_file():
            return folder.absolute()
    names = sorted(p.parent.name for p in runs.glob("*/config.yaml")) if runs.is_dir() else []
    near = difflib.get_close_matches(name_or_path, names, n=3, cutoff=0.4) or names[:5]
    remedy = f"did you mean {', '.join(near)}?" if near else "start one with: zj run CONFIG"
    raise ZjError(f"no run is called {name_or_path!r}", where=str(runs), remedy=remedy)


def _first_difference(before: Config, now: Config, allowed: Sequence[str]) -> tuple[str, Any, Any] | None:
    """(dotted key, value before, value now) of the first setting that differs and may not, in the schema's order."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    for key, value in new.items():
        free = any(f"{key}.".startswith(f"{part}.") for part in (*MOVABLE, *allowed))
        if old[key] != value and not free:
            return key, old[key], value
    return None


def _leaves(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for item in dataclasses.fields(section):
        value = getattr(section, item.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, value


def _as_setting(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
