"""A second round of feedback: the policy's own answers are ranked, after a kill too, and later stages take them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.driver import zj, zj_until_killed
from tests.helpers.pipeline import CONFIG, LIMIT, NAME, FinishedRun
from zj_ray.algorithms.ensemble import Ensemble
from zj_ray.files import read_jsonl
from zj_ray.rankings.aspects import HEADS
from zj_ray.rankings.store import open_rankings
from zj_ray.roles.reward import save_ensemble
from zj_ray.runs.folder import Run
from zj_ray.runs.metrics import read_metrics
from zj_ray.stages.collect import round_of
from zj_ray.stages.context import StageContext
from zj_ray.stages.reward import read_feedback

pytestmark = pytest.mark.timeout(2 * LIMIT)


def _give_second_member(run: Path) -> None:
    """A reward ensemble of two, as if the stage had trained both: the second one has other heads on the same trunk."""
    shutil.copytree(run / "reward" / "model", run / "reward" / "member-2" / "model")
    heads = run / "reward" / "member-2" / "model" / "heads.safetensors"
    save_file({name: torch.randn_like(weight) for name, weight in load_file(heads).items()}, heads)
    alike = Ensemble(np.zeros((2, len(HEADS))), np.ones((2, len(HEADS))), pessimism=1.0)
    save_ensemble(run / "reward" / "model", [run / "reward" / "member-2" / "model"], alike)


@pytest.mark.parametrize("start_from", ["ppo", pytest.param("reward", marks=pytest.mark.slow)])
def test_a_second_round_survives_a_kill_and_reaches_the_reward_model_and_the_evaluation(
    finished: FinishedRun, tmp_path: Path, start_from: str
) -> None:
    runs, log = tmp_path / "runs", tmp_path / "zj.log"
    shutil.copytree(finished.runs, runs, symlinks=True)
    run = runs / NAME
    _give_second_member(run)
    first = json.loads((run / "reward" / "manifest.json").read_text())

    words = ["feedback", "collect", NAME, "--prompts", "12", "--runs", runs]
    zj_until_killed(("zj_ray.stages.collect:_order", 1, 1e6), *words, log=log, limit=LIMIT)
    assert zj(*words, log=log).wait(LIMIT) == 0, log.read_text()[-3000:]

    store = open_rankings(run / "feedback", None)
    items, rankings = store.items(), store.all_rankings()
    store.close()
    added = [item for item in items if round_of(item) == 2]
    assert max(map(round_of, items)) == 2 and 6 <= len(added) <= 12
    assert all(answer.origin["model"] == "ppo" for item in added for answer in item.answers)
    assert all(len(rankings[item.id]) == 3 for item in added)  # the panel
    priorities = json.loads((run / "feedback" / "priorities.json").read_text())
    assert priorities.keys() == {item.id for item in added} and all(0 < value <= 0.5 for value in priorities.values())
    spoken = {tuple(m["content"] for m in row["messages"]) for _, row in read_jsonl(run / "ppo" / "rollouts.jsonl")}
    own = [item for item in added if "-own-" in item.id]
    for item in own:
        context = tuple(message.content for message in item.context)
        assert any(talk[: len(context)] == context for talk in spoken)
    assert own and len(own) < len(added)

    feedback = read_feedback(StageContext(Run.load(run)))
    learnt_or_measured = {each.item.id for each in (*feedback.train, *feedback.stopping, *feedback.valid)}
    assert learnt_or_measured == {item.id for item in items}

    config = tmp_path / "exact.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    again = ["--from", start_from, "--set", "ppo.init=earlier", "--set", "ppo.steps=2"]
    allowed = ["--allow-change", "ppo.init", "--allow-change", "ppo.steps", "--runs", runs]
    assert zj("run", config, *again, *allowed, log=log).wait(LIMIT) == 0, log.read_text()[-3000:]
    [aside] = run.glob("ppo.before-*")
    before, now = (abs(read_metrics(folder / "metrics.jsonl")[0]["kl"]) for folder in (aside, run / "ppo"))
    assert before < 1e-5 < now  # the first round started as the reference, the second from where the first had come
    if start_from == "reward":
        second = json.loads((run / "reward" / "manifest.json").read_text())
        assert second["held_out_pairs"] != first["held_out_pairs"]
    results = json.loads((run / "evaluate" / "results.json").read_text())
    assert results["earlier_round"]["n"] == 6
    assert "上一轮" in (run / "report.html").read_text(encoding="utf-8")
