"""What `zj status` shows: a run's state, its stages and its rollout engines, from run.json and the manifests.

Nothing here writes or asks a cluster. `job` and `alive` are passed in, since run.json alone can't know that its process
was killed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from zj_ray.config.load import load_config
from zj_ray.config.schema import STAGES
from zj_ray.files import read_json

COLOURS = {
    "finished": "green",
    "running": "cyan",
    "submitted": "cyan",
    "failed": "red",
    "died": "red",
    "stopped": "yellow",
    "waiting": "yellow",
}
JOB_STATES = {"SUCCEEDED": "finished", "FAILED": "failed", "STOPPED": "stopped"}  # Ray's final states of a job


def render(
    folder: Path, record: dict[str, Any], *, job: str | None, alive: bool, now: float | None = None
) -> RenderableType:
    """record: run.json; job: Ray's word on the run's job, None if it is none; alive: a process holds the run's lock."""
    now = time.time() if now is None else now
    parts: list[RenderableType] = [_head(folder, record, job, alive, now), _stages(folder, record)]
    if record.get("fleet"):
        parts.append(_fleet(record["fleet"]))
    return Group(*parts)


def state(record: dict[str, Any], *, job: str | None, alive: bool) -> str:
    """The run's true state: a process or job that ended without a word is not running, whatever run.json says."""
    recorded = str(record.get("state", "not started"))
    if recorded in ("running", "submitted"):
        if job is not None:
            return JOB_STATES.get(job, recorded)
        return recorded if alive else "died"
    return recorded


def _head(folder: Path, record: dict[str, Any], job: str | None, alive: bool, now: float) -> RenderableType:
    true_state = state(record, job=job, alive=alive)
    table = Table.grid(padding=(0, 2))
    table.add_row("run", str(record.get("name", folder.name)))
    table.add_row("folder", str(folder))
    table.add_row("state", f"[{COLOURS.get(true_state, 'default')}]{true_state}[/]")
    if record.get("stage"):
        step = f", step {record['step']} of {record['total']}" if record.get("total") else ""
        table.add_row("stage", f"{record['stage']}{step}")
    if record.get("updated"):
        table.add_row("last update", f"{age(now - record['updated'])} ago")
    if record.get("job_id"):
        table.add_row("job", f"{record['job_id']} at {record['ray_address']}: {job}")
    elif record.get("pid"):
        table.add_row("process", f"{record['pid']} on {record.get('host')}")
    if record.get("error"):
        table.add_row("error", f"[red]{escape(str(record['error']))}[/]")
    return table


def overview(rows: Sequence[tuple[Path, dict[str, Any], bool]], now: float | None = None) -> RenderableType:
    """All runs, the latest first. rows: folder, run.json, and whether a process holds its lock, which no job does."""
    now = time.time() if now is None else now
    table = Table("run", "state", "stage", "step", "last update", "size")
    for folder, record, alive in sorted(rows, key=lambda row: -row[1].get("updated", 0.0)):
        is_job = bool(record.get("job_id")) and record.get("state") in ("running", "submitted")
        true_state = f"{record['state']} (job)" if is_job else state(record, job=None, alive=alive)
        step = f"{record['step']} of {record['total']}" if record.get("total") else ""
        updated = f"{age(now - record['updated'])} ago" if record.get("updated") else ""
        colour = COLOURS.get(true_state.split()[0], "default")
        stage, size = record.get("stage") or "", decimal(_bytes(folder))
        table.add_row(folder.name, f"[{colour}]{true_state}[/]", stage, step, updated, size)
    return table


def _bytes(folder: Path) -> int:
    """What its files take, without what is deleted while it is counted."""
    sizes = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            sizes += path.lstat().st_size
    return sizes


def _stages(folder: Path, record: dict[str, Any]) -> RenderableType:
    table = Table("stage", "state", "seconds", "finished")
    config = folder / "config.yaml"
    for stage in load_config(config, frozen=True).stages if config.exists() else STAGES:
        path = folder / stage / "manifest.json"
        if (manifest := read_json(path)) is not None:
            seconds = manifest.get("seconds")
            finished = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
            table.add_row(stage, "[green]finished[/]", "" if seconds is None else f"{seconds:.0f}", finished)
        else:
            table.add_row(stage, "[cyan]current[/]" if stage == record.get("stage") else "", "", "")
    return table


def _fleet(engines: list[dict[str, Any]]) -> RenderableType:
    """One row for each engine; the columns are the first engine's keys."""
    table = Table(*(key.replace("_", " ") for key in engines[0]), title="rollout engines")
    for engine in engines:
        table.add_row(*(escape(str(engine.get(key, ""))) for key in engines[0]))
    return table


def age(seconds: float) -> str:
    """5 → "5 s"; 300 → "5 min"; 7300 → "2.0 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
