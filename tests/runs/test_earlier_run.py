"""A run of before the rooms and keys moved is resumed, read and served; its owner freezes the config anew."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.config.test_moved import EARLIER
from zj_ray.cli.main import app
from zj_ray.config import dump_config, load_config
from zj_ray.config.schema import STAGES
from zj_ray.errors import ConfigError
from zj_ray.rankings.store import open_rankings
from zj_ray.runs.folder import Run
from zj_ray.serving.serve import served_model

TODAY = """\
name: det
consultation: {max_turns: 3, turn_tokens: 48, temperature: 0.7, timeout: 900}
ppo: {steps: 4, consultations: 8, safety_share: 0.5, safety: {method: weight}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a run that an earlier version started."""
    folder = tmp_path / "runs" / "det"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(EARLIER, encoding="utf-8")
    (tmp_path / "det.yaml").write_text(TODAY, encoding="utf-8")
    return folder


def test_it_is_resumed_with_the_keys_of_today_and_frozen_anew(folder: Path, tmp_path: Path) -> None:
    config = load_config(tmp_path / "det.yaml")
    with Run.open(folder, config).running():
        pass
    assert (folder / "config.yaml").read_text(encoding="utf-8") == dump_config(config)
    assert load_config(folder / "config.yaml") == config


def test_another_value_at_the_new_place_is_refused_as_ever(folder: Path, tmp_path: Path) -> None:
    config = load_config(tmp_path / "det.yaml", ["consultation.turn_tokens=32"])
    with pytest.raises(ConfigError, match="consultation.turn_tokens is 32, but this run was started with 48"):
        Run.open(folder, config)


def test_readers_leave_it_as_it_is(folder: Path) -> None:
    assert Run.load(folder).config.consultation.turn_tokens == 48
    answer = CliRunner().invoke(app, ["status", "det", "--runs", str(folder.parent)])
    assert answer.exit_code == 0, answer.output
    assert (folder / "config.yaml").read_text(encoding="utf-8") == EARLIER


def test_it_may_be_continued_by_its_own_config(folder: Path) -> None:
    (folder / "run.json").write_text("{}", encoding="utf-8")
    answer = CliRunner().invoke(app, ["run", str(folder / "config.yaml"), "--dry-run"])
    assert answer.exit_code == 0 and "  turn_tokens: 48\n" in answer.output


# --- what the stages left -------------------------------------------------------------------------------------------

CLINIC = "data: {source: clinic, clinic: {consultations: 20, single_turn: 20, passages: 20, cases: 12}}\n"
# As Alembic's versions 0001 and 0002 left the tables, in SQLite.
TABLES = """
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO alembic_version VALUES ('0002');
CREATE TABLE item (id VARCHAR(128) NOT NULL PRIMARY KEY, prompt_id VARCHAR(128) NOT NULL, context JSON NOT NULL,
  department VARCHAR(64), created DATETIME NOT NULL);
CREATE TABLE answer (item VARCHAR(128) NOT NULL REFERENCES item (id), position INTEGER NOT NULL, text TEXT NOT NULL,
  origin JSON NOT NULL, PRIMARY KEY (item, position));
CREATE TABLE ranking (event INTEGER NOT NULL PRIMARY KEY, item VARCHAR(128) NOT NULL REFERENCES item (id),
  annotator VARCHAR(128) NOT NULL, kind VARCHAR(16) NOT NULL, overall JSON NOT NULL, aspects JSON,
  created DATETIME NOT NULL, action VARCHAR(8) DEFAULT 'rank' NOT NULL, all_wrong BOOLEAN DEFAULT 0 NOT NULL,
  adjudicated BOOLEAN DEFAULT 0 NOT NULL, right_answer TEXT, comment TEXT, seconds FLOAT, shown JSON,
  "key" VARCHAR(64));
CREATE UNIQUE INDEX ix_ranking_key ON ranking ("key");
CREATE TABLE gold (item VARCHAR(128) NOT NULL PRIMARY KEY REFERENCES item (id), overall JSON NOT NULL,
  author VARCHAR(128) NOT NULL, created DATETIME NOT NULL);
CREATE TABLE account (event INTEGER NOT NULL PRIMARY KEY, name VARCHAR(64) NOT NULL, role VARCHAR(16) NOT NULL,
  token_hash VARCHAR(64) NOT NULL UNIQUE, created DATETIME NOT NULL);
CREATE TABLE ticket (id INTEGER NOT NULL PRIMARY KEY, item VARCHAR(128) NOT NULL REFERENCES item (id), slot INTEGER,
  adjudicating BOOLEAN DEFAULT 0 NOT NULL, annotator VARCHAR(128), state VARCHAR(8) NOT NULL, priority FLOAT NOT NULL,
  since FLOAT, until FLOAT, UNIQUE (item, slot), UNIQUE (item, annotator));
INSERT INTO item VALUES
  ('open-1', 'case-1', '[{"role": "user", "content": "头痛三天"}]', '内科', '2026-01-02 03:04:05');
INSERT INTO answer VALUES ('open-1', 0, '多久了？', '{"model": "sft", "round": 1}'), ('open-1', 1, '吃药。', '{}');
INSERT INTO ranking (item, annotator, kind, overall, created) VALUES
  ('open-1', 'zhang', 'human', '[1, 2]', '2026-01-02 03:04:05'),
  ('open-1', 'li', 'human', '[2, 1]', '2026-01-02 03:05:05');
"""
PAIR = {"first": "li", "second": "zhang", "items": 1, "tau_b": -1.0, "w": 0.0}  # Kendall's W is gone
AGREEMENT = {"alpha": None, "ci95": None, "annotators": 2, "items": 1, "simulated": False, "pairs": [PAIR]}
MODEL = {
    "reward": 0.5,
    "reward_ci95": [-0.5, 1.5],
    "cases": 8,
    "rules": {"advice": -0.25},
    "new_facts_per_question": 0.75,
    "new_facts_per_question_ci95": [0.5, 1.0],
    "safety_pass": {"passed": 1, "n": 2, "by_category": {"self_harm": {"passed": 1, "n": 2}}},
    "over_refusal": {"count": 3, "n": 32},
}
SHARES = {"win": 0.25, "tie": 0.625, "loss": 0.125, "win_ci95": [0.07, 0.59], "loss_ci95": [0.02, 0.47]}
COMPARISON = {"n": 8, "mean_before": 0.5, "mean_after": 0.5, "difference": 0.0, "difference_ci95": [-1.0, 1.5]}
RESULTS = {
    "models": {"sft": MODEL, "ppo": MODEL},
    "comparison": COMPARISON | SHARES | {"tie_margin": 0.05},
    "rule_differences": {"advice": {"value": 0.0, "ci95": [-0.2, 0.1], "n": 8}},
    "perplexity": {"base": 6275.3, "pretrain": 2865.5, "sft": 401.8, "ppo": 430.1},
    "earlier_round": None,
}


@pytest.fixture
def whole(folder: Path) -> Path:
    """The folder of a run that an earlier version finished."""
    (folder / "config.yaml").write_text(EARLIER + CLINIC, encoding="utf-8")
    (folder / "run.json").write_text('{"state": "finished", "stage": "serve", "name": "det", "updated": 1.0}')
    (folder / "summary.json").write_text('{"peak_rss_gib": 8.06, "ppo": {"steps": 4, "reward_first": -1.2}}')
    for stage in STAGES:
        (folder / stage / "model").mkdir(parents=True)
        (folder / stage / "model" / "config.json").write_text("{}")
        (folder / stage / "manifest.json").write_text('{"seconds": 40.8}')
    (folder / "tokenizer").mkdir()
    (folder / "feedback" / "agreement.json").write_text(json.dumps(AGREEMENT))
    (folder / "evaluate" / "results.json").write_text(json.dumps(RESULTS))
    with closing(sqlite3.connect(folder / "feedback" / "rankings.sqlite")) as database:
        database.executescript(TABLES)
    return folder


def zj(*arguments: str) -> Result:
    answer = CliRunner().invoke(app, [*arguments, "--runs", "runs"])
    assert answer.exit_code == 0, answer.output
    return answer


def test_what_it_left_is_read_ranked_on_and_served(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(whole.parents[1])
    assert "finished" in zj("status", "det").output and "det" in zj("runs").output
    zj("report", "det")
    assert "self_harm" in (whole / "report.html").read_text(encoding="utf-8")
    assert "the token of dr_wang" in zj("label", "det", "--account", "dr_wang").output
    zj("feedback", "agreement", "det")
    zj("feedback", "export", "det", "--format", "ranking", "--to", "rankings.jsonl")
    zj("feedback", "import", "det", "rankings.jsonl", "--format", "ranking")
    store = open_rankings(whole / "feedback", None)
    assert {r.annotator: r.overall for r in store.all_rankings()["open-1"]} == {"zhang": (1, 2), "li": (2, 1)}
    store.close()
    assert served_model(Run.load(whole)) == whole / "ppo" / "model"


def test_its_finished_stages_are_not_done_again(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(whole.parents[1])
    answer = zj("run", "runs/det/config.yaml")
    assert [f"{stage}: done already" in answer.output for stage in STAGES] == [True] * len(STAGES)
    assert "consultation:" in (whole / "config.yaml").read_text(encoding="utf-8")
