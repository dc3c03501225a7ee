"""A supervised fleet of real vLLM engines on a Ray cluster of several nodes, for faults in the middle of its work.

A consultation's tokens depend on its seeds alone, so that what a disturbed rollout brings must be, token for token,
what the undisturbed one brought: nothing lost, nothing twice, no committed turn spoken anew.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

from tests.helpers.forked import forked_workers
from tests.helpers.tiny import CASE, MODEL, tiny_folder
from zj_ray.cluster.connect import QUIET, worker_environment
from zj_ray.config.schema import FleetConfig
from zj_ray.data.case import Prompt
from zj_ray.data.chat import ChatFormat
from zj_ray.data.tokenizer import load_tokenizer
from zj_ray.fleet.control.fleet import Consultations, Fleet
from zj_ray.fleet.dialogue import DialogueSettings
from zj_ray.fleet.states import EngineState
from zj_ray.weights.folder import publish_folder

ENGINES = 4
CONFIG = FleetConfig(
    initial=ENGINES, min=1, max=4, engine_cpus=1, kv_cache_mb=64, max_in_flight=16,
    turn_timeout=60, sync_timeout=30, slow_after=4, stall_timeout=12, turn_retries=5,
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
    def during_a_rollout(self, *victims: str) -> Iterator[Future[Consultations]]:
        """In the middle of one: the victims have spoken turns and have others in flight."""
        key = f"disturbed-{time.monotonic()}"
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(self.hold, key)

            def at_work() -> bool:
                return all(self.fleet.roster.router.in_flight[name] > CONFIG.max_in_flight // 4 for name in victims)

            self.until(lambda: at_work() or held.done(), "turns in flight", 60)
            assert not held.done()
            yield held

    def check(self, held: Consultations, what: str) -> None:
        """The same consultations as without the fault."""
        assert held.lost == []
        assert tokens(held) == self.quiet["tokens"]
        assert {turn.weight_version for t in held.trajectories for turn in t.turns} == {self.version}
        undisturbed = self.quiet["seconds"]
        times = held.seconds / undisturbed
        print(f"{what}: {held.seconds:.1f} s, {times:.2f} times the undisturbed {undisturbed:.1f} s")


def tokens(held: Consultations) -> dict[tuple[str, int], list[int]]:
    """Of every consultation, by its prompt and sample."""
    return {(t.prompt_id, t.sample): t.token_ids for t in held.trajectories}


def stop(pid: int) -> psutil.Process:
    """SIGSTOP: the process is alive and its connections are open, but it does nothing."""
    process = psutil.Process(pid)
    process.suspend()
    deadline = time.monotonic() + 10
    while process.status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline, "the process did not stop"
        time.sleep(0.02)
    return process


def hang(engine: Any) -> None:
    """The model takes ten minutes for a step; the actor goes on answering."""
    engine.core.engine.step = lambda: time.sleep(600)


def answer_with_errors(engine: Any) -> None:
    engine.calls = 0

    def generate(request: Any) -> Any:
        engine.calls += 1
        raise RuntimeError("broken for this test")

    engine.core.generate = generate


def die_while_loading(engine: Any) -> None:
    engine.core.load = lambda *_: os._exit(1)


@contextmanager
def scene_of_nodes(folder: Path) -> Iterator[Scene]:
    """Two nodes with two engines each, and what an undisturbed rollout brought."""
    os.environ.update({key: os.environ.get(key, value) for key, value in QUIET.items()})
    head = {"num_cpus": 0, "object_store_memory": 200 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=2, object_store_memory=200 << 20) for _ in range(2)]
    environment = {"env_vars": worker_environment()}
    with forked_workers():
        ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False, runtime_env=environment)
    wanted = [CONFIG.initial]
    fleet = Fleet(str(tiny_folder(folder)), MODEL, CONFIG, start_timeout=UP, wish=lambda: wanted[0])
    try:
        fleet.launch()
        fleet.wait_ready()
        fleet.supervise()
        scene = Scene(cluster, fleet, ChatFormat(load_tokenizer(folder)), folder, nodes, wanted)
        scene.publish()
        held = scene.hold("quiet")
        scene.quiet = {"seconds": held.seconds, "tokens": tokens(held)}
        yield scene
    finally:
        fleet.close()
        ray.shutdown()
        cluster.shutdown()
