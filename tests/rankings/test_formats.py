"""Rankings through every format and back: nothing is lost, and a fault names the file and the record."""

from __future__ import annotations

import copy
import csv
import json
import random
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zj_ray.data.messages import Message
from zj_ray.errors import ConfigError, DataError
from zj_ray.rankings.aspects import ASPECTS
from zj_ray.rankings.consensus import competition_ranks
from zj_ray.rankings.formats import argilla, label_studio, zhongjing
from zj_ray.rankings.formats.exchange import READERS, WRITERS, Reader, take, writer
from zj_ray.rankings.formats.rows import Attachment
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import Answer, Item, Ranking

MESSAGES = [{"role": "user", "content": "痛"}]
CONTEXT = (Message("user", "医生，我头痛。"), Message("assistant", "多久了？\n发烧吗？"), Message("user", "三天😣"))
ANSWERS = tuple(Answer(text, {"temperature": 1.0}) for text in ("甲", "乙\t", "丙\n“好”", "丁😀"))
ITEM = Item("a", "case-1", CONTEXT, "内科", ANSWERS)
FULL = Ranking(
    "a",
    "王医生",
    "human",
    overall=(1, 2, 2, 4),
    aspects={"safety": (1, 1, 1, 4), "fluency": (4, 3, 2, 1)},
    all_wrong=True,
    right_answer="去\n急诊",
    comment="嗯",
    adjudicated=True,
    seconds=12.5,
    shown=(3, 1, 0, 2),
    created=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
)
WHOLE = ("ranking", "label_studio")  # formats that hold everything

letters = st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\t\"',，。😀医")
texts = st.text(alphabet=letters, min_size=1).filter(str.strip)


@st.composite
def ranked_items(draw: st.DrawFn) -> tuple[list[Item], list[Ranking]]:
    """Up to three items with up to three annotators each, at random in everything that a ranking may say."""
    items, rankings = [], []
    for number in range(draw(st.integers(1, 3))):
        item = draw(items_with(f"项-{number}"))
        items.append(item)
        for annotator in draw(st.lists(texts, unique=True, max_size=3)):
            rankings.append(draw(rankings_of(item, annotator)))
    return items, rankings


@st.composite
def items_with(draw: st.DrawFn, identity: str) -> Item:
    roles = ["user", "assistant"] * 2
    context = [Message(role, draw(texts)) for role in (roles[: draw(st.sampled_from([0, 2, 4]))] + ["user"])]
    system = [Message("system", draw(texts))] if draw(st.booleans()) else []
    origins = st.sampled_from([{}, {"kind": "generated", "t": 0.7}])
    answers = tuple(Answer(draw(texts), draw(origins)) for _ in range(draw(st.integers(2, 5))))
    return Item(identity, draw(texts), tuple(system + context), draw(st.none() | texts), answers)


def rankings_of(item: Item, annotator: str) -> st.SearchStrategy[Ranking]:
    count = len(item.answers)
    scores = st.tuples(*[st.integers(1, count)] * count)
    ranks = scores.map(lambda drawn: tuple(competition_ranks(drawn)))
    return st.builds(
        Ranking,
        item=st.just(item.id),
        annotator=st.just(annotator),
        kind=st.sampled_from(["human", "simulated", "file"]),
        overall=ranks,
        aspects=st.none() | st.dictionaries(st.sampled_from(ASPECTS), ranks),
        all_wrong=st.booleans(),
        right_answer=st.none() | texts,
        comment=st.none() | texts,
        adjudicated=st.booleans(),
        seconds=st.none() | st.floats(0, 1e6),
        shown=st.none() | st.permutations(range(count)).map(tuple),
        created=st.none() | st.datetimes(timezones=st.just(UTC)),
    )


def back(path: Path, name: str, items: Sequence[Item], rankings: Sequence[Ranking]) -> tuple[list[Item], list[Ranking]]:
    WRITERS[name](path, items, rankings)
    return READERS[name](path, "file")


def by_annotator(rankings: Sequence[Ranking]) -> list[Ranking]:
    return sorted(rankings, key=lambda r: (r.item, r.annotator))


