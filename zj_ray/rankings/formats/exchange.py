"""Rankings between files and a store. What the store knows is left as it is, so that a file may be taken in any number of times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from zj_ray.errors import ConfigError, DataError
from zj_ray.rankings.formats import argilla, label_studio, label_tasks, preference, ranking, zhongjing
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import Item, Ranking


class Format(NamedTuple):
    """read(path, annotator): what the file holds; annotator: whose rankings they are, where it doesn't say. Raises DataError naming
    file and record. write(path, items, rankings): in one step, over a file that is there; returns the number of records.
    """

    read: Callable[[Path, str], tuple[list[Item], list[Ranking]]]
    write: Callable[[Path, Sequence[Item], Sequence[Ranking]], int]


FORMATS = {
    module.__name__.rpartition(".")[2]: Format(module.read, module.write)
    for module in (ranking, preference, label_tasks, label_studio, argilla, zhongjing)
}


def choose(name: str) -> Format:
    """The format of this name. Raises ConfigError for another."""
    if name not in FORMATS:
        raise ConfigError(f"there is no format {name!r}", where="--format", remedy=f"choose from {', '.join(FORMATS)}")
    return FORMATS[name]


def take(store: RankingStore, items: Sequence[Item], rankings: Sequence[Ranking]) -> tuple[int, int]:
    """Add the items and rankings that the store lacks; returns how many of each. Raises DataError, and adds nothing, for an id with other content."""
    known = {item.id: item for item in store.items()}
    for item in items:
        if item.id in known and _content(known[item.id]) != _content(item):
            remedy = "give the item in the file another id; nothing was taken"
            raise DataError(
                f"the item {item.id!r} is there with another context or other answers", where=store.place, remedy=remedy
            )
    history = store.history()
    fresh = [item for item in items if item.id not in known]
    news = [ranking for ranking in rankings if _is_news(ranking, history.get((ranking.item, ranking.annotator), []))]
    store.add_items(fresh)
    store.add_rankings(news)
    return len(fresh), len(news)


def _content(item: Item) -> object:
    return item.context, [answer.text for answer in item.answers]


def _is_news(ranking: Ranking, past: Sequence[Ranking]) -> bool:
    """Whether it says something after all that this annotator has said of this item: an old opinion must not displace a newer one."""
    if not past or ranking == past[-1]:
        return not past
    newest = past[-1].created
    return ranking not in past if ranking.created is None or newest is None else ranking.created > newest
