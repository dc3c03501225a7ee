"""What every test shares: a marked test whose need this machine lacks is skipped, and says what it lacks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:  # neither Ray nor torch for tests that need neither
    from zj_ray.fleet.control.fleet import Fleet
    from zj_ray.roles.roles import Roles

pytest.register_assert_rewrite("tests.helpers")  # a helper's failed assertion shows its values too
# Ray's workers usually give way to all else (15): beside two busy processes they would get 3 % of a core each.
os.environ.setdefault("RAY_worker_niceness", "0")
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
# Tests of a group run one after the other in one process: they share what is dear to make. Else a file is a group.
GROUPS = {
    "one finished run": ("pipeline/test_pipeline.py", "pipeline/test_exact_resume.py", "pipeline/test_collect.py"),
    "one Ray": (
        "ppo/test_wiring.py",
        "weights/test_transports.py",
        "weights/test_broken_transfer.py",
        "ppo/test_layouts.py",
        "fleet/test_tensor_parallel.py",
        "stages/test_reward.py",
        "training/test_early_stopping.py",
        "training/test_supervised_resume.py",
        "training/test_performance.py",
        "weights/test_gpu.py",
        "test_forked.py",
    ),
    # Alone, but longer than others: where several processes share the tests, the longest begin first.
    "learning": ("algorithms/test_learning.py",),
    "faults": ("fleet/test_faults.py",),
    "roles that die": ("pipeline/test_role_loss.py",),
    "serving": ("serving/test_serving.py",),
    "jobs": ("runs/test_jobs.py",),
    "consultations ahead": ("pipeline/test_ahead_resume.py",),
    "a local cluster": ("cluster/test_manifests.py",),
}
GROUP_OF = {f"tests/{file}": group for group, files in GROUPS.items() for file in files}
SHARED = ExitStack()  # the Ray of the group "one Ray" and what lives on it
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


class ByGroup(LoadScopeScheduling):
    """Gives each process a group at a time, as they stand in GROUPS: xdist's own groups don't work with pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


def _group(nodeid: str) -> str:
    file = nodeid.split("::")[0]
    return GROUP_OF.get(file, file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByGroup:
    return ByGroup(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needs = {
        "browser": (lambda: chromium() is not None, "no Chromium on PATH; install one or name it in ZJ_CHROMIUM"),
        "gpu": (_has_cuda, "no CUDA device on this machine"),
        "realdata": (lambda: real_data_folder() is not None, "no folder of real dialogues; name one in ZJ_REAL_DATA"),
    }
    order = list(GROUPS)
    items.sort(key=lambda item: order.index(group) if (group := _group(item.nodeid)) in order else len(order))
    for item in items:
        if "ray_session" in getattr(item, "fixturenames", ()) and _group(item.nodeid) != "one Ray":
            raise pytest.UsageError(f"{item.nodeid} uses ray_session: its file belongs to GROUPS['one Ray']")
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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if _group(item.nodeid) != "one Ray":
        SHARED.close()  # this test may start a Ray of its own


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One small Ray for all tests that need one and don't break it."""
    import ray

    from tests.helpers.forked import forked_workers

    os.environ.setdefault(
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0"
    )  # as `connect` has it: one process less in a stage
    with forked_workers():
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            object_store_memory=256 << 20,
            logging_level="ERROR",
            log_to_driver=False,
        )
    SHARED.callback(ray.shutdown)
    yield
    SHARED.close()


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
) -> tuple[Roles, Fleet, Path]:
    """PPO's roles and two engines for all tests that leave them whole, and a checkpoint of the roles' beginning."""
    from tests.helpers.transfer import save, started

    roles, fleet = SHARED.enter_context(started(tiny_models))
    beginning = tmp_path_factory.mktemp("beginning")
    save(roles, beginning)
    return roles, fleet, beginning


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
