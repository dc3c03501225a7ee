"""What can be held fast about speed and memory; `make performance` measures the rest for docs/performance.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.controller import algorithms_alone, idle_stage
from bench.leak import Witness
from bench.subject import SHAPE, config
from bench.trainer import balance, real_dialogues
from zj_ray.config.schema import TrainConfig


def test_the_algorithms_take_under_a_second_for_1024_trajectories_of_2048_tokens() -> None:
    assert algorithms_alone(1024, 2048) < 1.0


@pytest.mark.realdata
@pytest.mark.parametrize("ranks", [2, 4])
def test_real_dialogues_leave_little_padding_and_even_shares(real_data: Path, ranks: int) -> None:
    config = TrainConfig()
    lengths = [len(ids) for ids in real_dialogues(real_data).token_ids]
    padding, imbalance = balance(lengths, ranks, ranks * config.batch_tokens // 2, config.micro_batch_tokens)
    assert padding < 0.05 and imbalance < 0.05


def test_a_finished_step_leaves_no_trajectory_behind(ray_session: None, tmp_path: Path) -> None:
    """Engine and ranks are real actors that answer without computing; the rest of the step is the PPO stage's own."""
    settings = config(SHAPE, 1, 1, talk={"max_turns": 3, "turn_tokens": 48}, consultations=32, epochs=1)
    with idle_stage(tmp_path, settings) as loop:
        witness = Witness(loop)
        for step in range(3):
            loop.step(step)
            assert len(witness.references) == 32 * (step + 1) and witness.alive() == 0
