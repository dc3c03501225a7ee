"""Faults in a fleet of real vLLM engines on a Ray cluster of several nodes. Every test also shows that its fault took place.

A consultation's tokens depend on its seeds alone, so that what a disturbed rollout brings must be, token for token, what
the undisturbed one brought: nothing lost, nothing twice, no committed turn spoken anew.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from ray._private.internal_api import memory_summary
from ray.cluster_utils import Cluster

from tests.helpers.tiny import MODEL, tiny_folder
from tests.ppo.test_wiring import CASE
from zj_ray.cluster.connect import QUIET, worker_environment
from zj_ray.config.schema import FleetConfig
from zj_ray.data.case import Prompt
from zj_ray.data.chat import ChatFormat
from zj_ray.data.tokenizer import load_tokenizer
from zj_ray.fleet.control.fleet import Consultations, Fleet
from zj_ray.fleet.dialogue import DialogueSettings
from zj_ray.fleet.states import EngineState
from zj_ray.weights.folder import publish_folder

pytestmark = pytest.mark.chaos

ENGINES = 4
CONFIG = FleetConfig(
    initial=ENGINES, min=1, max=4, engine_cpus=1, kv_cache_mb=64, max_in_flight=16, turn_timeout=60, sync_timeout=30, slow_after=4, stall_timeout=12,
    turn_retries=5,
)  # fmt: skip
SETTINGS = DialogueSettings(max_turns=3, turn_tokens=60, max_length=256, temperature=1.0)
PROMPTS = [(Prompt(f"p{i}", "case", CASE.opening, case=CASE), i) for i in range(96)]
UP = 240.0  # longest for an engine to come up while others work on the same two cores [s]


@dataclass
class Scene:
    """A supervised fleet on a cluster of a head without CPUs and two nodes with two each."""

    cluster: Cluster
    fleet: Fleet
    chat: ChatFormat
    folder: Path
    nodes: list[Any]
    wanted: list[int] = field(default_factory=lambda: [CONFIG.initial])
    version: int = 0
    quiet: dict[str, Any] = field(default_factory=dict)  # seconds and tokens of the undisturbed rollout

    def hold(self, key: str) -> Consultations:
        return self.fleet.rollout(PROMPTS, key=key, seed=5, chat=self.chat, settings=SETTINGS, timeout=300)

    def publish(self) -> Any:
        self.version += 1
        return self.fleet.publish(publish_folder(self.folder, self.version))

    def serving(self) -> list[str]:
        return [name for name, life in self.fleet.lives.items() if life.state is EngineState.SERVING]

    def pid(self, name: str) -> int:
        return ray.get(self.fleet.actors[name].wait_ready.remote(), timeout=60)

    def tell(self, name: str, what: Callable[[Any], None]) -> None:
        """Do something inside an engine's process."""
        ray.get(self.fleet.actors[name].__ray_call__.remote(what), timeout=60)

    def whole(self, engines: int) -> None:
        self.until(lambda: len(self.serving()) == engines == len(self.fleet.lives), f"{engines} engines to serve")

    def until(self, condition: Callable[[], bool], what: str, limit: float = UP) -> float:
        started = time.monotonic()
        while not condition():
            assert time.monotonic() - started < limit, f"waited {limit:.0f} s for {what}: {self.fleet.table()}"
            time.sleep(0.02)
        return time.monotonic() - started

    @contextmanager
    def during_a_rollout(self, victim: str | None = None) -> Iterator[Future[Consultations]]:
        """In the middle of one: the victim has spoken turns and has others in flight."""
        key = f"disturbed-{time.monotonic()}"
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(self.hold, key)
            if victim is not None:
                self.until(
                    lambda: self.fleet.roster.router.in_flight[victim] > CONFIG.max_in_flight // 4 or held.done(),
                    "turns in flight",
                    60,
                )
            assert not held.done()
            yield held

    def check(self, held: Consultations, what: str) -> None:
        """The same consultations as without the fault."""
        assert held.lost == []
        assert {(t.prompt_id, t.sample): t.token_ids for t in held.trajectories} == self.quiet["tokens"]
        assert {turn.weight_version for t in held.trajectories for turn in t.turns} == {self.version}
        print(
            f"{what}: {held.seconds:.1f} s, undisturbed {self.quiet['seconds']:.1f} s, {held.seconds / self.quiet['seconds']:.2f} times"
        )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    os.environ.update({key: os.environ.get(key, value) for key, value in QUIET.items()})
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": 200 << 20, "include_dashboard": False},
    )
    nodes = [cluster.add_node(num_cpus=2, object_store_memory=200 << 20) for _ in range(2)]
    ray.init(
        address=cluster.address,
        logging_level="ERROR",
        log_to_driver=False,
        runtime_env={"env_vars": worker_environment()},
    )
    folder = tiny_folder(tmp_path_factory.mktemp("chaos") / "lm")
    wanted = [CONFIG.initial]
    fleet = Fleet(str(folder), MODEL, CONFIG, start_timeout=UP, wanted=lambda: wanted[0])
    try:
        fleet.launch()
        fleet.wait_ready()
        fleet.supervise()
        scene = Scene(cluster, fleet, ChatFormat(load_tokenizer(folder)), folder, nodes, wanted)
        scene.publish()
        scene.hold("warm-up")
        held = scene.hold("quiet")
        scene.quiet = {
            "seconds": held.seconds,
            "tokens": {(t.prompt_id, t.sample): t.token_ids for t in held.trajectories},
        }
        yield scene
    finally:
        fleet.close()
        ray.shutdown()
        cluster.shutdown()


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
        os.kill(pid, signal.SIGSTOP)
        scene.until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "the process to stop", 10)
        scene.check(held.result(300), "one engine stopped")
    scene.until(lambda: "did not say how it is" in scene.fleet.lives[victim].last_error, "the verdict", 60)
    scene.whole(ENGINES)
    scene.until(lambda: not psutil.pid_exists(pid), "the stopped process to be ended", 60)


def test_an_engine_whose_model_hangs_is_replaced_although_its_actor_answers(scene: Scene) -> None:
    scene.whole(ENGINES)
    victim = "engine-2"
    restarts = scene.fleet.lives[victim].restarts

    def hang(engine: Any) -> None:
        engine.core.engine.step = lambda: time.sleep(600)

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

    def break_(engine: Any) -> None:
        engine.calls = 0

        def generate(request: Any) -> Any:
            engine.calls += 1
            raise RuntimeError("broken for this test")

        engine.core.generate = generate

    scene.tell(victim, break_)
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

    def die_while_loading(engine: Any) -> None:
        engine.core.load = lambda *_: os._exit(1)

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
        os.kill(pid, signal.SIGSTOP)
        scene.until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "the process to stop", 10)
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
    assert (
        result.lost == []
        and {(t.prompt_id, t.sample): t.token_ids for t in result.trajectories} == scene.quiet["tokens"]
    )
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
    """Every decoding step takes 20 ms more, in which the processor is free: else all engines share two cores, whatever their number."""
    if not hasattr(engine, "quick_step"):
        engine.quick_step = engine.core.engine.step

        def step() -> Any:
            time.sleep(0.02)
            return engine.quick_step()

        engine.core.engine.step = step


def test_the_fleet_grows_and_shrinks_while_it_works(scene: Scene) -> None:
    """2 → 4 → 1, each in the middle of a rollout: none is lost, each turn has the right version, and throughput follows."""
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
