"""A weight transfer in which an engine dies or hangs half-way: the others get the weights in time all the same."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from tests.helpers.fleet import heal
from tests.helpers.transfer import FLEET, by_object_store, greedy, save, shake_weights
from zj_ray.errors import ZjError
from zj_ray.fleet.control.fleet import Fleet
from zj_ray.fleet.states import EngineState
from zj_ray.fleet.turns import TurnRequest
from zj_ray.roles.roles import Roles
from zj_ray.weights.bucket import PublishedWeights, WeightManifest


def _strike(fleet: Fleet, name: str, how: str) -> None:
    """The engine dies or hangs when its fourth tensor is on the way."""

    def arm(engine: Any) -> None:
        from zj_ray.weights.direct.gloo import Wire

        honest, seen = Wire.broadcast, []

        def strike(wire: Wire, tensor: Any) -> None:
            seen.append(tensor)
            if len(seen) == 4:
                os._exit(1) if how == "dies" else time.sleep(300)
            honest(wire, tensor)

        Wire.broadcast = strike  # type: ignore[method-assign]

    ray.get(fleet.actors[name].__ray_call__.remote(arm), timeout=30)


@pytest.mark.chaos
@pytest.mark.parametrize("how", ["dies", pytest.param("hangs", marks=pytest.mark.slow)])
def test_an_engine_that_fails_half_way_leaves_and_the_other_serves(
    fleet: Fleet, roles: Roles, tiny_models: Path, how: str
) -> None:
    first = fleet.table()[0]["version"] + 1
    fleet.publish(roles.weights(first))
    before = greedy(fleet, tiny_models, "before")
    survivor = fleet.actors["engine-1"]
    shake_weights(roles, first)
    _strike(fleet, "engine-0", how)
    report = fleet.publish(roles.weights(first + 1))
    assert report.confirmed == ("engine-1",) and report.checksum_failures == 0
    assert fleet.lives["engine-0"].state is EngineState.DEAD  # the witness that the fault took place
    assert report.seconds < (5 if how == "dies" else 3 * FLEET.sync_timeout)
    [alone] = greedy(fleet, tiny_models, "alone")
    assert alone != before[1]
    assert heal(fleet) == ["engine-0"] and fleet.lives["engine-0"].version == first + 1
    assert greedy(fleet, tiny_models, "healed") == [alone, alone]
    shake_weights(roles, first + 1)
    fleet.publish(roles.weights(first + 2))  # the ranks are still in step, and a new group works
    assert fleet.actors["engine-1"] == survivor
    sent = greedy(fleet, tiny_models, "sent")
    fleet.publish(by_object_store(roles, first + 3))
    assert greedy(fleet, tiny_models, "packed") == sent != [alone, alone]


def test_a_newcomer_waits_for_the_next_publication_where_the_policy_has_moved_on(
    fleet: Fleet, roles: Roles, tmp_path: Path
) -> None:
    fleet.publish(roles.weights(60))
    save(roles, tmp_path)
    roles.load(tmp_path)  # for all that it knows other weights
    with pytest.raises(ZjError, match="moved on"):
        fleet.publish(PublishedWeights(WeightManifest(60, (), (), 0), (), senders=tuple(roles.policy.actors)))
    fleet.publish(roles.weights(61))
    roles.load(tmp_path)
    ray.kill(fleet.actors["engine-0"], no_restart=True)
    requests = [TurnRequest(f"notice/{i}", [1, 2, 3], 4, 0.0, 0, 0) for i in range(4)]
    fleet.generate(requests, timeout=60)
    assert (
        heal(fleet) == ["engine-0"] and fleet.lives["engine-0"].state is EngineState.STALE
    )  # not with other weights under that name
    assert fleet.publish(roles.weights(62)).confirmed == ("engine-0", "engine-1")
