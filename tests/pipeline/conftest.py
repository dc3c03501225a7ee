"""One undisturbed run for all tests that only read from one, or copy it."""

from __future__ import annotations

import pytest

from tests.helpers.pipeline import FinishedRun, finish_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A finished run of every stage but `serve`, of a tiny deterministic model. Copy it before changing it."""
    return finish_run(tmp_path_factory.mktemp("finished"))
