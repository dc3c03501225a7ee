"""A run from its start to its end."""

from __future__ import annotations

from typing import Annotated

import typer

from zj_ray.cli.options import RUNS, ConfigPath, Overrides, RunName, Runs
from zj_ray.errors import ConfigError


def run(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
    runs: Runs = RUNS,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="STAGE", help="do this stage and all after it again, e.g. --from ppo", show_default=False
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the settings and who would sit where, and start nothing")
    ] = False,
    allow_change: Annotated[
        list[str],
        typer.Option(
            metavar="KEY",
            help="let this key or section differ from how the run was started; repeatable",
            show_default=False,
        ),
    ] = [],  # noqa: B006
) -> None:
    """Run every stage, on this machine or on the Ray cluster it is attached to. Finished stages are skipped.

    Stopped half-way? The same command goes on from the last checkpoint.

    Example: [bold]zj run configs/demo.yaml --set ppo.steps=4 --set name=quick[/]
    """
    from zj_ray.config import dump_config
    from zj_ray.config.schema import STAGES
    from zj_ray.runs.folder import load_settings

    settings = load_settings(config, overrides)
    if start_from is not None and start_from not in settings.stages:
        reason = "is not in the run's stages" if start_from in STAGES else "is not a stage"
        remedy = f"choose from {', '.join(settings.stages)}"
        raise ConfigError(f"{start_from!r} {reason}", where="--from", remedy=remedy)
    if dry_run:
        from zj_ray.pipeline import plan
        from zj_ray.progress import console

        typer.echo(dump_config(settings))
        console.print(plan(settings))
        return
    from zj_ray.pipeline import run as run_pipeline

    typer.echo(f"the run is in {run_pipeline(settings, runs=runs, start_from=start_from, allowed=allow_change)}")


def config(
    section: Annotated[
        str, typer.Argument(metavar="SECTION", help="only this section or key, e.g. ppo or ppo.mix", show_default=False)
    ] = "",
) -> None:
    """List every key that a run's YAML file may set, with type, default and meaning.

    Example: [bold]zj config ppo.mix[/]
    """
    from zj_ray.config import Config, explain

    typer.echo(explain(Config, section), nl=False)


def status(run: RunName, runs: Runs = RUNS) -> None:
    """Show how far a run is: its stages, their time, the latest figures. Example: [bold]zj status demo[/]"""
    from zj_ray.progress import console
    from zj_ray.runs.jobs import status as status_of

    console.print(status_of(run, runs=runs))


def runs(runs: Runs = RUNS) -> None:
    """List all runs: state, stage, step, age and size, the latest first. Example: [bold]zj runs[/]"""
    from zj_ray.progress import console
    from zj_ray.runs.jobs import listing

    console.print(listing(runs=runs))


def logs(
    run: RunName,
    runs: Runs = RUNS,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="keep printing until the run ends")] = False,
) -> None:
    """Print a run's log. Example: [bold]zj logs demo -f[/]"""
    from zj_ray.runs.jobs import logs as show_logs

    show_logs(run, runs=runs, follow=follow)


def stop(run: RunName, runs: Runs = RUNS) -> None:
    """Stop a run; what it finished is kept, and `zj run` goes on from there. Example: [bold]zj stop demo[/]"""
    from zj_ray.runs.jobs import stop as stop_run

    typer.echo(stop_run(run, runs=runs))
