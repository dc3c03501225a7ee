"""A rank of a role dies in the middle of PPO: the roles are built anew in the run, and nothing else changes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from bench.soak import Killer, kill, learn, prompts_by_step, small_run, steps_done, wait_for_step
from zj_ray.cluster.connect import connect
from zj_ray.errors import RoleLost

pytestmark = pytest.mark.chaos


def _ends_as_if_nothing_had_happened(
    root: Path, caplog: pytest.LogCaptureFixture, *, kinds: Sequence[str], steps: int, ranks: int
) -> None:
    """Each kind of rank is killed once, the next when the run has recovered. ranks: of policy and critic."""
    quiet, disturbed = (small_run(root / name, steps, ranks=ranks) for name in ("quiet", "disturbed"))
    killer = Killer(disturbed, list(kinds))
    with connect(quiet.config.ray, log_folder=root):
        before = learn(quiet)
        thread = killer.start()
        with caplog.at_level("WARNING"):
            seconds = learn(disturbed)
        thread.join(timeout=10)
    assert len(killer.killed) == len(kinds)  # the faults took place
    assert not any(psutil.pid_exists(pid) for _, _, pid in killer.killed)
    losses = [record.getMessage() for record in caplog.records if "are built anew" in record.getMessage()]
    assert len(losses) == len(kinds), losses
    assert prompts_by_step(disturbed) == prompts_by_step(quiet)  # the same prompts in the same steps, each once
    rewards = [[row["reward"] for row in steps_done(run)] for run in (quiet, disturbed)]
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-4)
    ours, theirs = (load_file(run.folder / "ppo" / "model" / "model.safetensors") for run in (quiet, disturbed))
    apart = max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
    assert apart < 1e-5
    print("largest difference of a final weight:", apart)
    print(f"{kinds} killed in {steps} steps: {seconds:.0f} s, undisturbed {before:.0f} s; rewards {rewards[1]}")


def test_a_lost_rank_is_replaced_from_the_last_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _ends_as_if_nothing_had_happened(tmp_path, caplog, kinds=["PolicyRank"], steps=6, ranks=1)


@pytest.mark.slow
def test_lost_ranks_are_replaced_from_the_last_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _ends_as_if_nothing_had_happened(tmp_path, caplog, kinds=["PolicyRank", "RewardRank"], steps=12, ranks=2)


def test_a_role_that_keeps_dying_ends_the_run_with_its_name(tmp_path: Path) -> None:
    run = small_run(tmp_path, steps=12, ranks=1, role_restarts=0)

    def kill_soon() -> None:
        wait_for_step(run, 1)
        kill("CriticRank")

    with connect(run.config.ray, log_folder=tmp_path):
        threading.Thread(target=kill_soon, daemon=True).start()
        with pytest.raises(RoleLost, match="role critic: a rank died"):
            learn(run)
