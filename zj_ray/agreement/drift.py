"""Whether an annotator drifts: how well they agree with the others, from their first rankings to their last.

It may be the others who drift: where one of few annotators does, the agreement of all falls, and that one's falls most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from scipy.stats import linregress, t

from zj_ray.agreement.concordance import tau_b
from zj_ray.rankings.consensus import competition_ranks, consensus
from zj_ray.rankings.tables import Ranking

WINDOWS = 4
FEWEST = 20  # comparable rankings; of fewer, a trend's interval says nothing


@dataclass(frozen=True)
class Window:
    """A part of an annotator's rankings, from `since` to `until` (ISO 8601), and their agreement with the others.

    tau_b: of its n rankings with the consensus of the others, on average.
    """

    since: str
    until: str
    n: int
    tau_b: float


@dataclass(frozen=True)
class Drift:
    """How an annotator's agreement with the others changed.

    windows: of equally many rankings each, in order of time; none where too few can be compared, or all were saved at
    one moment. change: of τ-b from the first ranking to the last by a straight line, with its 95 % interval; both None
    without windows.
    """

    windows: tuple[Window, ...]
    change: float | None
    ci95: tuple[float, float] | None


def drift(rankings: Mapping[str, Sequence[Ranking]]) -> dict[str, Drift]:
    """The drift of every annotator against the consensus of the others, by name.

    Rankings that have no time (`Ranking.created`) are left out.
    """
    points: dict[str, list[tuple[datetime, float]]] = {
        r.annotator: [] for of_item in rankings.values() for r in of_item
    }
    for of_item in rankings.values():
        for ranking in of_item if len(of_item) > 1 else ():
            others = tuple(competition_ranks(consensus([r for r in of_item if r is not ranking])))
            if ranking.created is not None and (tau := tau_b(ranking.overall, others)) is not None:
                points[ranking.annotator].append((ranking.created, tau))
    return {name: _trend(sorted(of_annotator)) for name, of_annotator in sorted(points.items())}


def _trend(points: Sequence[tuple[datetime, float]]) -> Drift:
    if len(points) < FEWEST or points[0][0] == points[-1][0]:
        return Drift((), None, None)
    parts = [[points[k] for k in part] for part in np.array_split(np.arange(len(points)), WINDOWS)]
    windows = tuple(_window(part) for part in parts)
    line = linregress(np.linspace(0, 1, len(points)), [value for _, value in points])
    margin = float(t.ppf(0.975, len(points) - 2) * line.stderr)
    return Drift(windows, float(line.slope), (float(line.slope) - margin, float(line.slope) + margin))


def _window(points: Sequence[tuple[datetime, float]]) -> Window:
    mean = float(np.mean([value for _, value in points]))
    return Window(points[0][0].isoformat(), points[-1][0].isoformat(), len(points), mean)
