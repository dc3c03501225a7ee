"""Where the roles sit changes nothing of what they compute: own ranks and ZeRO stages, colocated or apart."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from tests.helpers.tiny import MODEL, tiny_folder
from tests.helpers.transfer import CONFIG, by_object_store
from zj_ray.config.schema import (
    FleetConfig,
    FrozenRoleConfig,
    LearnerRoleConfig,
    ModelConfig,
    PolicyRoleConfig,
    PPOConfig,
    RoleConfig,
)
from zj_ray.data.trajectory import Trajectory, Turn
from zj_ray.errors import WaitTimeout, ZjError
from zj_ray.fleet.control.fleet import Fleet
from zj_ray.fleet.states import EngineState
from zj_ray.fleet.turns import TurnRequest
from zj_ray.roles.batch import RolloutBatch
from zj_ray.roles.placement import Places, in_turns, plan_places
from zj_ray.roles.roles import Models, Roles

SMALL = 0.1  # CPUs of a rank
# Other ranks, ZeRO stages and places than the shared roles have (tests/helpers/transfer.py), where all are apart.
TOGETHER = replace(
    CONFIG,
    micro_batch_tokens=40,
    colocate=(("policy", "reference"), ("critic", "reward")),
    policy=PolicyRoleConfig(ranks=1, cpus=SMALL, zero_stage=0),
    critic=LearnerRoleConfig(ranks=2, cpus=SMALL, zero_stage=1),
    reward=FrozenRoleConfig(ranks=2, cpus=SMALL, zero_stage=3),
)


def test_roles_that_share_a_place_have_a_bundle_for_each_rank_and_the_others_a_place_of_their_own() -> None:
    roles: dict[str, RoleConfig] = {
        "policy": PolicyRoleConfig(ranks=3, cpus=2, gpus=0.6),
        "reference": FrozenRoleConfig(ranks=2, cpus=1, gpus=0.4),
        "reward": FrozenRoleConfig(ranks=1, cpus=1),
    }
    together, apart = plan_places(roles, [["policy", "reference"]])
    assert together.roles == ("policy", "reference") and apart.roles == ("reward",)
    assert together.bundles == (
        {"CPU": 3, "GPU": 1.0},
        {"CPU": 3, "GPU": 1.0},
        {"CPU": 2, "GPU": 0.6},
    ) and apart.bundles == ({"CPU": 1},)


def test_engines_in_a_role_s_place_are_counted_in_and_sit_beside_its_ranks() -> None:
    fleet = FleetConfig(initial=3, engine_cpus=1, engine_gpus=0.4)
    ppo = replace(PPOConfig(), policy=PolicyRoleConfig(ranks=2, cpus=2, gpus=0.6), colocate=(("policy", "engines"),))
    together, *apart = plan_places(ppo.residents(fleet), ppo.colocate)
    assert together.roles == ("policy", "engines")
    assert together.bundles == ({"CPU": 3, "GPU": 1.0}, {"CPU": 3, "GPU": 1.0}, {"CPU": 1, "GPU": 0.4})
    assert [place.roles for place in apart] == [("critic",), ("reward",), ("reference",)]
    assert "engines" not in replace(ppo, colocate=()).residents(fleet)


def test_roles_that_find_no_room_are_named_with_what_they_want(ray_session: None) -> None:
    places = Places({"policy": PolicyRoleConfig(ranks=2, cpus=64, gpus=1)})
    try:
        with pytest.raises(WaitTimeout, match="no room for policy: 2 × 64 CPU, 1 GPU within 1 s .*free: .* CPU"):
            places.wait(1)
    finally:
        places.close()


def test_the_fleet_starts_its_engines_there_and_without_confirmed_weights_they_get_no_work(
    ray_session: None, tmp_path: Path
) -> None:
    ppo = replace(PPOConfig(), policy=PolicyRoleConfig(ranks=2, cpus=0.1), colocate=(("policy", "engines"),))
    config = FleetConfig(initial=1, engine_cpus=0.1, kv_cache_mb=64)
    places = Places(ppo.residents(config), ppo.colocate)
    fleet = Fleet(str(tiny_folder(tmp_path)), MODEL, config, start_timeout=200, place=places.of_engines)
    try:
        places.wait(60)
        fleet.launch()
        fleet.wait_ready()
        assert {life.state for life in fleet.lives.values()} == {EngineState.STALE}  # no weights were published yet
        assert fleet.roster.router.choose() is None
        with pytest.raises(WaitTimeout, match="0 turns in flight"):
            fleet.generate([TurnRequest("early", [5, 6], 4, 0.0, 0, stop_id=0)], timeout=1)
        sit = [
            actor.__ray_call__.remote(lambda engine: ray.get_runtime_context().get_placement_group_id())
            for actor in fleet.actors.values()
        ]
        assert ray.get(sit, timeout=60) == [places.groups[0].id.hex()]
        assert Places(ppo.roles()).of_engines is None
    finally:
        fleet.close()
        places.close()


@dataclass
class Computed:
    scores: list[np.ndarray]
    batch: RolloutBatch
    losses: tuple[float, float]
    norms: tuple[float, float]
    weights: bytes
    places: dict[str, set[str]]


def _batch() -> RolloutBatch:
    random = np.random.default_rng(0)
    trajectories = []
    for number in range(7):  # which no number of ranks here divides
        t = Trajectory(f"case-{number}", 0, 0)
        for _ in range(2):
            t.append_context(random.integers(5, 300, random.integers(3, 9)).tolist())
            start, end = t.append_generated(random.integers(5, 300, random.integers(2, 12)).tolist(), [])
            t.turns.append(Turn(start, end, "", 1, "engine-0", True))
        t.behaviour_logprobs = [0.0] * len(t.token_ids)
        trajectories.append(t)
    batch = RolloutBatch.of(trajectories, 1)
    batch.advantages = [random.normal(size=n).astype(np.float32) for n in batch.generated]
    batch.returns = [random.normal(size=n).astype(np.float32) for n in batch.generated]
    batch.importance = [random.uniform(0.5, 1.5, n).astype(np.float32) for n in batch.generated]
    return batch


def _compute(roles: Roles) -> Computed:
    """Score a batch, make three optimizer steps, and look where everybody sits."""
    batch = _batch()
    scores = roles.score(batch)
    mini_batches = [[[0, 1, 2, 3], [4, 5, 6]], [[0]]]  # the last has fewer samples than ranks
    updated = roles.update(batch, mini_batches, 0.0, learn_policy=True)
    weights = b"".join(bytes(ray.get(ref, timeout=30)) for ref in by_object_store(roles, 1).buckets)
    groups = {group.name: set(ray.get([_place(actor) for actor in group.actors], timeout=30)) for group in roles.groups}
    assert updated.policy and updated.critic and updated.policy.skipped == updated.critic.skipped == 0
    norms = (updated.policy.grad_norm, updated.critic.grad_norm)
    return Computed(scores, batch, (updated.policy.loss, updated.critic.loss), norms, weights, groups)


def _compute_anew(config: PPOConfig, model: ModelConfig, folder: Path) -> Computed:
    roles = Roles(config, model, seed=0, temperature=1.0, start_timeout=120, fleet=FleetConfig())
    try:
        roles.start(Models(reference=folder / "lm", reward=folder / "reward"))
        return _compute(roles)
    finally:
        roles.close()


def _place(actor: Any) -> Any:
    return actor.__ray_call__.remote(lambda self: ray.get_runtime_context().get_placement_group_id())


@pytest.fixture(scope="module")
def apart(roles: Roles) -> Computed:
    return _compute(roles)


def test_any_layout_scores_and_learns_the_same(apart: Computed, tiny_models: Path) -> None:
    """Other ranks, stages and places; gradient checkpointing too, which recomputes and must not change a number."""
    together = _compute_anew(TOGETHER, replace(MODEL, gradient_checkpointing=True), tiny_models)
    for name in ("old_logprobs", "reference_logprobs", "values"):
        for ours, theirs in zip(getattr(apart.batch, name), getattr(together.batch, name), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for ours, theirs in zip(apart.scores, together.scores, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert together.losses == pytest.approx(apart.losses, abs=1e-5)
    assert together.norms == pytest.approx(apart.norms, rel=1e-4)
    # Adam divides tiny gradients by tiny ones: a hundredth of a step may differ.
    np.testing.assert_allclose(
        np.frombuffer(together.weights, np.float32), np.frombuffer(apart.weights, np.float32), atol=1e-4
    )
    places = together.places
    assert places["policy"] == places["reference"] != places["critic"] == places["reward"]
    assert len(set.union(*apart.places.values())) == 4  # the witness: nobody shared there


@pytest.mark.slow
def test_half_precision_learns_about_the_same(apart: Computed, tiny_models: Path) -> None:
    half = _compute_anew(TOGETHER, replace(MODEL, dtype="bfloat16"), tiny_models)
    difference = np.concatenate(half.batch.old_logprobs) - np.concatenate(apart.batch.old_logprobs)
    assert 0 < np.abs(difference).mean() < 0.05 and half.losses == pytest.approx(apart.losses, abs=0.05)
    assert len(half.weights) == len(apart.weights) / 2


def test_roles_of_one_place_take_turns_and_places_work_side_by_side() -> None:
    places = plan_places({name: FrozenRoleConfig() for name in ("policy", "reward", "critic")}, (("policy", "reward"),))
    both_places = threading.Barrier(2, timeout=20)  # breaks unless somebody of each place is here at once
    shared = threading.Lock()

    def work(name: str) -> Callable[[], str]:
        def do() -> str:
            if name == "critic":
                both_places.wait()
                return name
            assert shared.acquire(blocking=False), "policy and reward share a place"
            if name == "policy":
                both_places.wait()
            time.sleep(0.05)
            shared.release()
            return name

        return do

    found = in_turns(places, {name: [work(name)] for name in ("critic", "policy", "reward")})
    assert found == {"policy": ["policy"], "reward": ["reward"], "critic": ["critic"]}


def test_a_failure_in_one_place_is_raised() -> None:
    def fail() -> None:
        raise ZjError("no", where="role reward", remedy="none")

    with pytest.raises(ZjError, match="no"):
        in_turns(
            plan_places({"policy": FrozenRoleConfig(), "reward": FrozenRoleConfig()}),
            {"policy": [lambda: None], "reward": [fail]},
        )
