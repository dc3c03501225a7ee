"""The label tool of the original project: `input_file.json` has the tasks, `output_result.tsv` beside it the rankings.

The tool asks for the rank of each answer and keeps, in column `rank{k}`, the text of the answer whose *number* is the
rank that the k-th answer got: the inverse of the order that the column's name promises. Read by the names, 14 of the
24 orders of four come out wrong. As answers are known by their texts alone, the ranks follow from both files together,
and only where no two answers of a task are the same. The tool keeps overall ranks without ties, of one annotator;
nothing else can be written to it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from zj_ray.errors import DataError
from zj_ray.files import write_atomic
from zj_ray.rankings.formats.rows import Extras, Row, by_item, must_exist, parse_item, parse_row, read_json
from zj_ray.rankings.tables import Item, Ranking

TASKS = "input_file.json"


class Task(Extras):
    """A task, which besides these fields has response_0, response_1, …: the answers."""

    query: str
    history: list[tuple[str, str]]


def read(path: Path, annotator: str) -> tuple[list[Item], list[Ranking]]:
    """Read every task as an item; those in the TSV are ranked by `annotator`.

    path: the TSV, with `input_file.json` beside it.
    """
    source = path.with_name(TASKS)
    shape = "the tool's tasks: the TSV alone doesn't say in which order the answers stood"
    tasks = read_json(source, dict, shape)
    items = {name: _item(name, task, f"{source}: task {name!r}") for name, task in tasks.items()}
    rankings = []
    for where, row in _table(path):
        item = items.get(row["id"])
        if item is None or item.context[-1].content != row["query"]:
            what = f"{TASKS} has no task {row['id']!r} with this query"
            raise DataError(what, where=where, remedy="give both files of the same labelling")
        rankings.append(Ranking(item.id, annotator, "human", _ranks(row, item, where)))
    return list(items.values()), rankings


def write(path: Path, items: Sequence[Item], rankings: Sequence[Ranking]) -> int:
    """Write both files, as the tool would have written them.

    Raises DataError, and writes neither, for what the tool can't hold: ties, two annotators of one item.
    """
    if path.name == TASKS:
        what = "this is the name of the tasks, which are written beside the rankings"
        raise DataError(what, where=str(path), remedy="name a .tsv")
    tasks = {item.id: _task(item) for item in items}
    ranked = by_item(rankings)
    columns = max((len(item.answers) for item in items), default=4)
    table = io.StringIO()
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    writer.writerow(["id", "query", "history", *(f"rank{k + 1}" for k in range(columns))])
    for item in items:
        for ranking in ranked.get(item.id, []):
            texts = _columns(item, ranking, alone=len(ranked[item.id]) == 1)
            writer.writerow([item.id, tasks[item.id]["query"], str(tasks[item.id]["history"]), *texts])
    write_atomic(path.with_name(TASKS), json.dumps(tasks, ensure_ascii=False, indent=1) + "\n")
    write_atomic(path, table.getvalue())
    return len(items)


def _ranks(row: Row, item: Item, where: str) -> tuple[int, ...]:
    """The ranks of the answers: that of the k-th is the number of the answer whose text stands in column rank{k}."""
    texts = [answer.text for answer in item.answers]
    if len(set(texts)) < len(texts):
        what = "two answers are the same, so the file doesn't say which of them got which rank"
        raise DataError(what, where=where, remedy="take the row out and rank this task anew")
    columns = [row.get(f"rank{k + 1}") for k in range(len(texts))]
    if sorted(map(str, columns)) != sorted(texts):
        what = f"the ranked texts are not the answers of task {item.id!r}"
        raise DataError(what, where=where, remedy="give both files of the same labelling")
    return tuple(texts.index(str(text)) + 1 for text in columns)


def _columns(item: Item, ranking: Ranking, *, alone: bool) -> list[str]:
    """The texts of the columns rank1, rank2, …. alone: nobody else ranked the item."""
    texts = [answer.text for answer in item.answers]
    if not alone or len(set(ranking.overall)) < len(texts) or len(set(texts)) < len(texts):
        what = "the original tool holds one ranking of an item, without ties, of answers that differ"
        where = f"ranking of {item.id!r} by {ranking.annotator!r}"
        raise DataError(what, where=where, remedy="choose one --annotator, or another format")
    return [texts[rank - 1] for rank in ranking.overall]


def _item(name: str, raw: Any, where: str) -> Item:
    task = parse_row(Task, raw, where)
    lines = [*(line for turn in task.history for line in turn), task.query]
    messages = [{"role": "assistant" if k % 2 else "user", "content": line} for k, line in enumerate(lines)]
    answers = [str(raw[key]) for k in range(len(raw)) if (key := f"response_{k}") in raw]
    return parse_item(name, messages, answers, task, where)


def _task(item: Item) -> Row:
    if item.context[0].role == "system":
        what = "the original tool has no field for a system message"
        raise DataError(what, where=f"item {item.id!r}", remedy="choose another format")
    lines = [m.content for m in item.context]
    history = [lines[k : k + 2] for k in range(0, len(lines) - 1, 2)]
    answers = {f"response_{k}": a.text for k, a in enumerate(item.answers)}
    return {"query": lines[-1], "history": history, **answers} | Extras.of(item).model_dump()


def _table(path: Path) -> Iterator[tuple[str, Row]]:
    remedy = "give the tool's output_result.tsv"
    must_exist(path, remedy)
    try:
        reader = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8"), newline=""), delimiter="\t")
        if not {"id", "query", "rank1", "rank2"} <= set(reader.fieldnames or ()):
            what = "the columns id, query, rank1, rank2, … are not all there"
            raise DataError(what, where=f"{path}:1", remedy=remedy)
        for row in reader:
            yield f"{path}:{reader.line_num}", row
    except (UnicodeDecodeError, csv.Error) as fault:
        raise DataError(f"the file is no table in UTF-8: {fault}", where=str(path), remedy=remedy) from None
