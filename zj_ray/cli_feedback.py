"""`zj feedback …`: what is done with a run's rankings beside the ranking page. Thin, like the other commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zj_ray.errors import DataError

if TYPE_CHECKING:
    from zj_ray.feedback.store import RankingStore

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Rankings of a run: how far annotators agree, import, export.")

Runs = Annotated[Path, typer.Option("--runs", metavar="FOLDER", help="folder that holds the runs", envvar="ZJ_RUNS")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="the run's name (its folder below runs/), or the folder itself", show_default=False)]
FormatName = Annotated[
    str,
    typer.Option("--format", metavar="FORMAT", help="ranking, preference, label_tasks, label_studio, argilla or zhongjing", show_default=False),
]

RUNS = Path("runs")
STORE = "rankings.sqlite"  # in the folder of the feedback stage


@app.command()
def agreement(run: RunName, runs: Runs = RUNS) -> None:
    """How far annotators agree: Krippendorff's α, two by two, over time, on gold items; how good each is. Writes feedback/agreement.json.

    Example: [bold]zj feedback agreement demo[/]
    """
    from zj_ray.feedback.agreement import measure_agreement
    from zj_ray.feedback.overview import overview
    from zj_ray.progress import console
    from zj_ray.run import find_run

    folder = find_run(run, runs) / "feedback"
    store = _store(folder)
    found = measure_agreement(store.all_rankings(), gold=store.gold())
    store.close()
    found.write(folder / "agreement.json")
    console.print(overview(found))
    console.print(f"wrote {folder / 'agreement.json'}", soft_wrap=True, markup=False)


@app.command(name="import")
def import_(
    run: RunName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="what to take in; of zhongjing the TSV, with its input_file.json beside it")],
    format: FormatName,
    annotator: Annotated[str, typer.Option("--annotator", metavar="NAME", help="whose rankings they are, where the file doesn't say")] = "file",
    runs: Runs = RUNS,
) -> None:
    """Take rankings from a file. What is there already stays as it is; the same file twice adds nothing.

    Example: [bold]zj feedback import demo labelled.json --format label_studio[/]
    """
    from zj_ray.feedback.exchange import choose, take
    from zj_ray.feedback.store import RankingStore
    from zj_ray.run import find_run

    folder = find_run(run, runs) / "feedback"
    items, rankings = choose(format).read(file, annotator)
    store = RankingStore(folder / STORE)
    added = take(store, items, rankings)
    store.close()
    typer.echo(f"{file} has {len(items)} items and {len(rankings)} rankings; {added[0]} items and {added[1]} rankings of them were new")


@app.command()
def export(
    run: RunName,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="the file to write, over one that is there", show_default=False)],
    format: FormatName,
    annotator: Annotated[str | None, typer.Option("--annotator", metavar="NAME", help="only this annotator's rankings", show_default=False)] = None,
    runs: Runs = RUNS,
) -> None:
    """Write a run's items and rankings in a format of this project or of a labelling tool (docs/labelling-formats.md).

    Example: [bold]zj feedback export demo --to tasks.json --format label_studio[/]
    """
    from zj_ray.feedback.exchange import choose
    from zj_ray.run import find_run

    chosen = choose(format)
    store = _store(find_run(run, runs) / "feedback")
    rankings = [r for known in store.all_rankings().values() for r in known if annotator in (None, r.annotator)]
    to.parent.mkdir(parents=True, exist_ok=True)
    written = chosen.write(to, store.items(), rankings)
    store.close()
    typer.echo(f"wrote {to}: {written} records")


def _store(folder: Path) -> RankingStore:
    from zj_ray.feedback.store import RankingStore

    if not (folder / STORE).is_file():
        raise DataError("this run has no rankings yet", where=str(folder / STORE), remedy="let its feedback stage run, or import a file")
    return RankingStore(folder / STORE)
