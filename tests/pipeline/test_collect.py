"""Two rounds of feedback on a tiny run: the policy's own answers are ranked, also after a kill, and all stages from the reward model on take them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.helpers.driver import end_orphans, zj
from zj_ray.files import read_jsonl
from zj_ray.rankings.store import open_rankings
from zj_ray.runs.metrics import read_metrics
from zj_ray.stages.collect import round_of

pytestmark = pytest.mark.timeout(900)

CONFIG = """
name: rounds
stages: [pretrain, sft, feedback, reward, ppo, evaluate]
data: {clinic: {consultations: 60, single_turn: 40, passages: 40, cases: 40}}
model: {max_length: 320, tiny: {vocab_size: 600, hidden_size: 64, layers: 2, heads: 1, intermediate_size: 128}}
pretrain: {max_steps: 3, batch_tokens: 1024, micro_batch_tokens: 512}
sft: {max_steps: 40, epochs: 20, batch_tokens: 1024, micro_batch_tokens: 512}
feedback: {prompts: 16}
reward: {epochs: 2, batch_tokens: 2048, ensemble: 2}
fleet: {initial: 1, kv_cache_mb: 64}
consultation: {turn_tokens: 12, max_turns: 4}
ppo: {steps: 2, consultations: 8, critic_warmup: 0}
evaluate: {cases: 6, safety_prompts: 4, controls: 4, safety_samples: 1, bootstrap: 200}
"""
TIMEOUT = 400.0


def test_a_second_round_survives_a_kill_and_reaches_the_reward_model_and_the_evaluation(tmp_path: Path) -> None:
    config, runs, log = tmp_path / "rounds.yaml", tmp_path / "runs", tmp_path / "zj.log"
    config.write_text(CONFIG, encoding="utf-8")
    run = runs / "rounds"
    assert zj("run", config, "--runs", runs, log=log).wait(TIMEOUT) == 0, log.read_text()[-3000:]
    first = json.loads((run / "reward" / "manifest.json").read_text())

    words = ["feedback", "collect", "rounds", "--prompts", "12", "--runs", runs]
    fatal = [
        sys.executable,
        "-m",
        "tests.helpers.mortal",
        tmp_path / "witness.json",
        "zj_ray.stages.collect:_order",
        "1",
        "1e6",
        *words,
    ]
    with log.open("w") as out:
        assert (
            subprocess.run([*map(str, fatal)], stdout=out, stderr=subprocess.STDOUT, timeout=TIMEOUT).returncode == -9
        ), log.read_text()[-3000:]
    left = json.loads((tmp_path / "witness.json").read_text())["left"]
    end_orphans([process for process in psutil.process_iter() if process.pid in left], patience=3.0)
    assert zj(*words, log=log).wait(TIMEOUT) == 0, log.read_text()[-3000:]

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
        said = tuple(message.content for message in item.context)
        assert any(talk[: len(said)] == said for talk in spoken)
    assert own and len(own) < len(added)

    again = ["--from", "reward", "--set", "ppo.init=earlier", "--allow-change", "ppo.init"]
    assert zj("run", config, *again, "--runs", runs, log=log).wait(TIMEOUT) == 0, log.read_text()[-3000:]
    [aside] = run.glob("ppo.before-*")
    before, now = (abs(read_metrics(folder / "metrics.jsonl")[0]["kl"]) for folder in (aside, run / "ppo"))
    assert before < 1e-5 < now  # the first round started as the reference, the second from where the first had come
    second = json.loads((run / "reward" / "manifest.json").read_text())
    assert second["held_out_pairs"] != first["held_out_pairs"]
    results = json.loads((run / "evaluate" / "results.json").read_text())
    assert results["earlier_round"]["n"] == 6
    assert "上一轮" in (run / "report.html").read_text(encoding="utf-8")
