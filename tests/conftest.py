"""What every test shares: a marked test whose need this machine lacks is skipped, and says what it lacks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # neither Ray nor torch for tests that need neither
    from zj_ray.fleet.control.fleet import Fleet
    from zj_ray.roles.roles import Roles

pytest.register_assert_rewrite("tests.helpers")  # a helper's failed assertion shows its values too
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chrome-headless-shell")


@cache
def real_data_folder() -> Path | None:
    """The folder with real dialogues (train/ and valid/), or None where there is none."""
    folder = Path(os.environ["ZJ_REAL_DATA"]) if os.environ.get("ZJ_REAL_DATA") else SHARED_DATA
    return folder if (folder / "train").is_dir() else None


@cache
def chromium() -> str | None:
    """The path of a Chromium-like browser: ZJ_CHROMIUM, or the first that is installed."""
    return os.environ.get("ZJ_CHROMIUM") or next((path for name in CHROMIUM if (path := shutil.which(name))), None)


@cache
def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needs = {
        "browser": (lambda: chromium() is not None, "no Chromium on PATH; install one or name it in ZJ_CHROMIUM"),
        "gpu": (_has_cuda, "no CUDA device on this machine"),
        "realdata": (lambda: real_data_folder() is not None, "no folder of real dialogues; name one in ZJ_REAL_DATA"),
    }
    items.sort(key=lambda item: "ray_session" in getattr(item, "fixturenames", ()))  # stable
    for item in items:
        for marker, (is_met, reason) in needs.items():
            if item.get_closest_marker(marker) and not is_met():
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real dialogues. Only for tests marked `realdata`, which are skipped where there is none."""
    folder = real_data_folder()
    assert folder is not None, "mark this test with pytest.mark.realdata"
    return folder


@pytest.fixture(scope="session")
def browser_path() -> str:
    """A Chromium-like browser. Only for tests marked `browser`."""
    path = chromium()
    assert path is not None, "mark this test with pytest.mark.browser"
    return path


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One small Ray for all tests that need one and don't break it. They run last: others want a Ray of their own."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=256 << 20,
        logging_level="ERROR",
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny causal LM in `lm` and a reward model on its trunk in `reward`."""
    from tests.helpers.tiny import MODEL, tiny_folder
    from zj_ray.training.model import new_heads

    root = tmp_path_factory.mktemp("models")
    new_heads(tiny_folder(root / "lm"), 4, MODEL, seed=1).save(root / "reward")
    return root


@pytest.fixture(scope="session")
def roles_and_fleet(
    ray_session: None, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Roles, Fleet, Path]]:
    """PPO's roles and two engines for all tests that leave them whole, and a checkpoint of the roles' beginning."""
    from tests.helpers.transfer import save, started

    with started(tiny_models) as (roles, fleet):
        beginning = tmp_path_factory.mktemp("beginning")
        save(roles, beginning)
        yield roles, fleet, beginning


@pytest.fixture(scope="module")
def roles(roles_and_fleet: tuple[Roles, Fleet, Path]) -> Roles:
    """The shared roles, as they were in the beginning."""
    roles, _, beginning = roles_and_fleet
    roles.load(beginning)
    return roles


@pytest.fixture(scope="module")
def fleet(roles_and_fleet: tuple[Roles, Fleet, Path]) -> Fleet:
    """The shared engines. A test that breaks one mends it with `heal`."""
    return roles_and_fleet[1]
