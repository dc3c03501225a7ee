"""The tests of the algorithms notice every planted fault (tests/mutate.py)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.mutate import FAULTS, ROOT, Fault, notice


def test_every_planted_fault_is_noticed() -> None:
    assert len(FAULTS) >= 20
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutate"], cwd=ROOT, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_fault_that_no_longer_fits_the_code_is_an_error() -> None:
    with pytest.raises(ValueError, match="stands 0 times"):
        notice(Fault("gone", "algorithms/gae.py", "no such line", ""))
