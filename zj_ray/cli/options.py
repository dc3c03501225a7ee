"""Arguments and options that several commands have, each with its help in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RUNS = Path("runs")

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
