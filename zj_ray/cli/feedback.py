"""`zj feedback …`: what is done with a run's rankings beside the ranking page. Thin, like the other commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zj_ray.cli.options import RUNS, RunName, Runs
from zj_ray.errors import DataError

if TYPE_CHECKING:
    from zj_ray.rankings.store import RankingStore

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Rankings of a run: how far annotators agree, import, export."
)

FormatName = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="ranking, preference, label_tasks, label_studio, zhongjing; argilla can only be imported",
        show_default=False,
    ),
]


@app.command()
def agreement(run: RunName, runs: Runs = RUNS) -> None:
    """How far annotators agree: Krippendorff's α, two by two, over time, on gold items; how good each is.

    Also written to feedback/agreement.json.

    Example: [bold]zj feedback agreement demo[/]
    """
    from zj_ray.agreement.measure import measure_agreement
    from zj_ray.agreement.overview import overview
    from zj_ray.progress import console
    from zj_ray.runs.folder import find_run

    folder = find_run(run, runs)
    store = _store(folder)
    measured = measure_agreement(store.all_rankings(), gold=store.gold())
    store.close()
    path = folder / "feedback" / "agreement.json"
    measured.write(path)
    console.print(overview(measured))
    console.print(f"wrote {path}", soft_wrap=True, markup=False)


@app.command(name="import")
def import_(
    run: RunName,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="what to take in; of zhongjing the TSV, with its input_file.json beside it"
        ),
    ],
    format: FormatName,
    annotator: Annotated[
        str, typer.Option("--annotator", metavar="NAME", help="whose rankings they are, where the file doesn't say")
    ] = "file",
    runs: Runs = RUNS,
) -> None:
    """Take rankings from a file. What is there already stays as it is; the same file twice adds nothing.

    Example: [bold]zj feedback import demo labelled.json --format label_studio[/]
    """
    from zj_ray.rankings.formats.exchange import reader, take
    from zj_ray.runs.folder import find_run

    items, rankings = reader(format)(file, annotator)
    store = _store(find_run(run, runs), new=True)
    new_items, new_rankings = take(store, items, rankings)
    store.close()
    contents = f"{len(items)} items and {len(rankings)} rankings"
    typer.echo(f"{file} has {contents}; {new_items} items and {new_rankings} rankings of them were new")


@app.command()
def export(
    run: RunName,
    to: Annotated[
        Path, typer.Option("--to", metavar="FILE", help="the file to write, over one that is there", show_default=False)
    ],
    format: FormatName,
    annotator: Annotated[
        str | None,
        typer.Option("--annotator", metavar="NAME", help="only this annotator's rankings", show_default=False),
    ] = None,
    runs: Runs = RUNS,
) -> None:
    """Write a run's items and rankings in a format of this project or of a labelling tool (docs/labelling-formats.md).

    Example: [bold]zj feedback export demo --to tasks.json --format label_studio[/]
    """
    from zj_ray.rankings.formats.exchange import writer
    from zj_ray.runs.folder import find_run

    write = writer(format)
    store = _store(find_run(run, runs))
    items, rankings = store.contents()
    store.close()
    records = write(to, items, [r for r in rankings if annotator in (None, r.annotator)])
    typer.echo(f"wrote {to}: {records} records")


@app.command()
def collect(
    run: RunName,
    prompts: Annotated[int, typer.Option("--prompts", metavar="N", help="contexts to be answered", min=2)] = 200,
    runs: Runs = RUNS,
) -> None:
    """Let the run's PPO model answer, for the next round of ranking.

    Half the contexts are moments of its own consultations. Doctors rank the answers with zj label RUN (simulated
    annotators at once, where the run has those); zj run CONFIG --from reward learns from the rankings of all rounds.

    Example: [bold]zj feedback collect demo --prompts 500[/]
    """
    from zj_ray.runs.folder import Run, find_run

    folder = find_run(run, runs)
    from zj_ray.pipeline import collect_round

    collected = collect_round(Run.load(folder), prompts)
    items, ranked = collected["items"], collected["ranked"]
    typer.echo(f"round {collected['round']}: {items} items, {ranked} of them ranked")
    first = "" if ranked == items else f"rank them with: zj label {run}; then "
    typer.echo(f"{first}learn from them with: zj run CONFIG --from reward")


def _store(folder: Path, new: bool = False) -> RankingStore:
    """The store of a run folder's feedback stage. new: one without rankings may be opened, too."""
    from zj_ray.rankings.store import open_rankings
    from zj_ray.runs.folder import Run

    stage, url = folder / "feedback", Run.load(folder).config.feedback.label.store
    if not new and url is None and not (stage / "rankings.sqlite").is_file():
        raise DataError("this run has no rankings yet", where=str(stage), remedy="let its feedback stage run first")
    return open_rankings(stage, url)
