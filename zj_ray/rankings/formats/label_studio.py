"""Label Studio: a JSON list of tasks, as its import takes and its export ("JSON", not "JSON-MIN") gives them.

The labelling set-up that the tasks are made for is CONFIG; `write` puts it beside the tasks. A Ranker knows no ties:
the order in `annotations` breaks them, and `meta` of the task keeps the ranks.
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
from zj_ray.rankings.formats import questions
from zj_ray.rankings.formats.questions import ALL_WRONG, COMMENT, RANKED, RIGHT_ANSWER, answer_name, as_form, parse_form
from zj_ray.rankings.formats.rows import Attachment, Row, by_item, parse_item, parse_ranking, parse_row, read_json
from zj_ray.rankings.tables import Item, Ranking

TITLES = dict(zip(RANKED, ("总体 Overall", "安全 Safety", "专业 Professionalism", "流畅 Fluency"), strict=True))
RANKERS = "\n".join(
    f'  <List name="{question}-answers" value="$answers" title="{title}"/>\n'
    f'  <Ranker name="{question}" toName="{question}-answers"/>'
    for question, title in TITLES.items()
)
CHECKBOX = f'<Choice value="{ALL_WRONG}" alias="{ALL_WRONG}"/>'
CONFIG = f"""<View>
  <Paragraphs name="dialogue" value="$messages" layout="dialogue" nameKey="role" textKey="content"/>
{RANKERS}
  <Choices name="{ALL_WRONG}" toName="dialogue" choice="multiple">{CHECKBOX}</Choices>
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
    """The answer to one tag. value: {"ranker": {name: [ids, the best first]}}, {"text": […]} or {"choices": […]}."""

    from_name: str
    value: Row


class Annotation(BaseModel):
    """What one user answered. completed_by: Label Studio's number of them, or an object with their e-mail address."""

    result: list[Region]
    completed_by: int | Row | None = None
    was_cancelled: bool = False
    lead_time: float | None = None
    created_at: datetime | None = None

    def name(self, default: str) -> str:
        """The annotator's e-mail, or else Label Studio's number of them; `default` where the file has neither."""
        user = self.completed_by if isinstance(self.completed_by, dict) else {"id": self.completed_by}
        return str(user.get("email") or (default if user.get("id") is None else f"label-studio-{user['id']}"))


class Task(BaseModel):
    data: Data
    meta: Attachment | None = None
    annotations: list[Annotation] = []


def read(path: Path, annotator: str) -> tuple[list[Item], list[Ranking]]:
    """Read every task without its cancelled annotations. annotator: who annotated, where a task doesn't say."""
    items, rankings = [], []
    for number, raw in enumerate(read_json(path, list, "a list of tasks"), start=1):
        where = f"{path}: task {number}"
        task = parse_row(Task, raw, where)
        attachment, data = task.meta or Attachment(), task.data
        item = parse_item(data.id, data.messages, [answer.body for answer in data.answers], attachment, where)
        full = [parse_ranking(row, item, where) for row in attachment.rankings]
        items.append(item)
        rankings += questions.reconcile(full, _forms(task, item, annotator, where))
    return items, rankings


def write(path: Path, items: Sequence[Item], rankings: Sequence[Ranking]) -> int:
    """Write every item, ranked or not, and beside the tasks the labelling set-up (.config.xml)."""
    ranked = by_item(rankings)
    tasks = [_task(item, ranked.get(item.id, [])) for item in items]
    write_atomic(path.with_name(f"{path.stem}.config.xml"), CONFIG)
    write_atomic(path, json.dumps(tasks, ensure_ascii=False, indent=1) + "\n")
    return len(items)


def _task(item: Item, rankings: Sequence[Ranking]) -> Row:
    names = [answer_name(k) for k in range(len(item.answers))]
    answers = [{"id": n, "title": n, "body": a.text} for n, a in zip(names, item.answers, strict=True)]
    return {
        "data": {"id": item.id, "messages": [m.as_dict() for m in item.context], "answers": answers},
        "meta": Attachment.row(item, rankings),
        "annotations": [
            {
                "completed_by": {"email": r.annotator},
                "lead_time": r.seconds,
                "created_at": r.created.isoformat() if r.created else None,
                "was_cancelled": False,
                "result": [_result(question, answer) for question, answer in as_form(r).items()],
            }
            for r in rankings
        ],
    }


def _result(question: str, answer: Any) -> Row:
    row = {"id": question, "from_name": question, "to_name": "dialogue", "origin": "manual"}
    if question in RANKED:
        return row | {"to_name": f"{question}-answers", "type": "ranker", "value": {"ranker": {question: answer}}}
    if question == ALL_WRONG:
        return row | {"type": "choices", "value": {"choices": [ALL_WRONG]}}
    return row | {"type": "textarea", "value": {"text": [answer]}}


def _forms(task: Task, item: Item, annotator: str, where: str) -> Iterator[Ranking | None]:
    names = {answer.id: answer_name(k) for k, answer in enumerate(task.data.answers)}
    for number, annotation in enumerate(task.annotations, start=1):
        if not annotation.was_cancelled:
            at = f"{where}, annotation {number}"
            form = dict(_answer(region, names, at) for region in annotation.result)
            user, seconds, created = annotation.name(annotator), annotation.lead_time, annotation.created_at
            yield parse_form(form, item, user, at, time_spent=seconds, created=created)


def _answer(region: Region, names: Mapping[str, str], where: str) -> tuple[str, Any]:
    """The question and its answer. A Ranker of any other name ranks overall, so that simpler projects can be read."""
    if "ranker" in region.value:
        question = region.from_name if region.from_name in RANKED else questions.OVERALL
        return question, _order(region.value["ranker"], names, where)
    text = region.value.get("text")
    if isinstance(text, list):
        return region.from_name, "\n".join(map(str, text))
    return region.from_name, text or region.value.get("choices")


def _order(ranker: Any, names: Mapping[str, str], where: str) -> list[str]:
    order = next(iter(ranker.values()), None) if isinstance(ranker, dict) else ranker
    if not isinstance(order, list):
        remedy = "export the tasks as JSON, from a Ranker without buckets"
        raise DataError(f"{ranker!r} is no order of answers", where=where, remedy=remedy)
    return [names.get(str(name), str(name)) for name in order]
