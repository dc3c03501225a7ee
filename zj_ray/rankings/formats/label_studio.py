"""Label Studio: a JSON list of tasks, as its import takes and its export ("JSON", not "JSON-MIN") gives them.

The labelling set-up that the tasks are made for is CONFIG; `write` puts it beside the tasks. A Ranker knows no ties: the
order in `annotations` breaks them, and `meta` of the task keeps the ranks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from zj_ray.errors import DataError
from zj_ray.files import write_atomic
from zj_ray.rankings.formats.questions import (
    ALL_WRONG,
    COMMENT,
    OVERALL,
    RANKED,
    RIGHT_ANSWER,
    answered,
    asked,
    label,
    reconcile,
)
from zj_ray.rankings.rows import Kept, Row, by_item, checked, parse_item, parse_ranking, read_json
from zj_ray.rankings.tables import Item, Ranking

RANKERS = "\n".join(
    f'  <List name="{question}-answers" value="$answers" title="{title}"/>\n  <Ranker name="{question}" toName="{question}-answers"/>'
    for question, title in zip(
        RANKED, ("总体 Overall", "安全 Safety", "专业 Professionalism", "流畅 Fluency"), strict=True
    )
)
CONFIG = f"""<View>
  <Paragraphs name="dialogue" value="$messages" layout="dialogue" nameKey="role" textKey="content"/>
{RANKERS}
  <Choices name="{ALL_WRONG}" toName="dialogue" choice="multiple"><Choice value="{ALL_WRONG}" alias="{ALL_WRONG}"/></Choices>
  <Header value="正确的回答 The right answer"/>
  <TextArea name="{RIGHT_ANSWER}" toName="dialogue" maxSubmissions="1"/>
  <Header value="备注 Comment"/>
  <TextArea name="{COMMENT}" toName="dialogue" maxSubmissions="1"/>
</View>
"""


class ListItem(BaseModel):
    id: str
    body: str


class Data(BaseModel):
    id: str
    messages: Any
    answers: list[ListItem]


class Region(BaseModel):
    """One tag's answer. value: {"ranker": {name: [ids, the best first]}}, {"text": […]} or {"choices": […]}."""

    from_name: str
    value: Row


class Annotation(BaseModel):
    """completed_by: Label Studio's number of the user, or a user with his e-mail."""

    result: list[Region]
    completed_by: int | Row | None = None
    was_cancelled: bool = False
    lead_time: float | None = None
    created_at: datetime | None = None

    def name(self, unknown: str) -> str:
        """His e-mail, or Label Studio's number of him; `unknown` where the file has neither."""
        user = self.completed_by if isinstance(self.completed_by, dict) else {"id": self.completed_by}
        return str(user.get("email") or (unknown if user.get("id") is None else f"label-studio-{user['id']}"))


class Task(BaseModel):
    data: Data
    meta: Kept | None = None
    annotations: list[Annotation] = []


def read(path: Path, annotator: str) -> tuple[list[Item], list[Ranking]]:
    """What an annotator cancelled is left out. annotator: who annotated, where a task doesn't say."""
    items, rankings = [], []
    for number, raw in enumerate(read_json(path, list, "a list of tasks"), start=1):
        where = f"{path}: task {number}"
        task = checked(Task, raw, where)
        kept, data = task.meta or Kept(), task.data
        item = parse_item(data.id, data.messages, [answer.body for answer in data.answers], kept, where)
        full = [parse_ranking(row, item, where) for row in kept.rankings]
        items.append(item)
        rankings += reconcile(full, _answered(task, item, annotator, where))
    return items, rankings


def write(path: Path, items: Sequence[Item], rankings: Sequence[Ranking]) -> int:
    """Every item, ranked or not, and beside the tasks the labelling set-up (.config.xml)."""
    known = by_item(rankings)
    write_atomic(path.with_name(f"{path.stem}.config.xml"), CONFIG)
    write_atomic(
        path, json.dumps([_task(item, known.get(item.id, [])) for item in items], ensure_ascii=False, indent=1) + "\n"
    )
    return len(items)


def _task(item: Item, known: Sequence[Ranking]) -> Row:
    answers = [{"id": label(k), "title": label(k), "body": answer.text} for k, answer in enumerate(item.answers)]
    return {
        "data": {"id": item.id, "messages": [m.as_dict() for m in item.context], "answers": answers},
        "meta": Kept.row(item, known),
        "annotations": [
            {
                "completed_by": {"email": r.annotator},
                "lead_time": r.seconds,
                "created_at": r.created.isoformat() if r.created else None,
                "was_cancelled": False,
                "result": [_result(question, said) for question, said in asked(r).items()],
            }
            for r in known
        ],
    }


def _result(question: str, said: Any) -> Row:
    row = {"id": question, "from_name": question, "to_name": "dialogue", "origin": "manual"}
    if question in RANKED:
        return row | {"to_name": f"{question}-answers", "type": "ranker", "value": {"ranker": {question: said}}}
    if question == ALL_WRONG:
        return row | {"type": "choices", "value": {"choices": [ALL_WRONG]}}
    return row | {"type": "textarea", "value": {"text": [said]}}


def _answered(task: Task, item: Item, annotator: str, where: str) -> Iterator[Ranking | None]:
    labels = {answer.id: label(k) for k, answer in enumerate(task.data.answers)}
    for number, annotation in enumerate(task.annotations, start=1):
        if not annotation.was_cancelled:
            place = f"{where}, annotation {number}"
            told = dict(_said(region, labels, place) for region in annotation.result)
            yield answered(
                told,
                item,
                annotation.name(annotator),
                place,
                seconds=annotation.lead_time,
                created=annotation.created_at,
            )


def _said(region: Region, labels: Mapping[str, str], where: str) -> tuple[str, Any]:
    """(question, answer). A Ranker whose name is no aspect ranks overall, so that simpler projects can be read."""
    if "ranker" in region.value:
        ranked = region.value["ranker"]
        order = next(iter(ranked.values()), None) if isinstance(ranked, dict) else ranked
        if not isinstance(order, list):
            raise DataError(
                f"{ranked!r} is no order of answers",
                where=where,
                remedy="export the tasks as JSON, from a Ranker without buckets",
            )
        return (region.from_name if region.from_name in RANKED else OVERALL), [
            labels.get(str(name), str(name)) for name in order
        ]
    text = region.value.get("text")
    return region.from_name, "\n".join(map(str, text)) if isinstance(text, list) else text or region.value.get(
        "choices"
    )
