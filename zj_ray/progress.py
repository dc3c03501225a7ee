"""What a user sees while something takes long: a bar on a terminal, one plain line every ten seconds elsewhere.

All output for humans goes through `console`, so that bars and lines do not overwrite each other. Figures given to
`advance` are shown as they are: pass numbers that mean something (loss, tokens/s), not whole records.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(highlight=False)
PLAIN_SECONDS = 10.0  # between two lines when stdout is a file or a pipe


class Bar:
    """Progress of one piece of work; made by `progress`."""

    def __init__(self, title: str, total: int | None, show: Callable[[Bar], None]) -> None:
        self.title, self.total, self.done = title, total, 0
        self.figures: dict[str, float | int | str] = {}
        self.started = time.monotonic()
        self._show = show

    def advance(self, n: int = 1, **figures: float | int | str) -> None:
        """Count `n` more as done; `figures` replace the shown ones of the same name."""
        self.done += n
        self.figures.update(figures)
        self._show(self)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def line(self) -> str:
        """Everything on one line of plain text."""
        count = f"{self.done}/{self.total}" if self.total is not None else str(self.done)
        return f"{self.title}: {count}, {_span(self.seconds)}{self._remaining()}{self.details()}"

    def details(self) -> str:
        return "".join(f"  {name} {_figure(value)}" for name, value in self.figures.items())

    def _remaining(self) -> str:
        if self.total is None or not 0 < self.done < self.total:
            return ""
        return f", about {_span(self.seconds / self.done * (self.total - self.done))} left"


@contextmanager
def progress(title: str, total: int | None = None) -> Iterator[Bar]:
    """Show a bar: `with progress("sft", 200) as bar: bar.advance(1, loss=0.4)`; total None: the end isn't known."""
    with (_drawn if console.is_terminal else _printed)(title, total) as bar:
        yield bar


@contextmanager
def _drawn(title: str, total: int | None) -> Iterator[Bar]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, TextColumn("{task.fields[details]}"), console=console) as display:
        task = display.add_task(title, total=total, details="")
        yield Bar(title, total, lambda bar: display.update(task, completed=bar.done, details=bar.details()))


@contextmanager
def _printed(title: str, total: int | None) -> Iterator[Bar]:
    last_line = time.monotonic()

    def show(bar: Bar) -> None:
        nonlocal last_line
        if time.monotonic() - last_line >= PLAIN_SECONDS:
            last_line = time.monotonic()
            _print_plain(bar.line())

    bar = Bar(title, total, show)
    try:
        yield bar
    finally:
        _print_plain(bar.line())


def _print_plain(line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)


def _figure(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _span(seconds: float) -> str:
    """83 → "1:23"; 7265 → "2:01:05"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
