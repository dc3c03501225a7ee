"""What the user types. Each command is thin: it finds the run, calls the floor below, and prints what came back.

Heavy modules (torch, ray, vllm) are imported inside the commands, so that `zj --help` answers at once. A `ZjError` ends
any command with one line on stderr and exit status 2; every other exception is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from zj_ray.cli.feedback import app as feedback_app
from zj_ray.errors import ZjError

USER_FAULT, INTERRUPTED = 2, 130


class _OneErrorPath(TyperGroup):
    """Turns the faults that a user can mend into one red line and exit status 2, in every command."""

    def invoke(self, ctx: Any) -> Any:  # a Context of the click that typer brings
        try:
            return super().invoke(ctx)
        except ZjError as error:
            Console(stderr=True, highlight=False, soft_wrap=True).print(_line(error), style="bold red", markup=False)
            raise typer.Exit(USER_FAULT) from None
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted; the same command goes on where this one stopped", style="yellow")
            raise typer.Exit(INTERRUPTED) from None


def _line(error: ZjError) -> str:
    """One line. Built from the parts, since Ray wraps an error's text in a remote traceback."""
    place = f"{error.where}: " if error.where else ""
    advice = f" — {error.remedy}" if error.remedy else ""
    return " ".join(f"error: {place}{error.what}{advice}".split())


app = typer.Typer(
    cls=_OneErrorPath,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Zhongjing on Ray: teach a language model to consult like a doctor, from pre-training to PPO and serving. "
        "中文医患对话大模型的全流程训练。\n\n"
        "Start here: [bold]zj doctor[/], then [bold]zj run configs/demo.yaml[/], then [bold]zj chat demo[/].\n\n"
        "For research only; nothing that these models say is medical advice. 仅供研究，不构成医疗建议。"
    ),
)

ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="the run's YAML file, e.g. configs/demo.yaml", show_default=False)
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="KEY=VALUE", help="override a key, e.g. --set ppo.steps=4; may be repeated", show_default=False
    ),
]
Runs = Annotated[Path, typer.Option("--runs", metavar="FOLDER", help="folder that holds the runs", envvar="ZJ_RUNS")]
RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="the run's name (its folder below runs/), or the folder itself", show_default=False
    ),
]

RUNS = Path("runs")


@app.command()
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
    from zj_ray.config import load_config
    from zj_ray.progress import console

    checks = diagnose(load_config(config, overrides) if config else None, runs)
    console.print(table(checks))
    if any(check.ok is False for check in checks):
        raise typer.Exit(1)


@app.command(name="config")
def config_(
    section: Annotated[
        str, typer.Argument(metavar="SECTION", help="only this section or key, e.g. ppo or ppo.mix", show_default=False)
    ] = "",
) -> None:
    """List every key that a run's YAML file may set, with type, default and meaning.

    Example: [bold]zj config ppo.mix[/]
    """
    from zj_ray.config import Config, explain

    typer.echo(explain(Config, section), nl=False)


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006
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
    from zj_ray.config import dump_config, load_config
    from zj_ray.config.schema import STAGES
    from zj_ray.errors import ConfigError

    settings = load_config(config, overrides)
    if start_from is not None and start_from not in settings.stages:
        known = "is not in the run's stages" if start_from in STAGES else "is not a stage"
        raise ConfigError(f"{start_from!r} {known}", where="--from", remedy=f"choose from {', '.join(settings.stages)}")
    if dry_run:
        from zj_ray.pipeline import plan
        from zj_ray.progress import console

        typer.echo(dump_config(settings))
        console.print(plan(settings))
        return
    from zj_ray.pipeline import run as run_pipeline

    typer.echo(f"the run is in {run_pipeline(settings, runs=runs, start_from=start_from, allowed=allow_change)}")


@app.command()
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
    from zj_ray.config import load_config
    from zj_ray.runs.jobs import submit as submit_job

    settings = load_config(config, overrides)  # a bad file is refused here, not minutes later on the cluster
    job = submit_job(config, address=address, overrides=overrides, runs=runs)
    typer.echo(f"job {job}; follow it with: zj logs {settings.name} -f")


@app.command()
def status(run: RunName, runs: Runs = RUNS) -> None:
    """Show how far a run is: its stages, their time, the latest figures. Example: [bold]zj status demo[/]"""
    from zj_ray.runs.jobs import status as show_status

    _show(show_status(run, runs=runs))


@app.command(name="runs")
def runs_(runs: Runs = RUNS) -> None:
    """List all runs: state, stage, step, age and size, the latest first. Example: [bold]zj runs[/]"""
    from zj_ray.runs.jobs import listing

    _show(listing(runs=runs))


@app.command()
def logs(
    run: RunName,
    runs: Runs = RUNS,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="keep printing until the run ends")] = False,
) -> None:
    """Print a run's log. Example: [bold]zj logs demo -f[/]"""
    from zj_ray.runs.jobs import logs as show_logs

    show_logs(run, runs=runs, follow=follow)


@app.command()
def stop(run: RunName, runs: Runs = RUNS) -> None:
    """Stop a run; what it finished is kept, and `zj run` goes on from there. Example: [bold]zj stop demo[/]"""
    from zj_ray.runs.jobs import stop as stop_run

    _show(stop_run(run, runs=runs))


