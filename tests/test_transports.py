"""Weights sent straight into the engines through vLLM's weight-transfer API: what arrives is what the object store brings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from safetensors.torch import load_file

from tests.tiny import MODEL, tiny_folder
from zj_ray.config.schema import FleetConfig, LearnerRoleConfig, LoraConfig, PolicyRoleConfig, PPOConfig
from zj_ray.data.chat import ChatFormat
from zj_ray.data.tokenizer import load_tokenizer
from zj_ray.fleet.engine import TurnRequest
from zj_ray.fleet.fleet import Fleet
from zj_ray.fleet.states import EngineState
from zj_ray.roles.roles import Models, Roles
from zj_ray.training.model import new_heads
from zj_ray.weights.bucket import Fingerprint

FLEET = FleetConfig(engines=2, engine_cpus=0.1, kv_cache_mb=64, max_in_flight=16, turn_timeout=60, sync_timeout=20, transport="gloo")
CONFIG = replace(
    PPOConfig(), advantage="reinforce_pp", policy=PolicyRoleConfig(ranks=2, cpus=0.1, zero_stage=3), critic=LearnerRoleConfig(cpus=0.1)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("transports")
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


def _greedy(fleet: Fleet, folder: Path, key: str) -> list[list[list[int]]]:
    """What each engine says to the same questions."""
    chat = ChatFormat(load_tokenizer(folder / "lm"))
    requests = [TurnRequest(f"{key}/{i}", chat.open(text), 16, 0.0, 0, chat.stop_id) for i, text in enumerate(("头痛。", "发热怎么办？", "咳嗽。"))]
    answers = [[actor.generate.remote(request) for request in requests] for actor in fleet.actors.values()]
    return [[output.token_ids for output in ray.get(mine, timeout=60)] for mine in answers]


def _shake(roles: Roles, seed: int) -> None:
    """Other weights, the same on every rank."""

    def shake(rank: Any) -> None:
        from deepspeed import zero

        torch.manual_seed(seed)
        for parameter in rank.engine.module.parameters():
            with zero.GatheredParameters([parameter], modifier_rank=0):
                parameter.data += 0.1 * torch.randn_like(parameter)

    ray.get([actor.__ray_call__.remote(shake) for actor in roles.policy.actors], timeout=60)


def _asleep(engine: Any) -> bool:
    return bool(engine.core.engine.is_sleeping())


def _by_object_store(roles: Roles, version: int) -> Any:
    return roles.policy.wait(roles.policy.call("weights", version, False), what="pack")[0]


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


def test_what_the_policy_sends_is_what_the_object_store_brings(fleet: Fleet, roles: Roles, folder: Path) -> None:
    fleet.publish(_by_object_store(roles, 1))
    before = _greedy(fleet, folder, "before")
    _shake(roles, seed=1)
    report = fleet.publish(roles.weights(2))
    assert len(report.confirmed) == 2 and report.checksum_failures == 0
    assert fleet.published[-1].senders  # no packed copy had to repair a broken transfer
    assert report.bytes == sum(tensor.nbytes for tensor in load_file(folder / "lm" / "model.safetensors").values())
    sent = _greedy(fleet, folder, "sent")
    assert {life.version for life in fleet.lives.values()} == {2}
    fleet.publish(_by_object_store(roles, 3))
    assert _greedy(fleet, folder, "packed") == sent != before and sent[0] == sent[1]
    _shake(roles, seed=2)
    fleet.publish(roles.weights(4))  # over the group that is there already
    again = _greedy(fleet, folder, "again")
    fleet.publish(_by_object_store(roles, 5))
    assert _greedy(fleet, folder, "packed again") == again != sent


def test_engines_that_sleep_get_no_work_until_weights_come(fleet: Fleet, roles: Roles, folder: Path) -> None:
    """On a CPU vLLM frees nothing, but it stops and goes on all the same; test_gpu.py sees the memory fall."""
    fleet.publish(_by_object_store(roles, 51))
    awake = _greedy(fleet, folder, "awake")
    for version, weights in ((52, _by_object_store(roles, 52)), (53, roles.weights(53))):
        fleet.sleep()
        assert all(life.state is EngineState.STALE for life in fleet.lives.values())
        assert all(ray.get([actor.__ray_call__.remote(_asleep) for actor in fleet.actors.values()], timeout=30))
        fleet.publish(weights)
        assert _greedy(fleet, folder, f"woken for {version}") == awake
    fleet.sleep()
    fleet.lives["engine-0"].failed("for all that it knows", tolerated=0)
    fleet.sleep()
    fleet.publish(weights)  # the version that it went to sleep with: not taken for what is here
    assert _greedy(fleet, folder, "woken for the same") == awake
    assert not any(ray.get([actor.__ray_call__.remote(_asleep) for actor in fleet.actors.values()], timeout=30))


@pytest.mark.chaos
def test_a_dead_engine_is_left_out_and_its_successor_joins_the_next_transfer(fleet: Fleet, roles: Roles, folder: Path) -> None:
    ray.kill(fleet.actors["engine-0"], no_restart=True)
    _shake(roles, seed=3)
    assert fleet.publish(roles.weights(60)).confirmed == ("engine-1",)
    assert fleet.lives["engine-0"].state is EngineState.DEAD  # the witness that the fault took place
    [alone] = _greedy(fleet, folder, "alone")
    assert fleet.heal() == ["engine-0"] and fleet.lives["engine-0"].state is EngineState.SERVING  # a packed copy brought it up to date
    assert _greedy(fleet, folder, "healed") == [alone, alone]
    assert fleet.publish(roles.weights(70)).confirmed == ("engine-0", "engine-1")
    assert _greedy(fleet, folder, "together") == [alone, alone]


def test_an_engine_that_got_something_else_leaves(fleet: Fleet, roles: Roles) -> None:
    def damage(engine: Any) -> None:
        from zj_ray.weights.gloo import Wire

        honest = Wire.broadcast

        def flip(wire: Wire, tensor: torch.Tensor) -> None:
            honest(wire, tensor)
            tensor.view(torch.int32).flatten()[0] ^= 1

        Wire.broadcast = flip  # type: ignore[method-assign]

    ray.get(fleet.actors["engine-1"].__ray_call__.remote(damage), timeout=30)
    report = fleet.publish(roles.weights(80))
    assert report.confirmed == ("engine-0",) and report.checksum_failures == 1
    assert "arrived damaged" in fleet.lives["engine-1"].last_error
    fleet.heal()


def test_merged_adapters_are_sent_like_whole_weights_and_under_zero_2_too(fleet: Fleet, folder: Path) -> None:
    policy = PolicyRoleConfig(ranks=2, cpus=0.1, zero_stage=2, lora=LoraConfig(rank=4))
    roles = Roles(replace(CONFIG, policy=policy), MODEL, seed=0, start_timeout=60, fleet=FLEET)
    try:
        roles.start(Models(reference=folder / "lm", reward=folder / "reward"))
        fleet.publish(roles.weights(90))
        before = _greedy(fleet, folder, "before the shake")
        _shake(roles, seed=4)
        fleet.publish(roles.weights(91))
        sent = _greedy(fleet, folder, "sent by ZeRO-2")
        assert {life.version for life in fleet.lives.values()} == {91} and fleet.published[-1].senders
        fleet.publish(_by_object_store(roles, 92))
        assert _greedy(fleet, folder, "packed by ZeRO-2") == sent != before
    finally:
        roles.close()
