"""Rankings between files and a store. A file may be taken again and again: what the store has is left as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from zj_ray.data.datasets import SPLITS
from zj_ray.errors import ConfigError, DataError
from zj_ray.rankings.formats import argilla, label_studio, label_tasks, preference, ranking, zhongjing
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import Item, Ranking

# (path, annotator) → what the file holds. annotator: whose rankings they are, where it doesn't say. Raises DataError
# naming file and record.
Reader = Callable[[Path, str], tuple[list[Item], list[Ranking]]]
# (path, items, rankings) → number of records. Writes the file in one step, over one that is there.
Writer = Callable[[Path, Sequence[Item], Sequence[Ranking]], int]
Either = TypeVar("Either")

WRITERS: dict[str, Writer] = {
    "ranking": ranking.write,
    "preference": preference.write,
    "label_tasks": label_tasks.write,
    "label_studio": label_studio.write,
    "zhongjing": zhongjing.write,
}
READERS: dict[str, Reader] = {
    "ranking": ranking.read,
    "preference": preference.read,
    "label_tasks": label_tasks.read,
    "label_studio": label_studio.read,
    "argilla": argilla.read,
    "zhongjing": zhongjing.read,
}


def reader(name: str) -> Reader:
    """The reader of the format of this name. Raises ConfigError for an unknown one."""
    return _choose(READERS, name, f"there is no format {name!r}")


def writer(name: str) -> Writer:
    """The writer of the format of this name. Raises ConfigError for an unknown one, and for one that is only read."""
    only_read = f"{name} is a format to import from, not to export to"
    return _choose(WRITERS, name, only_read if name in READERS else f"there is no format {name!r}")


def take(store: RankingStore, items: Sequence[Item], rankings: Sequence[Ranking]) -> tuple[int, int]:
    """Add the items and rankings that the store lacks, and return how many of each those are.

    Raises DataError, and adds nothing, where the store has another context or other answers under an item's id.
    """
    there = {item.id: item for item in store.items()}
    for item in items:
        if item.id in there and _content(there[item.id]) != _content(item):
            what = f"the item {item.id!r} is there with another context or other answers"
            remedy = "give the item in the file another id; nothing was taken"
            raise DataError(what, where=store.location, remedy=remedy)
    history = store.history()
    new_items = [item for item in items if item.id not in there]
    new_rankings = [r for r in rankings if _is_news(r, history.get((r.item, r.annotator), []))]
    store.add_items(new_items, new_rankings)
    return len(new_items), len(new_rankings)


def take_data_folder(store: RankingStore, root: Path) -> None:
    """Take `ranking.jsonl` and `preference.jsonl` of both splits of a data folder (docs/data.md); one may be missing.

    The answers' origin names the split: it decides which items are held out. Raises DataError for a split with neither.
    """
    for split in SPLITS:
        files = {name: root / split / f"{name}.jsonl" for name in ("ranking", "preference")}
        if not any(path.is_file() for path in files.values()):
            what = "neither ranking.jsonl nor preference.jsonl is there"
            raise DataError(what, where=str(root / split), remedy="check data.root; docs/data.md names the files")
        for name, path in files.items():
            if path.is_file():
                items, rankings = READERS[name](path, "file")
                take(store, [_of_split(item, split) for item in items], rankings)


def _of_split(item: Item, split: str) -> Item:
    return replace(item, answers=tuple(replace(a, origin=a.origin | {"split": split}) for a in item.answers))


def _choose(formats: Mapping[str, Either], name: str, fault: str) -> Either:
    if name not in formats:
        raise ConfigError(fault, where="--format", remedy=f"choose from {', '.join(formats)}")
    return formats[name]


def _content(item: Item) -> object:
    return item.context, [answer.text for answer in item.answers]


def _is_news(ranking: Ranking, past: Sequence[Ranking]) -> bool:
    """Whether a ranking adds to the past ones of its item and annotator: an old one must not displace a newer one."""
    if not past or ranking == past[-1]:
        return not past
    newest = past[-1].created
    return ranking not in past if ranking.created is None or newest is None else ranking.created > newest