HARMLESS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=60, deadline=None, suppress_health_check=HARMLESS)
@given(contents=ranked_items())
def test_a_file_that_is_written_and_read_holds_the_same(
    tmp_path: Path, name: str, contents: tuple[list[Item], list[Ranking]]
) -> None:
    items, rankings = contents
    if name == "ranking":  # the unranked ones are in label_tasks
        tasks, none = back(tmp_path / "tasks.jsonl", "label_tasks", items, rankings)
        assert not none and tasks == [item for item in items if item.id not in {r.item for r in rankings}]
        items = [item for item in items if item not in tasks]
    read_items, read_rankings = back(tmp_path / "file", name, items, rankings)
    assert read_items == items
    assert by_annotator(read_rankings) == by_annotator(rankings)
    assert [r.created for r in by_annotator(read_rankings)] == [r.created for r in by_annotator(rankings)]


def test_every_format_survives_a_second_write_byte_for_byte(tmp_path: Path) -> None:
    strict = replace(FULL, overall=(2, 4, 1, 3))
    for name in WRITERS:
        path = tmp_path / name
        WRITERS[name](path, [ITEM], [strict])
        before = path.read_bytes()
        WRITERS[name](path, [ITEM], [strict])
        assert path.read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]  # nothing temporary is left


# --- JSONL ------------------------------------------------------------------------------------------------------------


def test_preferences_are_the_pairs_of_most_annotators_or_of_the_adjudicator(tmp_path: Path) -> None:
    orders = {"x": (1, 2, 3, 3), "y": (1, 2, 3, 3), "z": (4, 3, 2, 1)}
    three = [replace(FULL, annotator=name, adjudicated=False, overall=ranks) for name, ranks in orders.items()]
    items, rankings = back(tmp_path / "p.jsonl", "preference", [ITEM], three)
    first, second, third, fourth = (answer.text for answer in ITEM.answers)
    from_first = [(first, second), (first, third), (first, fourth)]
    assert [tuple(a.text for a in i.answers) for i in items] == [*from_first, (second, third), (second, fourth)]
    assert {r.overall for r in rankings} == {(1, 2)}
    assert {(i.context, i.prompt_id) for i in items} == {(CONTEXT, "case-1")}
    adjudicated, _ = back(tmp_path / "p.jsonl", "preference", [ITEM], [*three, replace(FULL, overall=(2, 1, 1, 1))])
    assert [tuple(a.text for a in i.answers) for i in adjudicated] == [(second, first), (third, first), (fourth, first)]


def test_the_rank_of_a_ranking_row_is_the_adjudicators_and_its_annotators_are_all(tmp_path: Path) -> None:
    overruled = replace(FULL, annotator="x", adjudicated=False, overall=(4, 3, 2, 1))
    WRITERS["ranking"](tmp_path / "r.jsonl", [ITEM], [overruled, FULL])
    row = json.loads((tmp_path / "r.jsonl").read_text(encoding="utf-8"))
    assert [response["rank"] for response in row["responses"]] == [1, 2, 2, 4] and len(row["annotators"]) == 2


def test_the_dimension_of_a_preference_is_an_aspect(tmp_path: Path) -> None:
    row = {"id": "p", "messages": MESSAGES, "chosen": "好", "rejected": "坏", "dimension": "safety", "source": "s"}
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    items, rankings = READERS["preference"](tmp_path / "p.jsonl", "zhang")
    assert rankings == [Ranking("p", "zhang", "file", (1, 2), {"safety": (1, 2)})]
    assert items[0].answers[0].origin["source"] == "s"


def test_ranks_without_annotators_are_one_ranking_of_a_file(tmp_path: Path) -> None:
    curt = {"text": "好", "rank": 1, "kind": "curt", "hurts": "fluency"}
    answers = [curt, {"text": "坏", "rank": 9}, {"text": "差", "rank": 9}]
    row = {"id": "r", "messages": MESSAGES, "responses": answers, "source": "s"}
    (tmp_path / "r.jsonl").write_text(json.dumps(row))
    items, rankings = READERS["ranking"](tmp_path / "r.jsonl", "zhang")
    assert rankings == [Ranking("r", "zhang", "file", (1, 2, 2))]
    plain = {"source": "s", "kind": "file", "hurts": None}
    assert [a.origin for a in items[0].answers] == [{"source": "s", "kind": "curt", "hurts": "fluency"}, plain, plain]


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["ranking", "preference", "label_tasks"])
def test_real_files_are_read_whole_and_survive_every_whole_format(real_data: Path, tmp_path: Path, name: str) -> None:
    source = real_data / "train" / f"{name}.jsonl"
    items, rankings = READERS[name](source, "file")
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    assert [item.id for item in items] == [row["id"] for row in rows]
    assert len(rankings) == (0 if name == "label_tasks" else len(rows))
    if name == "ranking":
        ranks = [[response["rank"] for response in row["responses"]] for row in rows]
        assert [list(r.overall) for r in rankings] == ranks
    for whole in WHOLE:
        kept = [item for item in items if rankings or whole != "ranking"]
        assert back(tmp_path / whole, whole, kept, rankings) == (kept, rankings)


