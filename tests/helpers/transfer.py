"""The roles of PPO and the engines to which the policy's weights go, and what tests do to both."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch

from tests.helpers.tiny import MODEL
from zj_ray.config.schema import (
    FleetConfig,
    FrozenRoleConfig,
    LearnerRoleConfig,
    ModelConfig,
    PolicyRoleConfig,
    PPOConfig,
)
from zj_ray.data.chat import ChatFormat
from zj_ray.data.tokenizer import load_tokenizer
from zj_ray.fleet.control.fleet import Fleet
from zj_ray.fleet.turns import TurnRequest
from zj_ray.roles.roles import Models, Roles
from zj_ray.weights.bucket import PublishedWeights

FLEET = FleetConfig(
    initial=2, engine_cpus=0.1, kv_cache_mb=64, max_in_flight=16, turn_timeout=60, sync_timeout=20, transport="gloo"
)
CONFIG = replace(
    PPOConfig(),
    epochs=1,
    learning_rate=1e-2,
    critic_warmup=0,
    micro_batch_tokens=128,
    policy=PolicyRoleConfig(ranks=2, cpus=0.1, zero_stage=3),
    critic=LearnerRoleConfig(cpus=0.1),
    reward=FrozenRoleConfig(cpus=0.1),
    reference=FrozenRoleConfig(cpus=0.1),
)


@contextmanager
def started(
    models: Path, ppo: PPOConfig = CONFIG, config: FleetConfig = FLEET, model: ModelConfig = MODEL
) -> Iterator[tuple[Roles, Fleet]]:
    """models: a folder as the fixture `tiny_models` makes it."""
    roles = Roles(ppo, model, seed=0, temperature=1.0, start_timeout=120, fleet=config)
    fleet = Fleet(str(models / "lm"), model, config, start_timeout=400, place=roles.places.of_engines)
    try:
        fleet.launch()
        if roles.places.of_engines:
            fleet.wait_ready()
        roles.start(Models(reference=models / "lm", reward=models / "reward"))
        fleet.wait_ready()
        yield roles, fleet
    finally:
        fleet.close()
        roles.close()


def greedy(fleet: Fleet, models: Path, key: str) -> list[list[list[int]]]:
    """What each engine says to the same questions."""
    chat = ChatFormat(load_tokenizer(models / "lm"))
    requests = [
        TurnRequest(f"{key}/{i}", chat.open(text), 16, 0.0, 0, chat.stop_id)
        for i, text in enumerate(("头痛。", "发热怎么办？", "咳嗽。"))
    ]
    answers = [[actor.generate.remote(request) for request in requests] for actor in fleet.actors.values()]
    return [[output.token_ids for output in ray.get(mine, timeout=60)] for mine in answers]


def shake_weights(roles: Roles, seed: int) -> None:
    """Other weights, the same on every rank."""

    def shake(rank: Any) -> None:
        from deepspeed import zero

        torch.manual_seed(seed)
        for parameter in rank.engine.module.parameters():
            with zero.GatheredParameters([parameter], modifier_rank=0):
                parameter.data += 0.1 * torch.randn_like(parameter)

    ray.get([actor.__ray_call__.remote(shake) for actor in roles.policy.actors], timeout=60)


def asleep(engine: Any) -> bool:
    return bool(engine.core.engine.is_sleeping())


def by_object_store(roles: Roles, version: int) -> PublishedWeights:
    """The policy's weights as packed buckets, whatever `fleet.transport` says."""
    return roles.policy.wait(roles.policy.call("weights", version, False), what="pack")[0]


def save(roles: Roles, folder: Path) -> None:
    """The learners' state, on the disk."""
    roles.save(folder)
    deadline = time.monotonic() + 60
    while not roles.are_saved():
        assert time.monotonic() < deadline
        time.sleep(0.01)
