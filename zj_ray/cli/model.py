"""What a finished run is good for: its report, its model served, consulted and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zj_ray.cli.options import RUNS, RunName, Runs


def report(run: RunName, runs: Runs = RUNS) -> None:
    """Write a run's HTML report again: every stage, curves, win/tie/loss, consultations.

    Example: [bold]zj report demo[/]
    """
    from zj_ray.evaluation.report import write_report
    from zj_ray.runs.folder import find_run

    typer.echo(f"wrote {write_report(find_run(run, runs))}")


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


def chat(run: RunName, runs: Runs = RUNS) -> None:
    """Consult a run's best model in the terminal. Example: [bold]zj chat demo[/]"""
    from zj_ray.runs.folder import find_run

    folder = find_run(run, runs)
    from zj_ray.serving.chat import chat as chat_with

    chat_with(folder)


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