# --- Label Studio -----------------------------------------------------------------------------------------------------


def exported_task(*results: dict[str, Any], **annotation: Any) -> list[dict[str, Any]]:
    """A task as Label Studio exports it: ids of its own, and more fields than anybody needs."""
    answers = [{"id": name, "title": name, "body": f"文 {name}"} for name in ("blog", "mdn", "wiki")]
    data = {"id": "t", "messages": MESSAGES, "answers": answers}
    usual = {"id": 7, "completed_by": 3, "was_cancelled": False, "lead_time": 4.288, "result": list(results)}
    annotations = [{**usual, "created_at": "2021-03-09T22:16:08.728353Z", **annotation}]
    return [{"id": 1, "project": 83, "data": data, "meta": {}, "predictions": [], "annotations": annotations}]


def ranker(order: Sequence[str], name: str = "rank") -> dict[str, Any]:
    tag = {"id": "PpwBv_NMxd", "from_name": name, "to_name": "results", "type": "ranker", "origin": "manual"}
    return {"value": {"ranker": {name: order}}, **tag}


def read_as(name: str, path: Path, content: Any) -> tuple[list[Item], list[Ranking]]:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return READERS[name](path, "file")


def test_the_order_of_a_ranker_becomes_ranks_in_the_order_of_the_answers(tmp_path: Path) -> None:
    task = exported_task(ranker(["mdn", "wiki", "blog"]), ranker(["blog", "wiki", "mdn"], "safety"))
    (item,), (ranking,) = read_as("label_studio", tmp_path / "l.json", task)
    assert [a.text for a in item.answers] == ["文 blog", "文 mdn", "文 wiki"]
    assert ranking == Ranking("t", "label-studio-3", "human", (3, 1, 2), {"safety": (1, 3, 2)}, seconds=4.288)
    assert ranking.created == datetime(2021, 3, 9, 22, 16, 8, 728353, tzinfo=UTC)


def test_who_cancelled_or_ranked_nothing_gave_no_ranking(tmp_path: Path) -> None:
    cancelled = exported_task(ranker(["mdn", "wiki", "blog"]), was_cancelled=True)
    for task in (cancelled, exported_task()):
        items, rankings = read_as("label_studio", tmp_path / "l.json", task)
        assert len(items) == 1 and not rankings


def test_the_labelling_set_up_asks_all_that_the_tasks_hold(tmp_path: Path) -> None:
    label_studio.write(tmp_path / "l.json", [ITEM], [FULL])
    tags = list(ElementTree.parse(tmp_path / "l.config.xml").iter())
    names = {tag.get("name"): tag for tag in tags if tag.get("name")}
    (task,) = json.loads((tmp_path / "l.json").read_text(encoding="utf-8"))
    values = {tag.get("value", "").removeprefix("$") for tag in tags if tag.tag in ("List", "Paragraphs")}
    assert values <= task["data"].keys()
    results = task["annotations"][0]["result"]
    for result in results:
        tag = names[result["from_name"]]
        assert tag.tag.lower() == result["type"] and tag.get("toName") == result["to_name"]
        assert result["to_name"] in names
    answered = {"overall", "safety", "fluency", "all_wrong", "right_answer", "comment"}
    assert {result["from_name"] for result in results} == answered


# --- Argilla ----------------------------------------------------------------------------------------------------------

ORDER = ["answer-3", "answer-1", "answer-2"]
SHAPES: dict[str, Callable[[Any], Any]] = {
    "to_json": lambda value: {
        "overall": [{"value": value, "user_id": "u-1"}],
        "comment": [{"value": "嗯", "user_id": "u-1"}],
    },
    "serialize": lambda value: [
        {"question_name": "overall", "value": value, "user_id": "u-1", "status": "submitted"},
        {"question_name": "comment", "value": "嗯", "user_id": "u-1", "status": "submitted"},
        {"question_name": "overall", "value": value, "user_id": "u-2", "status": "draft"},
    ],
    "api": lambda value: [
        {"values": {"overall": {"value": value}, "comment": {"value": "嗯"}}, "user_id": "u-1", "status": None}
    ],
}


