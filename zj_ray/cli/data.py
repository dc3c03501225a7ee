"""Where data and rankings come from. What is done with rankings beside the page is in `feedback.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zj_ray.cli.options import RUNS, Overrides, RunName, Runs


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
    typer.echo(write_clinic(folder, settings.data.clinic))
    typer.echo(f"wrote {folder}; use it with --set data.source=files --set data.root={folder}")


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

    run_folder = find_run(run, runs)
    folder = run_folder / "feedback"
    page = open_page(folder, load_config(run_folder / "config.yaml", overrides, frozen=True).feedback.label)
    if account is not None:
        typer.echo(f"the token of {account}, shown only now: {page.accounts.give(account, role)}")
    if gold is not None:
        typer.echo(f"{add_gold(page, gold, 'file')} gold items added")
    if account is None and gold is None:
        serve_page(page, folder, host=host, port=port, tls=tls)
