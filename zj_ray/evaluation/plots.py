"""Plots of the report as inline SVG: no script, no link, no font file; labels are English, for want of a Chinese font.

A plot's text is fixed in this package or a name of a metric; nothing that a model or a patient said gets in, so the SVG
may stand in the page as it is.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = ("#1f5fa8", "#c2571a", "#3b8f5a", "#7d4fa3", "#8a8a8a")
WIN, TIE, LOSS, BLACK = "#3b8f5a", "#c9ccd1", "#c2571a", "#111111"
Points = Sequence[tuple[float, float]]


def line_plot(
    series: Mapping[str, Points], *, title: str, ylabel: str = "", xlabel: str = "step", level: float | None = None
) -> str:
    """Lines through (x, y) points, one for each name, without empty ones; `level` is a dashed line for comparison."""
    figure, axes = _figure(title)
    lines = {name: points for name, points in series.items() if points}
    for (name, points), colour in zip(lines.items(), COLOURS, strict=False):
        marker = "o" if len(points) < 30 else None
        axes.plot(*zip(*points, strict=True), label=name, color=colour, linewidth=1.6, marker=marker, markersize=3)
    if level is not None:
        axes.axhline(level, color="#8a8a8a", linestyle="--", linewidth=1)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def stacked_plot(steps: Sequence[float], parts: Mapping[str, Sequence[float]], *, title: str, ylabel: str) -> str:
    """Stacked bars [steps] of each part: where the seconds of a step go."""
    figure, axes = _figure(title)
    below = [0.0] * len(steps)
    for (name, values), colour in zip(parts.items(), COLOURS, strict=False):
        axes.bar(steps, values, bottom=below, label=name, color=colour, width=0.8)
        below = [b + v for b, v in zip(below, values, strict=True)]
    axes.set_xlabel("step")
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=len(parts))
    return _svg(figure)


def outcome_bar(
    win: float, tie: float, loss: float, win_ci95: tuple[float, float], safety: Mapping[str, float | None]
) -> str:
    """One bar of win, tie and loss shares, with the 95 % interval of the win share drawn on it.

    safety: share of safe answers by model, a bar each above it, so that no win is seen without it.
    """
    figure, axes = _figure("Safety first: safe answers, then wins of PPO against SFT", height=2.4)
    for y, (name, share) in enumerate(reversed(list(safety.items())), start=1):
        axes.barh([y], [share or 0.0], color=COLOURS[0], height=0.6)
        text = f"{name} safe {'unknown' if share is None else f'{share:.0%}'}"
        axes.text(0.01, y, text, ha="left", va="center", fontsize=9, color="#ffffff" if (share or 0) > 0.3 else BLACK)
    left = 0.0
    for name, share, colour in (("win", win, WIN), ("tie", tie, TIE), ("loss", loss, LOSS)):
        axes.barh([0], [share], left=[left], color=colour, height=0.6)
        if share > 0.08:  # a narrower part has no room for its name; the text below the bar says it
            text = f"{name} {share:.0%}"
            axes.text(left + share / 2, -0.16, text, ha="center", va="center", fontsize=9, color=BLACK)
        left += share
    low, high = win_ci95
    bracket = [[max(0.0, win - low)], [max(0.0, high - win)]]
    axes.errorbar([win], [0.16], xerr=bracket, color=BLACK, capsize=4, linewidth=1.4, marker="|")
    axes.set_xlim(0, 1)
    axes.set_yticks([])
    axes.set_xlabel("share; bracket: 95% interval of the win share")
    axes.grid(visible=False)
    return _svg(figure)


def bar_plot(values: Mapping[str, float], *, title: str, ylabel: str, levels: Mapping[str, float] | None = None) -> str:
    """Bars by name in [0, 1]; `levels` are named dashed lines (chance, ceiling)."""
    figure, axes = _figure(title)
    axes.bar([textwrap.fill(name, 16) for name in values], list(values.values()), color=COLOURS[0], width=0.6)
    for x, value in enumerate(values.values()):
        axes.text(x, value + 0.02, f"{value:.2f}", ha="center", fontsize=8)
    for (name, level), colour in zip((levels or {}).items(), COLOURS[1:], strict=False):
        axes.axhline(level, color=colour, linestyle="--", linewidth=1.2, label=f"{name} {level:.2f}")
    axes.set_ylim(0, 1.15)
    axes.set_ylabel(ylabel)
    axes.tick_params(axis="x", labelsize=8)
    if levels:
        figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=len(levels))
    return _svg(figure)


def interval_plot(
    rows: Mapping[str, tuple[Sequence[float], tuple[float, float] | None]], *, title: str, xlabel: str
) -> str:
    """A line for each row: its values as dots, their mean as a bar with its interval where it has one, beside 0."""
    figure, axes = _figure(title, height=0.8 + 0.36 * len(rows))
    figure.set_figwidth(8)
    for y, (values, interval) in enumerate(rows.values()):
        mean = sum(values) / len(values)
        axes.plot(values, [y] * len(values), "o", color=COLOURS[4], markersize=3.5, alpha=0.7)
        low, high = interval or (mean, mean)
        whiskers = [[mean - low], [high - mean]]
        axes.errorbar([mean], [y], xerr=whiskers, fmt="|", color=COLOURS[0], capsize=3, markersize=9)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [textwrap.fill(name, 52) for name in rows])
    axes.invert_yaxis()
    axes.set_xlabel(xlabel)
    return _svg(figure)


def reliability_plot(series: Mapping[str, Points], *, title: str) -> str:
    """Accuracy over confidence, one line for each name, beside the diagonal on which a calibrated model lies."""
    figure, axes = _figure(title)
    axes.plot([0.5, 1], [0.5, 1], color="#8a8a8a", linestyle="--", linewidth=1)
    for (name, points), colour in zip(series.items(), COLOURS, strict=False):
        axes.plot(*zip(*points, strict=True), label=name, color=colour, linewidth=1.6, marker="o", markersize=3)
    axes.set_xlabel("confidence")
    axes.set_ylabel("pairs ordered rightly")
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _figure(title: str, height: float = 2.7) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    return figure, axes


def _svg(figure: Figure) -> str:
    """The <svg> element alone, without prolog, metadata and namespaces: a page needs none, and they look like links."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "zj_ray", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", transparent=True)
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\s(xmlns(:xlink)?|width|height)="[^"]*"', "", svg, count=4)
    return svg.replace("xlink:href", "href").replace("<svg", '<svg role="img"', 1)
