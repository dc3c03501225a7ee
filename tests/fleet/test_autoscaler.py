"""The fleet follows its queue, and Ray's own autoscaler follows the fleet: nodes come for engines and go with them.

The closest to a cloud that works on one machine: a real Ray head with autoscaler v2, whose node provider starts and
ends real Ray nodes (raylets) here instead of renting machines.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from tests.helpers.rayhead import end, free_port, wait_for_port
from tests.helpers.tiny import MODEL, tiny_folder
from zj_ray.cluster.connect import connect
from zj_ray.config.schema import FleetConfig, RayConfig
from zj_ray.data.chat import ChatFormat
from zj_ray.data.tokenizer import load_tokenizer
from zj_ray.fleet.control.fleet import Fleet
from zj_ray.fleet.turns import SpokenTurn, TurnRequest
from zj_ray.weights.folder import publish_folder

pytestmark = pytest.mark.slow

HEAD = "f" * 51 + "00000"
CONFIG = FleetConfig(
    initial=1,
    min=1,
    max=3,
    autoscale=True,
    idle_seconds=15,
    engine_cpus=1,
    kv_cache_mb=64,
    max_in_flight=8,
    turn_timeout=60,
    stall_timeout=30,
)
LIMIT = 240.0
ANSWERING = 600.0  # for all requests, on a loaded machine


@pytest.fixture(scope="module")
def autoscaling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a head without CPUs, to which nodes of one CPU are added as they are needed."""
    folder, logs = Path("/tmp") / f"zja{os.getpid()}", tmp_path_factory.mktemp("head")
    folder.mkdir()  # short: the path of a socket may have 107 characters
    gcs, client, agent = (free_port() for _ in range(3))
    address = f"{ray.util.get_node_ip_address()}:{gcs}"
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": address,
        "launch_multiple": True,
        "head_node_id": HEAD,
    }
    node_types = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"CPU": 1, "object_store_memory": 100 << 20},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 4,
        },
    }
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    settings = {
        "cluster_name": "zj",
        "max_workers": 4,
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 100,
        "provider": provider,
        "available_node_types": node_types,
        "head_node_type": "ray.head.default",
        "file_mounts_sync_continuously": False,
        **dict.fromkeys(("auth", "docker", "file_mounts"), {}),
        **dict.fromkeys(("cluster_synced_files", "rsync_exclude", "rsync_filter"), []),
        **{f"{name}_commands": [] for name in commands},
    }
    (logs / "autoscaler.json").write_text(json.dumps(settings))
    environment = {
        **os.environ,
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
    }
    arguments = "start --head --block --disable-usage-stats --num-cpus 0 --object-store-memory 100000000"
    arguments += f" --port {gcs} --include-dashboard false --ray-client-server-port {client}"
    arguments += f" --dashboard-agent-listen-port {agent} --temp-dir {folder}"
    command = [
        Path(sys.executable).parent / "ray",
        *arguments.split(),
        f"--autoscaling-config={logs / 'autoscaler.json'}",
    ]
    with (logs / "ray.log").open("w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_for_port(gcs, process, logs / "ray.log")
        yield address
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _workers() -> int:
    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())


@pytest.mark.timeout(3 * LIMIT + ANSWERING)
def test_nodes_come_for_a_queue_and_go_when_it_is_gone(autoscaling: str, tmp_path: Path) -> None:
    with connect(RayConfig(address=autoscaling), log_folder=tmp_path):
        _follow_a_queue(tmp_path)


def _follow_a_queue(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "lm")
    fleet = Fleet(str(folder), MODEL, CONFIG, start_timeout=LIMIT)
    history: list[tuple[float, int, int]] = []
    started = time.monotonic()

    def watch(condition: Any, what: str) -> None:
        deadline = time.monotonic() + LIMIT
        while not condition():
            history.append((round(time.monotonic() - started, 1), _workers(), len(fleet.lives)))
            assert time.monotonic() < deadline, f"waited {LIMIT:.0f} s for {what}: {history[-1]}, {fleet.table()}"
            time.sleep(0.5)

    try:
        assert _workers() == 0
        fleet.launch()
        fleet.wait_ready()
        fleet.supervise()
        fleet.publish(publish_folder(folder, 1))
        assert _workers() == 1  # came for the first engine
        chat = ChatFormat(load_tokenizer(folder))
        requests = [
            TurnRequest(f"r{i}", chat.open("头痛。"), max_tokens=200, temperature=1.0, seed=i, stop_id=chat.stop_id)
            for i in range(2500)
        ]
        answered: list[SpokenTurn] = []
        work = threading.Thread(
            target=lambda: answered.extend(fleet.generate(requests, timeout=ANSWERING)),
            daemon=True,
        )
        work.start()
        watch(lambda: sum(row["state"] == "serving" for row in fleet.table()) == 3, "three engines to serve")
        assert _workers() == 3
        work.join(ANSWERING)
        assert len(answered) == len(requests)  # none lost
        watch(lambda: len(fleet.lives) == 1 and _workers() == 1, "two nodes to go")
    finally:
        fleet.close()
        changes = [
            row for before, row in zip([(0.0, -1, -1), *history], history, strict=False) if row[1:] != before[1:]
        ]
        print("seconds, nodes, engines:", changes)
