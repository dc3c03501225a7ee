"""Independent implementations say the same (bench/references.py prints the table)."""

from __future__ import annotations

import pytest

from bench.references import TOLERANCE, Difference, against_torch, against_trl
from tests.helpers.ranks import run_ranks


def test_trl_computes_the_same_on_its_own_tensors() -> None:
    pytest.importorskip("trl.experimental.ppo", reason="TRL with a PPO trainer (at most 1.12.0) is not installed")
    assert _too_large(against_trl()) == []


def _adamw(rank: int, world: int) -> None:
    assert _too_large(against_torch()) == []


def test_torch_steps_the_same_as_the_engine() -> None:
    run_ranks(1, _adamw)


def _too_large(differences: list[Difference]) -> list[Difference]:
    assert differences
    return [difference for difference in differences if not difference.largest <= TOLERANCE]
