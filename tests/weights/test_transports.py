"""Weights sent straight into the engines by vLLM's weight transfer: what arrives is what the object store brings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from safetensors.torch import load_file

from tests.helpers.fleet import heal
from tests.helpers.tiny import MODEL
from tests.helpers.transfer import CONFIG, FLEET, asleep, by_object_store, greedy, shake_weights
from zj_ray.config.schema import LoraConfig, PolicyRoleConfig
from zj_ray.fleet.control.fleet import Fleet
from zj_ray.fleet.states import EngineState
from zj_ray.roles.roles import Models, Roles
from zj_ray.weights.bucket import Fingerprint


def test_a_fingerprint_sees_a_flipped_bit_a_missing_tensor_and_another_name() -> None:
    def of(**tensors: torch.Tensor) -> str:
        fingerprint = Fingerprint()
        for name, tensor in tensors.items():
            fingerprint.add(name, tensor)
        return fingerprint.hex()

    a, b = torch.randn(4, 3), torch.randn(5).bfloat16()
    flipped = a.clone()
    flipped.view(torch.int32)[2, 1] ^= 1
    assert of(a=a, b=b) == of(b=b, a=a)
    assert len({of(a=a, b=b), of(a=flipped, b=b), of(a=a), of(a=a, c=b)}) == 4


def test_what_the_policy_sends_is_what_the_object_store_brings(fleet: Fleet, roles: Roles, tiny_models: Path) -> None:
    fleet.publish(by_object_store(roles, 1))
    before = greedy(fleet, tiny_models, "before")
    shake_weights(roles, seed=1)
    report = fleet.publish(roles.weights(2))
    assert len(report.confirmed) == 2 and report.checksum_failures == 0
    assert fleet.publisher.published[-1].senders  # no packed copy had to repair a broken transfer
    assert report.bytes == sum(tensor.nbytes for tensor in load_file(tiny_models / "lm" / "model.safetensors").values())
    sent = greedy(fleet, tiny_models, "sent")
    assert {life.version for life in fleet.lives.values()} == {2}
    fleet.publish(by_object_store(roles, 3))
    assert greedy(fleet, tiny_models, "packed") == sent != before and sent[0] == sent[1]
    shake_weights(roles, seed=2)
    fleet.publish(roles.weights(4))  # over the group that is there already
    again = greedy(fleet, tiny_models, "again")
    fleet.publish(by_object_store(roles, 5))
    assert greedy(fleet, tiny_models, "packed again") == again != sent


def test_engines_that_sleep_get_no_work_until_weights_come(fleet: Fleet, roles: Roles, tiny_models: Path) -> None:
    """On a CPU vLLM frees nothing, but it stops and goes on all the same; weights/test_gpu.py sees the memory fall."""
    fleet.publish(by_object_store(roles, 51))
    awake = greedy(fleet, tiny_models, "awake")
    for version, weights in ((52, by_object_store(roles, 52)), (53, roles.weights(53))):
        fleet.sleep()
        assert all(life.state is EngineState.STALE for life in fleet.lives.values())
        assert all(ray.get([actor.__ray_call__.remote(asleep) for actor in fleet.actors.values()], timeout=30))
        fleet.publish(weights)
        assert greedy(fleet, tiny_models, f"woken for {version}") == awake
    fleet.sleep()
    fleet.lives["engine-0"].failed("for all that it knows", tolerated=0)
    fleet.sleep()
    fleet.publish(weights)  # the version that it went to sleep with: not taken for what is here
    assert greedy(fleet, tiny_models, "woken for the same") == awake
    assert not any(ray.get([actor.__ray_call__.remote(asleep) for actor in fleet.actors.values()], timeout=30))


@pytest.mark.chaos
def test_a_dead_engine_is_left_out_and_its_successor_joins_the_next_transfer(
    fleet: Fleet, roles: Roles, tiny_models: Path
) -> None:
    ray.kill(fleet.actors["engine-0"], no_restart=True)
    shake_weights(roles, seed=3)
    assert fleet.publish(roles.weights(60)).confirmed == ("engine-1",)
    assert fleet.lives["engine-0"].state is EngineState.DEAD  # the witness that the fault took place
    [alone] = greedy(fleet, tiny_models, "alone")
    assert (
        heal(fleet) == ["engine-0"] and fleet.lives["engine-0"].state is EngineState.SERVING
    )  # a packed copy brought it up to date
    assert greedy(fleet, tiny_models, "healed") == [alone, alone]
    assert fleet.publish(roles.weights(70)).confirmed == ("engine-0", "engine-1")
    assert greedy(fleet, tiny_models, "together") == [alone, alone]


def test_an_engine_that_got_something_else_leaves(fleet: Fleet, roles: Roles) -> None:
    def damage(engine: Any) -> None:
        from zj_ray.weights.direct.gloo import Wire

        honest = Wire.broadcast

        def flip(wire: Wire, tensor: torch.Tensor) -> None:
            honest(wire, tensor)
            tensor.view(torch.int32).flatten()[0] ^= 1

        Wire.broadcast = flip  # type: ignore[method-assign]

    ray.get(fleet.actors["engine-1"].__ray_call__.remote(damage), timeout=30)
    report = fleet.publish(roles.weights(80))
    assert report.confirmed == ("engine-0",) and report.checksum_failures == 1
    assert "arrived damaged" in fleet.lives["engine-1"].last_error
    heal(fleet)


def test_merged_adapters_are_sent_like_whole_weights_and_under_zero_2_too(fleet: Fleet, tiny_models: Path) -> None:
    policy = PolicyRoleConfig(ranks=2, cpus=0.1, zero_stage=2, lora=LoraConfig(rank=4))
    config = replace(CONFIG, policy=policy, advantage="reinforce_pp", reference_model="adapter_off")
    roles = Roles(config, MODEL, seed=0, temperature=1.0, start_timeout=60, fleet=FLEET)
    try:
        roles.start(Models(reference=tiny_models / "lm", reward=tiny_models / "reward"))
        fleet.publish(roles.weights(90))
        before = greedy(fleet, tiny_models, "before the shake")
        shake_weights(roles, seed=4)
        fleet.publish(roles.weights(91))
        sent = greedy(fleet, tiny_models, "sent by ZeRO-2")
        assert {life.version for life in fleet.lives.values()} == {91} and fleet.publisher.published[-1].senders
        fleet.publish(by_object_store(roles, 92))
        assert greedy(fleet, tiny_models, "packed by ZeRO-2") == sent != before
    finally:
        roles.close()
