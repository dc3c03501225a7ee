"""A rank of a role dies in the middle of PPO: the roles are built anew in the run, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from bench.soak import Killer, learn, prompts_by_step, small_run, steps_done
from tests.helpers.forked import forked_workers
from zj_ray.cluster.connect import connect
from zj_ray.errors import RoleLost

pytestmark = pytest.mark.chaos

STEPS = 12


def test_a_lost_rank_is_replaced_and_one_too_many_ends_the_run_with_its_name(tmp_path: Path) -> None:
    """The second loss comes when the run has recovered from the first: what it did in between is the quiet run's."""
    settings = {"ranks": 1, "role_restarts": 1, "advantage": "reinforce_pp", "colocate": (("policy", "reward"),)}
    quiet, disturbed = (small_run(tmp_path / name, STEPS, **settings) for name in ("quiet", "disturbed"))
    killer = Killer(disturbed, ["PolicyRank", "RewardRank"])
    with forked_workers(), connect(quiet.config.ray, log_folder=tmp_path):
        learn(quiet)
        thread = killer.start()
        with pytest.raises(RoleLost, match="role reward: a rank died"):
            learn(disturbed)
        thread.join(timeout=10)
    [(first, *_), (second, *_)] = killer.killed  # after so many steps
    done = len(steps_done(disturbed))
    assert first + 2 <= second <= done < STEPS
    assert not any(psutil.pid_exists(pid) for _, _, pid in killer.killed)  # the faults took place
    held = [[row for row in prompts_by_step(run) if row[0] <= done] for run in (quiet, disturbed)]
    assert held[0] == held[1]
    rewards = [[row["reward"] for row in steps_done(run)[:done]] for run in (quiet, disturbed)]
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-4)


@pytest.mark.slow
def test_lost_ranks_are_replaced_from_the_last_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    quiet, disturbed = (small_run(tmp_path / name, STEPS) for name in ("quiet", "disturbed"))
    killer = Killer(disturbed, ["PolicyRank", "RewardRank"])
    with forked_workers(), connect(quiet.config.ray, log_folder=tmp_path):
        before = learn(quiet)
        thread = killer.start()
        with caplog.at_level("WARNING"):
            seconds = learn(disturbed)
        thread.join(timeout=10)
    assert len(killer.killed) == 2  # the faults took place
    assert not any(psutil.pid_exists(pid) for _, _, pid in killer.killed)
    losses = [record.getMessage() for record in caplog.records if "are built anew" in record.getMessage()]
    assert len(losses) == 2, losses
    assert prompts_by_step(disturbed) == prompts_by_step(quiet)  # the same prompts in the same steps, each once
    rewards = [[row["reward"] for row in steps_done(run)] for run in (quiet, disturbed)]
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-4)
    ours, theirs = (load_file(run.folder / "ppo" / "model" / "model.safetensors") for run in (quiet, disturbed))
    apart = max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
    assert apart < 1e-5
    print("largest difference of a final weight:", apart)
    print(f"two ranks killed in {STEPS} steps: {seconds:.0f} s, undisturbed {before:.0f} s; rewards {rewards[1]}")
