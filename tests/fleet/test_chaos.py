"""Faults in a fleet of real vLLM engines, one by one, each in the middle of its work (test_faults.py: several at once).

Every test also shows that its fault took place.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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
    tokens,
)
from zj_ray.fleet.states import EngineState

pytestmark = [pytest.mark.chaos, pytest.mark.slow]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene_of_nodes(tmp_path_factory.mktemp("chaos") / "lm") as scene:
        scene.quiet["seconds"] = scene.hold("warmed up").seconds
        yield scene


def test_engines_have_places_of_their_own_on_several_nodes(scene: Scene) -> None:
    where = [
        actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())
        for actor in scene.fleet.actors.values()
    ]
    groups = [
        actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_placement_group_id())
        for actor in scene.fleet.actors.values()
    ]
    assert len(set(ray.get(where, timeout=60))) == 2 and len(set(ray.get(groups, timeout=60))) == ENGINES


def test_an_engine_killed_in_mid_dialogue_loses_nothing(scene: Scene) -> None:
    scene.whole(ENGINES)
    victim, pid = "engine-0", scene.pid("engine-0")
    restarts = scene.fleet.lives[victim].restarts
    with scene.during_a_rollout(victim) as held:
        os.kill(pid, signal.SIGKILL)
        scene.until(lambda: scene.fleet.lives[victim].state is not EngineState.SERVING, "the fault to be seen", 30)
        result = held.result(300)
    scene.check(result, "one engine of four killed")
    assert result.seconds < 1.5 * scene.quiet["seconds"] + 1.0  # a second for the noise of a shared machine
    assert any(turn.attempts > 1 for t in result.trajectories for turn in t.turns) and not psutil.pid_exists(pid)
    scene.whole(ENGINES)
    assert scene.fleet.lives[victim].restarts == restarts + 1 and scene.fleet.lives[victim].version == scene.version
    assert scene.pid(victim) != pid


def test_an_engine_that_stands_still_is_replaced(scene: Scene) -> None:
    """Its process is stopped: it is alive and its connections are open, but it does nothing."""
    scene.whole(ENGINES)
    victim, pid = "engine-1", scene.pid("engine-1")
    with scene.during_a_rollout(victim) as held:
        stop(pid)
        scene.check(held.result(300), "one engine stopped")
    scene.until(lambda: "did not say how it is" in scene.fleet.lives[victim].last_error, "the verdict", 60)
    scene.whole(ENGINES)
    scene.until(lambda: not psutil.pid_exists(pid), "the stopped process to be ended", 60)


def test_an_engine_whose_model_hangs_is_replaced_although_its_actor_answers(scene: Scene) -> None:
    scene.whole(ENGINES)
    victim = "engine-2"
    restarts = scene.fleet.lives[victim].restarts
    with scene.during_a_rollout(victim) as held:
        scene.tell(victim, hang)
        scene.check(held.result(300), "one engine's model hung")
    assert "made no progress" in scene.fleet.lives[victim].last_error
    scene.until(
        lambda: scene.fleet.lives[victim].state is EngineState.DEAD or scene.fleet.lives[victim].restarts > restarts,
        "the verdict",
        60,
    )
    scene.whole(ENGINES)


def test_an_engine_that_answers_at_once_with_errors_gets_little_to_do_and_is_replaced(scene: Scene) -> None:
    scene.whole(ENGINES)
    victim = "engine-0"
    restarts = scene.fleet.lives[victim].restarts
    scene.tell(victim, answer_with_errors)
    scene.check(scene.hold("broken"), "one engine answers with errors")
    assert "broken for this test" in scene.fleet.lives[victim].last_error
    calls = ray.get(scene.fleet.actors[victim].__ray_call__.remote(lambda engine: engine.calls), timeout=30)
    assert (
        1 <= calls <= CONFIG.max_in_flight + 8
    )  # what was given to it before its first answer, and a trial from time to time
    started = time.monotonic()
    while scene.fleet.lives[victim].restarts == restarts:  # it fails on every trial as long as there is work
        assert time.monotonic() - started < 200
        scene.hold(f"broken-{time.monotonic()}")
    scene.whole(ENGINES)


def test_an_engine_that_dies_in_the_middle_of_a_sync_holds_up_nobody(scene: Scene) -> None:
    scene.whole(ENGINES)
    victim, pid = "engine-1", scene.pid("engine-1")
    scene.tell(victim, die_while_loading)
    report = scene.publish()
    assert set(report.confirmed) == {"engine-0", "engine-2", "engine-3"}
    scene.until(lambda: not psutil.pid_exists(pid), "the process to end", 10)
    scene.check(scene.hold("after"), "one engine died in a sync")
    scene.whole(ENGINES)
    assert scene.fleet.lives[victim].version == scene.version


def test_a_publication_waits_neither_for_an_engine_that_stands_still_nor_with_the_turns_of_those_that_have_confirmed(
    scene: Scene,
) -> None:
    scene.whole(ENGINES)
    victim, pid = "engine-2", scene.pid("engine-2")
    with scene.during_a_rollout(victim) as held, ThreadPoolExecutor(1) as pool:
        stop(pid)
        published = pool.submit(scene.publish)

        def works(name: str) -> bool:
            life = scene.fleet.lives[name]
            return (
                life.state is EngineState.SERVING
                and life.version == scene.version
                and scene.fleet.roster.router.in_flight[name] > 0
            )

        scene.until(lambda: any(map(works, scene.fleet.lives)), "turns with the new weights", 30)
        assert not published.done()
        report = published.result(120)
        assert scene.fleet.lives[victim].unheard  # it is given up later, and has not come back
        result = held.result(300)
    assert (
        set(report.confirmed) == {"engine-0", "engine-1", "engine-3"}
        and CONFIG.slow_after / 2 < report.seconds < CONFIG.stall_timeout
    )
    assert result.lost == [] and tokens(result) == scene.quiet["tokens"]
    assert {turn.weight_version for t in result.trajectories for turn in t.turns} == {scene.version - 1, scene.version}
    scene.whole(ENGINES)
    scene.until(lambda: not psutil.pid_exists(pid), "the stopped process to be ended", 60)


def test_a_full_object_store_spills_to_disk_and_nobody_notices(scene: Scene) -> None:
    scene.whole(ENGINES)
    ballast = [ray.put(np.full(60 << 20, number, np.uint8)) for number in range(6)]  # 360 MB into a store of 200 MB
    assert "Spilled" in memory_summary(stats_only=True)
    assert set(scene.publish().confirmed) == set(scene.serving()) and len(scene.serving()) == ENGINES
    scene.check(scene.hold("full"), "a full object store")
    assert all(ray.get(ref, timeout=60)[0] == number for number, ref in enumerate(ballast))


def test_a_node_that_goes_takes_no_consultation_with_it_and_its_engines_come_back_with_another(scene: Scene) -> None:
    scene.whole(ENGINES)
    lost = scene.nodes.pop()
    with scene.during_a_rollout("engine-0") as held:
        scene.cluster.remove_node(lost, allow_graceful=False)
        scene.check(held.result(300), "a node removed")
    scene.until(lambda: len(scene.serving()) < ENGINES, "the engines of that node to be missed", 60)
    scene.until(lambda: sum(node["Alive"] for node in ray.nodes()) == 2, "Ray to see that the node is gone", 120)
    scene.nodes.append(scene.cluster.add_node(num_cpus=2, object_store_memory=200 << 20))
    scene.whole(ENGINES)


def _slow_as_a_gpu_would_be(engine: Any) -> None:
    """Every decoding step takes 20 ms more, in which the processor is free: else two cores are all the engines have."""
    if not hasattr(engine, "quick_step"):
        engine.quick_step = engine.core.engine.step

        def step() -> Any:
            time.sleep(0.02)
            return engine.quick_step()

        engine.core.engine.step = step


def test_the_fleet_grows_and_shrinks_while_it_works(scene: Scene) -> None:
    """2 → 4 → 1, each in the middle of a rollout: none is lost, each turn has its version, and throughput follows."""
    rates = {}
    for engines in (2, 4, 1):
        with scene.during_a_rollout() as held:
            scene.wanted[0] = engines
            scene.check(held.result(300), f"on the way to {engines} engines")
        scene.whole(engines)
        scene.publish()
        for name in scene.serving():
            scene.tell(name, _slow_as_a_gpu_would_be)
        result = scene.hold(f"with-{engines}")
        scene.check(result, f"{engines} engines, slowed")
        rates[engines] = sum(turn.end - turn.start for t in result.trajectories for turn in t.turns) / result.seconds
        assert len({turn.engine for t in result.trajectories for turn in t.turns}) == engines
    print("tokens a second:", {engines: round(rate) for engines, rate in rates.items()})
    assert (
        rates[4] > 1.2 * rates[2] and rates[2] > 1.5 * rates[1]
    )  # the processor's share of a step does not scale on two cores
    scene.until(lambda: ray.available_resources().get("CPU") == 3, "the places of those that left to be free", 30)
    scene.wanted[0] = ENGINES
