"""Faults in a fleet of real vLLM engines on several Ray nodes, several faults at once (test_chaos.py: one by one).

Every test also shows that its faults took place.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
import ray
from ray._private.internal_api import memory_summary

from tests.helpers.chaos import (
    CONFIG,
    ENGINES,
    Scene,
    answer_with_errors,
    die_while_loading,
    hang,
    scene_of_nodes,
    stop,
)

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene_of_nodes(tmp_path_factory.mktemp("faults") / "lm") as scene:
        yield scene


def test_one_engine_killed_one_stopped_and_one_whose_model_hangs_lose_nothing_and_are_replaced(scene: Scene) -> None:
    names = ("engine-0", "engine-1", "engine-2")
    killed, stopped, hung = (scene.pid(name) for name in names)
    with scene.during_a_rollout(*names) as held:
        os.kill(killed, signal.SIGKILL)
        process = stop(stopped)
        scene.tell("engine-2", hang)
        assert not held.done()
        result = held.result(300)
    scene.check(result, "one engine killed, one stopped, one hung")
    assert any(turn.attempts > 1 for t in result.trajectories for turn in t.turns) and not psutil.pid_exists(killed)
    lives = scene.fleet.lives
    scene.until(lambda: "did not say how it is" in lives["engine-1"].last_error, "the stopped engine's verdict", 60)
    scene.until(lambda: "made no progress" in lives["engine-2"].last_error, "the hung engine's verdict", 60)
    scene.until(lambda: [lives[name].restarts for name in names] == [1, 1, 1], "their replacement")
    scene.whole(ENGINES)
    assert {life.version for life in lives.values()} == {scene.version}
    assert scene.pid("engine-0") != killed
    scene.until(lambda: not process.is_running(), "the stopped process to be ended", 60)


def test_an_engine_that_answers_with_errors_gets_little_to_do_and_then_dies_in_a_sync_that_goes_on(
    scene: Scene,
) -> None:
    victim, pid = "engine-3", scene.pid("engine-3")
    scene.tell(victim, answer_with_errors)
    scene.check(scene.hold("broken"), "one engine answers with errors")
    assert "broken for this test" in scene.fleet.lives[victim].last_error
    calls = ray.get(scene.fleet.actors[victim].__ray_call__.remote(lambda engine: engine.calls), timeout=30)
    # What it was given before its first answer, and a trial from time to time.
    assert 1 <= calls <= CONFIG.max_in_flight + 8
    scene.tell(victim, die_while_loading)
    report = scene.publish()
    assert set(report.confirmed) == {"engine-0", "engine-1", "engine-2"}
    scene.until(lambda: not psutil.pid_exists(pid), "the process to end", 10)


def test_a_full_object_store_spills_to_disk_and_nobody_notices(scene: Scene) -> None:
    ballast = [ray.put(np.full(60 << 20, number, np.uint8)) for number in range(6)]  # 360 MB into a store of 200 MB
    assert "Spilled" in memory_summary(stats_only=True)
    assert set(scene.publish().confirmed) >= {"engine-0", "engine-1", "engine-2"}
    scene.check(scene.hold("full"), "a full object store")
    assert all(ray.get(ref, timeout=60)[0] == number for number, ref in enumerate(ballast))


def test_a_node_that_goes_takes_no_consultation_with_it(scene: Scene) -> None:
    scene.whole(ENGINES)
    with scene.during_a_rollout(*scene.fleet.lives) as held:
        scene.cluster.remove_node(scene.nodes.pop(), allow_graceful=False)
        scene.check(held.result(300), "a node removed")
    scene.until(lambda: len(scene.serving()) == ENGINES // 2, "the engines of that node to be missed", 60)


def test_a_fleet_that_shrinks_in_the_middle_of_its_work_loses_nothing(scene: Scene) -> None:
    with scene.during_a_rollout(*scene.serving()) as held:
        scene.wanted[0] = 1
        scene.check(held.result(300), "on the way to one engine")
    scene.whole(1)
