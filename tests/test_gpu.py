"""What needs a CUDA device: NCCL and CUDA IPC into the engines, and the memory that sleeping engines give back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch

from tests.test_transports import CONFIG, FLEET, _by_object_store, _greedy, _shake
from tests.tiny import MODEL, tiny_folder
from zj_ray.config.schema import FleetConfig, PolicyRoleConfig, PPOConfig
from zj_ray.fleet.fleet import Fleet
from zj_ray.fleet.states import EngineState
from zj_ray.roles.roles import Models, Roles
from zj_ray.training.model import new_heads

GPU_MODEL = replace(MODEL, dtype="bfloat16")
# On one GPU: the policy's rank beside the engine, each with a part.
SHARED = replace(FLEET, engines=1, engine_gpus=0.4, gpu_memory_utilization=0.3, transport="ipc", sleep=True)
BESIDE = replace(CONFIG, policy=PolicyRoleConfig(ranks=1, cpus=0.1, gpus=0.4, zero_stage=2), colocate=(("policy", "engines"),))
# On two: one for each.
APART = replace(FLEET, engines=1, engine_gpus=1, gpu_memory_utilization=0.3, transport="nccl")
ALONE = replace(CONFIG, policy=PolicyRoleConfig(ranks=1, cpus=0.1, gpus=1, zero_stage=3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gpu")
    new_heads(tiny_folder(root / "lm"), 4, MODEL, seed=1).save(root / "reward")
    return root


@contextmanager
def started(folder: Path, ppo: PPOConfig, config: FleetConfig) -> Iterator[tuple[Roles, Fleet]]:
    roles = Roles(ppo, GPU_MODEL, seed=0, start_timeout=120, fleet=config)
    fleet = Fleet(str(folder / "lm"), GPU_MODEL, config, start_timeout=400, place=roles.places.of_engines)
    try:
        fleet.launch()
        roles.start(Models(reference=folder / "lm", reward=folder / "reward"))
        fleet.wait_ready()
        yield roles, fleet
    finally:
        fleet.close()
        roles.close()


def _check_transfer(roles: Roles, fleet: Fleet, folder: Path) -> None:
    """What is sent is what the object store brings, over a new group and over the one that is there."""
    fleet.publish(_by_object_store(roles, 1))
    answers = [_greedy(fleet, folder, "before")]
    for version in (2, 4):
        _shake(roles, seed=version)
        report = fleet.publish(roles.weights(version))
        assert report.confirmed == ("engine-0",) and report.checksum_failures == 0
        assert fleet.published[-1].senders  # no packed copy had to repair a broken transfer
        answers.append(_greedy(fleet, folder, f"sent {version}"))
        fleet.publish(_by_object_store(roles, version + 1))
        assert _greedy(fleet, folder, f"packed {version}") == answers[-1]
    assert answers[0] != answers[1] != answers[2]


@pytest.mark.gpu
def test_nccl_brings_what_the_object_store_brings(ray_session: None, folder: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("NCCL needs a GPU for the policy and one for the engine; this machine has one")
    with started(folder, ALONE, APART) as (roles, fleet):
        _check_transfer(roles, fleet, folder)


@pytest.mark.gpu
def test_ipc_brings_what_the_object_store_brings_and_sleepers_give_their_memory_back(ray_session: None, folder: Path) -> None:
    with started(folder, BESIDE, SHARED) as (roles, fleet):
        _check_transfer(roles, fleet, folder)
        answers = _greedy(fleet, folder, "awake")
        for version, transfer in ((51, False), (52, True)):
            awake = _free_memory(fleet)
            fleet.sleep()
            assert fleet.lives["engine-0"].state is EngineState.STALE
            assert _free_memory(fleet) - awake > 0.2 * torch.cuda.get_device_properties(0).total_memory  # of the 0.3 that it may fill
            fleet.publish(roles.weights(version) if transfer else _by_object_store(roles, version))
            assert _greedy(fleet, folder, f"woken for {version}") == answers


def _free_memory(fleet: Fleet) -> int:
    """On the engine's GPU [bytes]."""
    [free] = ray.get([actor.__ray_call__.remote(lambda engine: torch.cuda.mem_get_info()[0]) for actor in fleet.actors.values()], timeout=60)
    return free
