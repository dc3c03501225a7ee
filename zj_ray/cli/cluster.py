"""What a run has to work with: this machine, a cluster elsewhere, its number of rollout engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zj_ray.cli.options import RUNS, ConfigPath, Overrides, RunName, Runs
from zj_ray.errors import ConfigError


def doctor(
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="CONFIG", help="also check that this run fits here", show_default=False),
    ] = None,
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
    runs: Runs = RUNS,
) -> None:
    """Check this machine: versions, CPU, GPUs, memory, disk, Ray. Every failing line says how to mend it.

    Example: [bold]zj doctor --config configs/demo.yaml[/]
    """
    from zj_ray.cluster.environment import diagnose, table
    from zj_ray.progress import console
    from zj_ray.runs.folder import load_settings

    checks = diagnose(load_settings(config, overrides) if config else None, runs)
    console.print(table(checks))
    if any(check.ok is False for check in checks):
        raise typer.Exit(1)


def submit(
    config: ConfigPath,
    address: Annotated[
        str,
        typer.Option(
            "--address", metavar="URL", help="the cluster's dashboard, e.g. http://head:8265", show_default=False
        ),
    ],
    overrides: Overrides = [],  # noqa: B006
    runs: Runs = RUNS,
) -> None:
    """Start a run as a Ray job on a cluster, and return at once.

    Example: [bold]zj submit configs/zhongjing-13b.yaml --address http://head:8265[/]
    """
    from zj_ray.runs.folder import load_settings
    from zj_ray.runs.jobs import submit as submit_job

    name = load_settings(config, overrides).name  # a bad file is refused here, not minutes later on the cluster
    job = submit_job(config, address=address, overrides=overrides, runs=runs)
    typer.echo(f"job {job}; follow it with: zj logs {name} -f")


def scale(
    run: RunName,
    rollouts: Annotated[
        int | None, typer.Option(metavar="N", help="rollout engines from now on", show_default=False)
    ] = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="leave the number to the config and its autoscaler again")
    ] = False,
    runs: Runs = RUNS,
) -> None:
    """Change the number of rollout engines while a run goes on; nothing that is being said is lost.

    New ones fetch the current weights and start slowly; those that leave finish their turns first. The number stays
    between fleet.min and fleet.max.

    Example: [bold]zj scale demo --rollouts 4[/]
    """
    from zj_ray.runs.jobs import scale as scale_run

    if (rollouts is None) != auto:
        remedy = "give --rollouts N, or --auto, not both"
        raise ConfigError("say how many engines there should be", where="zj scale", remedy=remedy)
    typer.echo(scale_run(run, rollouts, runs=runs))