@app.command()
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

    New ones fetch the current weights and start slowly; those that leave finish their turns first. fleet.min and fleet.max bound it.

    Example: [bold]zj scale demo --rollouts 4[/]
    """
    from zj_ray.errors import ConfigError
    from zj_ray.runs.jobs import scale as scale_run

    if (rollouts is None) != auto:
        raise ConfigError(
            "say how many engines there should be", where="zj scale", remedy="give --rollouts N, or --auto, not both"
        )
    _show(scale_run(run, rollouts, runs=runs))


@app.command()
def report(run: RunName, runs: Runs = RUNS) -> None:
    """Write a run's HTML report again: every stage, curves, win/tie/loss, consultations. Example: [bold]zj report demo[/]"""
    from zj_ray.evaluation.report import write_report
    from zj_ray.runs.folder import find_run

    typer.echo(f"wrote {write_report(find_run(run, runs))}")


@app.command()
def label(
    run: RunName,
    runs: Runs = RUNS,
    overrides: Overrides = [],  # noqa: B006
    host: Annotated[
        str, typer.Option(help="address to listen on; 0.0.0.0 opens it to the network: then give --tls, too")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port; 0 picks a free one", min=0, max=65535)] = 8010,
    tls: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="CERT KEY", help="serve HTTPS with these files", show_default=False),
    ] = None,
    account: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="make this account or give it a new token, and end", show_default=False),
    ] = None,
    role: Annotated[str, typer.Option(help="of --account: annotator, adjudicator, admin, or closed")] = "annotator",
    gold: Annotated[
        Path | None, typer.Option(metavar="FILE", help="make gold items of these ranks, and end", show_default=False)
    ] = None,
) -> None:
    """Open the ranking page for doctors. The first start prints an administrator's token. Ends with Ctrl-C.

    Example: [bold]zj label demo --account dr_wang --role annotator[/], then [bold]zj label demo[/]
    """
    from zj_ray.config import load_config
    from zj_ray.labelling.server import add_gold, open_page
    from zj_ray.labelling.server import serve as serve_page
    from zj_ray.runs.folder import find_run

    found = find_run(run, runs)
    folder = found / "feedback"
    page = open_page(folder, load_config(found / "config.yaml", overrides, frozen=True).feedback.label)
    if account is not None:
        typer.echo(f"the token of {account}, shown only now: {page.accounts.give(account, role)}")
    if gold is not None:
        typer.echo(f"{add_gold(page, gold, 'file')} gold items added")
    if account is None and gold is None:
        serve_page(page, folder, host=host, port=port, tls=tls)


@app.command()
def serve(
    run: RunName,
    runs: Runs = RUNS,
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0 opens it to the network")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port; 0 picks a free one", min=0, max=65535)] = 8000,
) -> None:
    """Serve a run's best model: an OpenAI-compatible endpoint on Ray Serve. Ends with Ctrl-C.

    Example: [bold]zj serve demo --port 8000[/]
    """
    from zj_ray.runs.folder import find_run

    folder = find_run(run, runs)
    from zj_ray.serving.serve import serve as serve_run

    serve_run(folder, host=host, port=port)


@app.command()
def chat(run: RunName, runs: Runs = RUNS) -> None:
    """Consult a run's best model in the terminal. Example: [bold]zj chat demo[/]"""
    from zj_ray.runs.folder import find_run

    folder = find_run(run, runs)
    from zj_ray.serving.chat import chat as chat_with

    chat_with(folder)


@app.command()
def export(
    run: RunName,
    to: Annotated[
        Path, typer.Option("--to", metavar="FOLDER", help="a folder that does not exist yet", show_default=False)
    ],
    stage: Annotated[str, typer.Option(metavar="STAGE", help="whose model: ppo, sft or pretrain")] = "ppo",
    runs: Runs = RUNS,
) -> None:
    """Write a stage's model as a plain Hugging Face folder with a model card; transformers and vLLM load it as it is.

    Example: [bold]zj export demo --stage ppo --to /models/demo[/]
    """
    from zj_ray.runs.folder import Run, find_run

    folder = find_run(run, runs)
    from zj_ray.serving.export import export as export_model

    typer.echo(f"the model is in {export_model(Run.load(folder), stage, to.absolute())}")


@app.command()
def data(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="where to write train/ and valid/", show_default=False)
    ],
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="CONFIG", help="take data.clinic from this run", show_default=False),
    ] = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Write the synthetic clinic's data as JSONL, to look at it or as a pattern for your own.

    Example: [bold]zj data /data/clinic[/]
    """
    from zj_ray.config import Config, load_config
    from zj_ray.data.clinic import write_clinic

    settings = load_config(config, overrides) if config else Config()
    write_clinic(folder, settings.data.clinic)
    typer.echo(f"wrote {folder}; use it with --set data.source=files --set data.root={folder}")


app.add_typer(feedback_app, name="feedback")


def _show(answer: Any) -> None:
    """Print what a command's floor returned, if it did not print by itself."""
    if answer is not None:
        from zj_ray.progress import console

        console.print(answer, soft_wrap=isinstance(answer, str), markup=not isinstance(answer, str))


def main() -> None:
    app(prog_name="zj")