def record(responses: Any) -> list[dict[str, Any]]:
    fields = {"dialogue": MESSAGES, "answer-1": "甲", "answer-2": "乙", "answer-3": "丙", "answer-4": None}
    unused = {"metadata": {}, "suggestions": {}, "vectors": {}, "_server_id": "0b9"}
    return [{"id": "r", "fields": fields, "responses": responses, **unused}]


TIED = [{"value": "answer-2", "rank": 3}, {"value": "answer-1", "rank": 1}, {"value": "answer-3", "rank": 1}]
VALUES = [
    (ORDER, (2, 3, 1)),
    ([*ORDER, "answer-4"], (2, 3, 1)),  # the dataset has room for four answers, this record has three
    ([{"value": label} for label in ORDER], (2, 3, 1)),
    (TIED, (1, 3, 1)),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("value", "ranks"), VALUES)
def test_every_shape_of_argillas_responses_is_read(
    tmp_path: Path, shape: str, value: Any, ranks: tuple[int, ...]
) -> None:
    (row,) = record(SHAPES[shape](value))
    if shape == "api":
        row |= {"id": "5f1", "external_id": "r"}
    (item,), rankings = read_as("argilla", tmp_path / "a.json", [row])
    assert len(item.answers) == 3 and rankings == [Ranking("r", "u-1", "human", ranks, comment="嗯")]


def exported_record(rankings: Sequence[Ranking], overall: dict[str, list[str]]) -> list[dict[str, Any]]:
    """ITEM as it was once exported to Argilla, with these full rankings.

    overall: what each annotator's response says now.
    """
    users = {argilla.user_id(name): order for name, order in overall.items()}
    responses = [{"value": order, "user_id": user, "status": "submitted"} for user, order in users.items()]
    (row,) = record({"overall": responses})
    texts = {f"answer-{k}": answer.text for k, answer in enumerate(ITEM.answers, start=1)}
    fields = {"dialogue": [m.as_dict() for m in CONTEXT], **texts}
    return [row | {"id": "a", "fields": fields, "metadata": {"zj_ray": json.dumps(Attachment.row(ITEM, rankings))}}]


def test_what_was_once_exported_to_argilla_comes_back_whole_where_nobody_changed_it(tmp_path: Path) -> None:
    plain = replace(FULL, aspects=None, all_wrong=False, right_answer=None, comment=None)
    li = replace(plain, annotator="李医生")
    order = [f"answer-{k}" for k in (1, 2, 3, 4)]
    rows = exported_record([plain, li], {"王医生": order[::-1], "李医生": order})
    (item,), rankings = read_as("argilla", tmp_path / "a.json", rows)
    now = {r.annotator: r for r in rankings}
    assert item == ITEM and now["李医生"] == li
    assert now["王医生"].overall == (4, 3, 2, 1) and not now["王医生"].adjudicated


def test_argilla_is_read_but_not_written() -> None:
    with pytest.raises(ConfigError, match="argilla is a format to import from, not to export to"):
        writer("argilla")


def test_what_an_annotator_changes_in_the_tool_replaces_the_full_ranking_and_what_is_left_alone_does_not(
    tmp_path: Path,
) -> None:
    path, other = tmp_path / "f.json", replace(FULL, annotator="李医生")
    label_studio.write(path, [ITEM], [FULL, other])
    rows = json.loads(path.read_text(encoding="utf-8"))
    first = next(result for result in rows[0]["annotations"][0]["result"] if result["from_name"] == "overall")
    first["value"]["ranker"]["overall"] = ["answer-4", "answer-3", "answer-2", "answer-1"]
    _, rankings = read_as("label_studio", path, rows)
    now = {r.annotator: r for r in rankings}
    assert now["李医生"] == other
    changed = now["王医生"]
    assert changed.overall == (4, 3, 2, 1) and changed.comment == FULL.comment and not changed.adjudicated


# --- the original label tool ------------------------------------------------------------------------------------------


def as_the_tool_does(tasks: dict[str, Any], ranked: dict[str, list[int]]) -> str:
    """Its output_result.tsv when the doctor gives `ranked[id][k]` to response_k.

    The tool computes `rank_texts = [response_{rank - 1} for rank in ranks]`.
    """
    rows = []
    for name, ranks in ranked.items():
        task = tasks[name]
        rows.append([name, task["query"], task["history"], *(task[f"response_{rank - 1}"] for rank in ranks)])
    columns = ["id", "query", "history", "rank1", "rank2", "rank3", "rank4"]
    return pd.DataFrame(rows, columns=columns).to_csv(index=False, sep="\t")


