"""`zj feedback …`: the commands on a real run folder and store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.rankings.test_formats import FULL, ITEM
from zj_ray.cli.main import app
from zj_ray.config import Config
from zj_ray.rankings.formats.exchange import READERS, WRITERS
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import Ranking
from zj_ray.runs.folder import Run

runner = CliRunner()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run that has no rankings yet."""
    return Run.open(tmp_path / "runs" / "tested", Config()).folder


@pytest.fixture
def store(folder: Path) -> RankingStore:
    store = RankingStore(folder / "feedback" / "rankings.sqlite")
    store.add_items([ITEM])
    store.add_rankings([FULL, Ranking("a", "李医生", "human", (2, 1, 3, 4))])
    return store


def zj(folder: Path, *command: str, fails: bool = False) -> str:
    answer = runner.invoke(app, ["feedback", command[0], str(folder), *command[1:]])
    assert answer.exit_code == (2 if fails else 0), answer.output
    return " ".join(answer.output.split())


@pytest.mark.parametrize("command", ["agreement", "import", "export"])
def test_every_command_explains_itself_with_an_example_and_all_formats(command: str) -> None:
    shown = runner.invoke(app, ["feedback", command, "--help"], env={"COLUMNS": "200"}).output
    assert "Example:" in shown
    assert command == "agreement" or all(name in shown for name in READERS)


def test_agreement_is_shown_and_written(folder: Path, store: RankingStore) -> None:
    store.add_gold({"a": [1, 2, 3, 4]}, "chief")
    shown = zj(folder, "agreement")
    assert (
        "2 annotators, 1 items" in shown and "李医生 · 王医生" in shown and "safety" in shown and "undefined" in shown
    )
    written = json.loads((folder / "feedback" / "agreement.json").read_text(encoding="utf-8"))
    assert written["annotators"] == 2 and written["gold_accuracy"]["李医生"] == {
        "accuracy": pytest.approx(5 / 6),
        "pairs": 6,
        "items": 1,
    }
    assert written["pairs"][0]["first"] == "李医生" and set(written["quality"]) == {"李医生", "王医生"}


@pytest.mark.parametrize("name", ["ranking", "label_studio"])
def test_an_export_that_is_imported_into_another_run_makes_the_same_store(
    folder: Path, store: RankingStore, tmp_path: Path, name: str
) -> None:
    assert "1 records" in zj(folder, "export", "--to", str(tmp_path / "out"), "--format", name)
    other = Run.open(tmp_path / "runs" / "other", Config()).folder
    assert "1 items and 2 rankings of them were new" in zj(other, "import", str(tmp_path / "out"), "--format", name)
    assert "0 items and 0 rankings of them were new" in zj(other, "import", str(tmp_path / "out"), "--format", name)
    taken = RankingStore(other / "feedback" / "rankings.sqlite")
    assert taken.items() == store.items() and taken.all_rankings() == store.all_rankings()


def test_one_annotators_rankings_go_to_the_original_tool_and_come_back_under_his_name(
    folder: Path, store: RankingStore, tmp_path: Path
) -> None:
    to = str(tmp_path / "new" / "o.tsv")
    assert "choose one --annotator" in zj(folder, "export", "--to", to, "--format", "zhongjing", fails=True)
    zj(folder, "export", "--to", to, "--format", "zhongjing", "--annotator", "李医生")
    other = Run.open(tmp_path / "runs" / "other", Config()).folder
    zj(other, "import", to, "--format", "zhongjing", "--annotator", "李医生")
    assert RankingStore(other / "feedback" / "rankings.sqlite").rankings("a") == [
        Ranking("a", "李医生", "human", (2, 1, 3, 4))
    ]


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        (["agreement"], "has no rankings yet"),
        (["export", "--to", "x", "--format", "ranking"], "has no rankings yet"),
        (["export", "--to", "x", "--format", "argilla"], f"not to export to — choose from {', '.join(WRITERS)}"),
        (["import", "nowhere.jsonl", "--format", "ranking"], "nowhere.jsonl: there is no such file"),
        (["import", "x", "--format", "csv"], f"there is no format 'csv' — choose from {', '.join(READERS)}"),
    ],
)
def test_a_fault_of_the_user_is_one_line(folder: Path, command: list[str], fault: str) -> None:
    assert fault in zj(folder, *command, fails=True)
    assert not (folder / "feedback").exists()
