"""What PPO has written down of steps after its checkpoint goes when it resumes, also what a kill left half-written."""

from __future__ import annotations

from pathlib import Path

from zj_ray.ppo.record import StepLog


def test_consultations_of_lost_steps_and_a_half_written_one_are_forgotten(tmp_path: Path) -> None:
    log = StepLog(tmp_path, tmp_path / "tensorboard")
    log.rollouts.write_text('{"step": 1}\n{"step": 2}\n{"ste', encoding="utf-8")
    log.truncate_after(1)
    assert log.rollouts.read_text(encoding="utf-8") == '{"step": 1}\n'