def tool_files(folder: Path, ranked: dict[str, list[int]], **changed: Any) -> Path:
    task = {"query": "三天😣\n“痛”", "history": [["头痛", "多久了？"]], "response_0": "甲", "response_1": "乙"}
    tasks = {name: task | {"response_2": "丙\t", "response_3": "丁\n"} | changed for name in (*ranked, "unranked")}
    (folder / "input_file.json").write_text(json.dumps(tasks, ensure_ascii=False), encoding="utf-8")
    (folder / "output_result.tsv").write_text(as_the_tool_does(tasks, ranked), encoding="utf-8")
    return folder / "output_result.tsv"


def test_all_24_orders_of_the_original_tool_come_back_as_the_doctor_meant_them(tmp_path: Path) -> None:
    ranked = {"".join(map(str, ranks)): list(ranks) for ranks in permutations((1, 2, 3, 4))}
    path = tool_files(tmp_path, ranked)
    items, rankings = zhongjing.read(path, "王医生")
    assert {r.item: list(r.overall) for r in rankings} == ranked and len(items) == 25
    assert {(r.annotator, r.kind) for r in rankings} == {("王医生", "human")}
    first, second, third = items[0].context
    assert (first, second) == (Message("user", "头痛"), Message("assistant", "多久了？"))
    assert third == Message("user", "三天😣\n“痛”")
    rows = list(csv.DictReader(path.open(encoding="utf-8", newline=""), delimiter="\t"))
    texts = [answer.text for answer in items[0].answers]
    by_name = {row["id"]: [1 + [row[f"rank{k}"] for k in range(1, 5)].index(text) for text in texts] for row in rows}
    # To read the columns by their names would be wrong so often.
    assert sum(by_name[name] != ranks for name, ranks in ranked.items()) == 14


def test_our_files_for_the_original_tool_are_its_own(tmp_path: Path) -> None:
    ranked = {"".join(map(str, ranks)): list(ranks) for ranks in permutations((1, 2, 3, 4))}
    path = tool_files(tmp_path, ranked)
    before = path.read_bytes()
    items, rankings = zhongjing.read(path, "file")
    assert back(path, "zhongjing", items, rankings) == (items, rankings)
    assert path.read_bytes() == before


@pytest.mark.parametrize("change", [{"response_3": "甲"}, {"query": "别的"}])
def test_what_the_original_tools_files_do_not_determine_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    path = tool_files(tmp_path, {"0": [2, 1, 3, 4]})
    before = path.read_text(encoding="utf-8")
    tool_files(tmp_path, {"0": [2, 1, 3, 4]}, **change)
    if "query" in change:
        path.write_text(before, encoding="utf-8")
    with pytest.raises(DataError, match=r"output_result\.tsv:\d"):
        zhongjing.read(path, "file")


def test_a_table_of_the_original_tool_that_is_none_is_named(tmp_path: Path) -> None:
    path = tool_files(tmp_path, {"0": [2, 1, 3, 4]})
    for content in (b"\xff", b"id\tquery\n", b"", path.read_bytes().replace("甲".encode(), "申".encode())):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"output_result\.tsv"):
            zhongjing.read(path, "file")


WITHOUT_TIES = replace(FULL, overall=(1, 2, 3, 4))


@pytest.mark.parametrize("rankings", [[FULL], [replace(WITHOUT_TIES, annotator=name) for name in "xy"]])
def test_what_the_original_tool_can_not_hold_is_refused_and_no_file_is_written(
    tmp_path: Path, rankings: list[Ranking]
) -> None:
    with pytest.raises(DataError, match="holds one ranking of an item, without ties"):
        zhongjing.write(tmp_path / "o.tsv", [ITEM], rankings)
    assert not list(tmp_path.iterdir())


# --- faults -----------------------------------------------------------------------------------------------------------


def mutated(tree: Any, luck: random.Random) -> Any:
    """The tree with one value, somewhere in it, gone or of another kind."""
    if not isinstance(tree, dict | list) or not tree or luck.random() < 0.15:
        return luck.choice([None, 7, -1, "", "x", [], {}, [None], {"x": 1}, True, 1.5])
    changed, key = copy.copy(tree), luck.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
    if luck.random() < 0.2:
        del changed[key]
    else:
        changed[key] = mutated(tree[key], luck)
    return changed


