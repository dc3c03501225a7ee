"""A weight transfer in which an engine dies or hangs half-way: the others get the weights all the same, within the limits."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from tests.test_transports import CONFIG, FLEET, _by_object_store, _greedy, _shake
from tests.tiny import MODEL, tiny_folder
from zj_ray.errors import ZjError
from zj_ray.fleet.engine import TurnRequest
from zj_ray.fleet.fleet import Fleet
from zj_ray.fleet.states import EngineState
from zj_ray.roles.roles import Models, Roles
from zj_ray.training.model import new_heads
from zj_ray.weights.bucket import PublishedWeights, WeightManifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("broken")
    new_heads(tiny_folder(root / "lm"), 4, MODEL, seed=1).save(root / "reward")
    return root


@pytest.fixture(scope="module")
def fleet(ray_session: None, folder: Path) -> Iterator[Fleet]:
    fleet = Fleet(str(folder / "lm"), MODEL, FLEET, start_timeout=300)
    fleet.launch()
    fleet.wait_ready()
    yield fleet
    fleet.close()


@pytest.fixture(scope="module")
def roles(ray_session: None, folder: Path) -> Iterator[Roles]:
    roles = Roles(CONFIG, MODEL, seed=0, start_timeout=60, fleet=FLEET)
    roles.start(Models(reference=folder / "lm", reward=folder / "reward"))
    yield roles
    roles.close()


def _strike(fleet: Fleet, name: str, how: str) -> None:
    """The engine dies or hangs when its fourth tensor is on the way."""

    def arm(engine: Any) -> None:
        from zj_ray.weights.gloo import Wire

        honest, seen = Wire.broadcast, []

        def strike(wire: Wire, tensor: Any) -> None:
            seen.append(tensor)
            if len(seen) == 4:
                os._exit(1) if how == "dies" else time.sleep(300)
            honest(wire, tensor)

        Wire.broadcast = strike  # type: ignore[method-assign]

    ray.get(fleet.actors[name].__ray_call__.remote(arm), timeout=30)


@pytest.mark.chaos
@pytest.mark.parametrize("how", ["dies", "hangs"])
def test_an_engine_that_fails_half_way_leaves_and_the_other_serves(fleet: Fleet, roles: Roles, folder: Path, how: str) -> None:
    first = fleet.table()[0]["version"] + 1
    fleet.publish(roles.weights(first))
    before = _greedy(fleet, folder, "before")
    survivor = fleet.actors["engine-1"]
    _shake(roles, first)
    _strike(fleet, "engine-0", how)
    report = fleet.publish(roles.weights(first + 1))
    assert report.confirmed == ("engine-1",) and report.checksum_failures == 0
    assert fleet.lives["engine-0"].state is EngineState.DEAD  # the witness that the fault took place
    assert report.seconds < (5 if how == "dies" else 3 * FLEET.sync_timeout)
    [alone] = _greedy(fleet, folder, "alone")
    assert alone != before[1]
    assert fleet.heal() == ["engine-0"] and fleet.lives["engine-0"].version == first + 1
    assert _greedy(fleet, folder, "healed") == [alone, alone]
    _shake(roles, first + 1)
    fleet.publish(roles.weights(first + 2))  # the ranks are still in step, and a new group works
    assert fleet.actors["engine-1"] == survivor
    sent = _greedy(fleet, folder, "sent")
    fleet.publish(_by_object_store(roles, first + 3))
    assert _greedy(fleet, folder, "packed") == sent != [alone, alone]


def test_a_newcomer_waits_for_the_next_publication_where_the_policy_has_moved_on(fleet: Fleet, roles: Roles, tmp_path: Path) -> None:
    fleet.publish(roles.weights(60))
    roles.save(tmp_path)
    roles.load(tmp_path)  # for all that it knows other weights
    with pytest.raises(ZjError, match="moved on"):
        fleet.publish(PublishedWeights(WeightManifest(60, (), (), 0), (), senders=tuple(roles.policy.actors)))
    fleet.publish(roles.weights(61))
    roles.load(tmp_path)
    ray.kill(fleet.actors["engine-0"], no_restart=True)
    requests = [TurnRequest(f"notice/{i}", [1, 2, 3], 4, 0.0, 0, 0) for i in range(4)]
    fleet.generate(requests, timeout=60)
    assert fleet.heal() == ["engine-0"] and fleet.lives["engine-0"].state is EngineState.STALE  # not with other weights under that name
    assert fleet.publish(roles.weights(62)).confirmed == ("engine-0", "engine-1")
