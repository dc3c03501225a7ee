"""What needs a CUDA device: NCCL and CUDA IPC into the engines, and the memory that sleeping engines give back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch

from tests.helpers.tiny import MODEL
from tests.helpers.transfer import CONFIG, FLEET, by_object_store, greedy, shake_weights, started
from zj_ray.config.schema import PolicyRoleConfig
from zj_ray.fleet.control.fleet import Fleet
from zj_ray.fleet.states import EngineState
from zj_ray.roles.roles import Roles

GPU_MODEL = replace(MODEL, dtype="bfloat16")
# On one GPU: the policy's rank beside the engine, each with a part.
NO_CRITIC = replace(CONFIG, advantage="reinforce_pp")
SHARED = replace(FLEET, initial=1, engine_gpus=0.4, gpu_memory_utilization=0.3, transport="ipc", sleep=True)
BESIDE = replace(
    NO_CRITIC, policy=PolicyRoleConfig(ranks=1, cpus=0.1, gpus=0.4, zero_stage=2), colocate=(("policy", "engines"),)
)
# On two: one for each.
APART = replace(FLEET, initial=1, engine_gpus=1, gpu_memory_utilization=0.3, transport="nccl")
ALONE = replace(NO_CRITIC, policy=PolicyRoleConfig(ranks=1, cpus=0.1, gpus=1, zero_stage=3))


def _check_transfer(roles: Roles, fleet: Fleet, tiny_models: Path) -> None:
    """What is sent is what the object store brings, over a new group and over the one that is there."""
    fleet.publish(by_object_store(roles, 1))
    answers = [greedy(fleet, tiny_models, "before")]
    for version in (2, 4):
        shake_weights(roles, seed=version)
        report = fleet.publish(roles.weights(version))
        assert report.confirmed == ("engine-0",) and report.checksum_failures == 0
        assert fleet.publisher.published[-1].senders  # no packed copy had to repair a broken transfer
        answers.append(greedy(fleet, tiny_models, f"sent {version}"))
        fleet.publish(by_object_store(roles, version + 1))
        assert greedy(fleet, tiny_models, f"packed {version}") == answers[-1]
    assert answers[0] != answers[1] != answers[2]


@pytest.mark.gpu
def test_nccl_brings_what_the_object_store_brings(ray_session: None, tiny_models: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("NCCL needs a GPU for the policy and one for the engine; this machine has one")
    with started(tiny_models, ALONE, APART, GPU_MODEL) as (roles, fleet):
        _check_transfer(roles, fleet, tiny_models)


@pytest.mark.gpu
def test_ipc_brings_what_the_object_store_brings_and_sleepers_give_their_memory_back(
    ray_session: None, tiny_models: Path
) -> None:
    with started(tiny_models, BESIDE, SHARED, GPU_MODEL) as (roles, fleet):
        _check_transfer(roles, fleet, tiny_models)
        answers = greedy(fleet, tiny_models, "awake")
        for version, transfer in ((51, False), (52, True)):
            awake = _free_memory(fleet)
            fleet.sleep()
            assert fleet.lives["engine-0"].state is EngineState.STALE
            assert (
                _free_memory(fleet) - awake > 0.2 * torch.cuda.get_device_properties(0).total_memory
            )  # of the 0.3 that it may fill
            fleet.publish(roles.weights(version) if transfer else by_object_store(roles, version))
            assert greedy(fleet, tiny_models, f"woken for {version}") == answers


def _free_memory(fleet: Fleet) -> int:
    """On the engine's GPU [bytes]."""
    [free] = ray.get(
        [actor.__ray_call__.remote(lambda engine: torch.cuda.mem_get_info()[0]) for actor in fleet.actors.values()],
        timeout=60,
    )
    return free