def damage(path: Path, whole: Any, read: Reader, luck: random.Random) -> int:
    """How many of 120 damaged files are refused; each must name the file, and what is read must fit into a store."""
    refused = 0
    for _ in range(120):
        path.write_text(json.dumps(mutated(whole, luck), ensure_ascii=False), encoding="utf-8")
        try:
            take(RankingStore("sqlite://"), *read(path, "file"))
        except DataError as fault:
            refused += 1
            assert str(path) in fault.where
    return refused


@pytest.mark.parametrize("name", ["ranking", "preference", "label_tasks", "label_studio"])
def test_a_damaged_file_is_read_or_refused_by_name_but_never_a_crash(tmp_path: Path, name: str) -> None:
    path = tmp_path / "damaged"
    WRITERS[name](path, [ITEM], [] if name == "label_tasks" else [FULL])
    whole = json.loads(path.read_text(encoding="utf-8").partition("\n{")[0])
    assert 20 < damage(path, whole, READERS[name], random.Random(name)) < 120


@pytest.mark.parametrize("shape", SHAPES)
def test_damaged_records_of_argilla_are_read_or_refused_by_name(tmp_path: Path, shape: str) -> None:
    whole = record(SHAPES[shape]([{"value": label, "rank": rank} for rank, label in enumerate(ORDER, start=1)]))
    assert 20 < damage(tmp_path / "damaged", whole, READERS["argilla"], random.Random(shape)) < 120


def test_damaged_tasks_of_the_original_tool_are_read_or_refused_by_name(tmp_path: Path) -> None:
    path, luck = tool_files(tmp_path, {"0": [2, 4, 1, 3]}), random.Random(0)
    tasks = path.with_name("input_file.json")
    whole, refused = json.loads(tasks.read_text(encoding="utf-8")), 0
    for _ in range(120):
        tasks.write_text(json.dumps(mutated(whole, luck), ensure_ascii=False), encoding="utf-8")
        try:
            zhongjing.read(path, "file")
        except DataError as fault:
            refused += 1
            assert str(tmp_path) in fault.where
    assert 20 < refused < 120


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("content", [None, b"", b"\xff", b"{", b"[1]", b'"x"'])
def test_a_file_that_is_none_of_its_format_is_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    path = tmp_path / "f"
    if content is not None:
        path.write_bytes(content)
        (tmp_path / "input_file.json").write_bytes(content)
    if content == b"" and name in ("ranking", "preference", "label_tasks"):
        assert READERS[name](path, "file") == ([], [])
        return
    with pytest.raises(DataError) as fault:
        READERS[name](path, "file")
    assert str(tmp_path) in fault.value.where


# --- into a store -----------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> RankingStore:
    return RankingStore(tmp_path / "rankings.sqlite")


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_is_taken_once_and_again_without_effect(tmp_path: Path, store: RankingStore, name: str) -> None:
    items, rankings = back(tmp_path / "f", name, [ITEM], [FULL, replace(FULL, annotator="李医生", created=None)])
    assert take(store, items, rankings) == (1, 2)
    assert take(store, items, rankings) == (0, 0)
    assert store.items() == [ITEM] and by_annotator(store.rankings("a")) == by_annotator(rankings)
    assert next(r for r in store.rankings("a") if r.annotator == "王医生").created == FULL.created


def test_a_known_id_with_other_answers_is_refused_and_nothing_is_taken(store: RankingStore) -> None:
    take(store, [ITEM], [])
    other = replace(ITEM, answers=(Answer("别的"), *ITEM.answers[1:]))
    with pytest.raises(DataError, match="'a' is there with another context or other answers"):
        take(store, [replace(ITEM, id="b"), other], [FULL])
    assert store.items() == [ITEM] and not store.all_rankings()


def test_an_old_file_does_not_displace_what_was_said_later(store: RankingStore) -> None:
    later = replace(FULL, overall=(4, 3, 2, 1), created=datetime(2026, 2, 1, tzinfo=UTC))
    take(store, [ITEM], [FULL])
    assert take(store, [ITEM], [later]) == (0, 1)
    assert take(store, [ITEM], [FULL]) == (0, 0) and take(store, [ITEM], [replace(FULL, created=None)]) == (0, 0)
    assert store.rankings("a") == [later]
    assert take(store, [ITEM], [replace(FULL, created=datetime(2026, 3, 1, tzinfo=UTC))]) == (0, 1)
