"""Roles, engines and weight sync with the real parts: DeepSpeed ranks and vLLM engines as Ray actors."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from tests.helpers.fleet import heal
from tests.helpers.tiny import CASE, MODEL
from tests.helpers.transfer import FLEET, by_object_store, save
from zj_ray.config.schema import LoraConfig, PPOConfig
from zj_ray.data.case import Prompt
from zj_ray.data.chat import ChatFormat
from zj_ray.data.tokenizer import load_tokenizer
from zj_ray.errors import ZjError
from zj_ray.fleet.control.fleet import Fleet
from zj_ray.fleet.dialogue import DialogueSettings
from zj_ray.fleet.states import EngineState
from zj_ray.fleet.turns import TurnRequest
from zj_ray.ppo.advantages import estimate_advantages
from zj_ray.rewards.mix import ScoredTurns
from zj_ray.roles.batch import RolloutBatch
from zj_ray.roles.roles import Models, Roles
from zj_ray.weights.bucket import PublishedWeights, corrupted
from zj_ray.weights.folder import publish_folder

OWN = replace(FLEET, initial=1, transport="object_store")  # an engine that one test alone needs
PROMPTS = [(Prompt(f"p{i}", "case", CASE.opening, case=CASE), i) for i in range(5)]
SETTINGS = DialogueSettings(max_turns=3, turn_tokens=12, max_length=MODEL.max_length, temperature=1.0)


@pytest.fixture(scope="module")
def chat(tiny_models: Path) -> ChatFormat:
    return ChatFormat(load_tokenizer(tiny_models / "lm"))


def _rollout(fleet: Fleet, chat: ChatFormat, key: str) -> list:
    return fleet.rollout(PROMPTS, key=key, seed=3, chat=chat, settings=SETTINGS, timeout=120).trajectories


def _greedy(fleet: Fleet, chat: ChatFormat, key: str, timeout: float = 120) -> list[list[int]]:
    requests = [
        TurnRequest(f"{key}/{i}", chat.open(text), 16, 0.0, 0, chat.stop_id)
        for i, text in enumerate(("头痛。", "发热怎么办？", "咳嗽。"))
    ]
    return [answer.output.token_ids for answer in fleet.generate(requests, timeout=timeout)]


def _scored_batch(roles: Roles, trajectories: list) -> tuple[RolloutBatch, list[np.ndarray]]:
    batch = RolloutBatch.of(trajectories, trajectories[0].turns[0].weight_version)
    scores = roles.score(batch)
    random = np.random.default_rng(0)
    batch.advantages = [random.normal(size=n).astype(np.float32) for n in batch.generated]
    batch.returns = [random.normal(size=n).astype(np.float32) for n in batch.generated]
    batch.importance = [np.ones(n, dtype=np.float32) for n in batch.generated]
    return batch, scores


def test_trajectories_are_token_exact_and_engines_agree_with_the_trainer(
    fleet: Fleet, roles: Roles, chat: ChatFormat
) -> None:
    fleet.publish(by_object_store(roles, 1))
    trajectories = _rollout(fleet, chat, "exact")
    assert [t.prompt_id for t in trajectories] == [p.id for p, _ in PROMPTS]
    for t in trajectories:
        assert len(t.turns) == 3 and {turn.weight_version for turn in t.turns} == {1}
        assert len(t.token_ids) == len(t.loss_mask) == len(t.behaviour_logprobs)
        marked = [i for turn in t.turns for i in range(turn.start, turn.end)]
        assert np.flatnonzero(t.loss_mask).tolist() == marked
    batch, scores = _scored_batch(roles, trajectories)
    difference = np.concatenate(
        [np.abs(a - b) for a, b in zip(batch.old_logprobs, batch.behaviour_logprobs, strict=True)]
    )
    assert difference.mean() < 1e-4
    # The policy has not moved: it is its own reference, and the first on-policy ratio is one at every token.
    for ours, reference in zip(batch.old_logprobs, batch.reference_logprobs, strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-5)
    assert all(s.shape == (3, 4) for s in scores) and all(
        len(v) == n for v, n in zip(batch.values, batch.generated, strict=True)
    )


def test_the_same_seed_gives_the_same_consultations(fleet: Fleet, roles: Roles, chat: ChatFormat) -> None:
    fleet.publish(by_object_store(roles, 2))
    first, second = _rollout(fleet, chat, "once"), _rollout(fleet, chat, "twice")
    assert [t.token_ids for t in first] == [t.token_ids for t in second]


def test_greedy_tokens_after_a_sync_equal_those_of_an_engine_started_from_the_checkpoint(
    fleet: Fleet, roles: Roles, chat: ChatFormat, tiny_models: Path, tmp_path: Path
) -> None:
    fleet.publish(by_object_store(roles, 3))
    before = _greedy(fleet, chat, "before")
    batch, _ = _scored_batch(roles, _rollout(fleet, chat, "learn"))
    updated = roles.update(batch, [[[0, 1, 2], [3, 4]]], 0.1, learn_policy=True)
    assert (
        updated.policy is not None
        and updated.policy.skipped == 0
        and updated.critic is not None
        and updated.critic.skipped == 0
    )
    report = fleet.publish(by_object_store(roles, 4))
    assert len(report.confirmed) == 2 and report.checksum_failures == 0
    after = _greedy(fleet, chat, "after")
    assert after != before  # else the comparison below would prove nothing
    roles.export_policy(tmp_path)
    load_tokenizer(tiny_models / "lm").save_pretrained(tmp_path)
    fresh = Fleet(str(tmp_path), MODEL, OWN, start_timeout=300)
    try:
        fresh.launch()
        fresh.wait_ready()
        fresh.publish(publish_folder(tmp_path, 1))
        assert _greedy(fresh, chat, "fresh") == after
    finally:
        fresh.close()


def test_adapters_travel_alone_or_merged_and_every_way_gives_the_same_greedy_tokens(
    fleet: Fleet, roles: Roles, chat: ChatFormat, tiny_models: Path, tmp_path: Path
) -> None:
    policy = replace(PPOConfig().policy, lora=LoraConfig(rank=4, alpha=8))
    config = replace(
        PPOConfig(),
        push="adapter",
        reference_model="adapter_off",
        policy=policy,
        learning_rate=3e-2,
        advantage="reinforce_pp",
    )
    learner = Roles(config, MODEL, seed=0, temperature=1.0, start_timeout=60, fleet=OWN)
    adapted = Fleet(str(tiny_models / "lm"), MODEL, OWN, start_timeout=300, lora_rank=4)
    try:
        adapted.launch()
        learner.start(Models(reference=tiny_models / "lm", reward=tiny_models / "reward"))
        assert [group.name for group in learner.groups] == ["policy", "reward"]
        adapted.wait_ready()
        base = publish_folder(tiny_models / "lm", 1)
        adapted.publish(base)
        answers = [_greedy(adapted, chat, "base")]
        assert adapted.publish(learner.weights(2)).bytes < base.manifest.nbytes / 2
        assert _greedy(adapted, chat, "adapters that add nothing yet") == answers[0]
        for version in (3, 4):
            batch, _ = _scored_batch(learner, _rollout(adapted, chat, f"for version {version}"))
            learner.update(batch, [[[0, 1, 2, 3, 4]]], 0.1, learn_policy=True)
            adapted.publish(learner.weights(version))
            answers.append(_greedy(adapted, chat, f"version {version}"))
        assert answers[0] != answers[1] != answers[2] != answers[0]
        _check_reference(learner, roles, batch)

        [engine] = adapted.actors.values()
        ray.kill(engine, no_restart=True)
        with pytest.raises(ZjError):
            _greedy(adapted, chat, "nobody is there", timeout=5)
        assert heal(adapted) == ["engine-0"]  # the newcomer is sent the base and the adapter
        assert _greedy(adapted, chat, "newcomer") == answers[2]
        merged = learner.policy.wait(learner.policy.call("weights", 5, False), what="merge")[0]
        adapted.publish(merged)
        assert _greedy(adapted, chat, "merged") == answers[2]
        learner.export_policy(tmp_path)
    finally:
        adapted.close()
        learner.close()
    fleet.publish(publish_folder(tmp_path, 30))
    assert _greedy(fleet, chat, "exported") == answers[2]


def _check_reference(learner: Roles, separate: Roles, batch: RolloutBatch) -> None:
    """With its adapters off the policy is what a reference of its own is, and that is not what it has become."""
    same = replace(batch)
    learner.score(batch)
    separate.score(same)
    for ours, own, now in zip(batch.reference_logprobs, same.reference_logprobs, batch.old_logprobs, strict=True):
        np.testing.assert_allclose(ours, own, atol=1e-5)
        assert np.abs(ours - now).max() > 1e-3


def test_weights_that_come_in_mid_rollout_wait_for_the_turns_in_flight_and_no_turn_mixes_two_policies(
    fleet: Fleet, roles: Roles, chat: ChatFormat, tmp_path: Path
) -> None:
    fleet.publish(by_object_store(roles, 20))
    save(roles, tmp_path)
    batch, _ = _scored_batch(roles, _rollout(fleet, chat, "before"))
    roles.update(batch, [[[0, 1, 2], [3, 4]]], 0.1, learn_policy=True)
    newer = by_object_store(roles, 21)
    settings = replace(SETTINGS, turn_tokens=40)
    prompts = [(prompt, sample) for prompt, _ in PROMPTS for sample in range(6)]
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(fleet.rollout, prompts, key="overlap", seed=3, chat=chat, settings=settings, timeout=120)
        while not held.done() and sum(fleet.roster.router.in_flight.values()) < 10:
            time.sleep(0.01)
        fleet.publish(newer)
        trajectories = held.result(120).trajectories
    mixed = [t for t in trajectories if {turn.weight_version for turn in t.turns} == {20, 21}]
    assert (
        len(trajectories) == len(prompts) and len(mixed) > 5
    )  # the witness that the publication came between two turns
    batch = RolloutBatch.of(mixed, 21)
    roles.score(batch)
    by_version = {21: batch.old_logprobs}
    roles.load(tmp_path)
    roles.score(batch)
    by_version[20] = batch.old_logprobs
    stale = np.concatenate(batch.staleness)
    engine, new, old = map(np.concatenate, (batch.behaviour_logprobs, by_version[21], by_version[20]))
    assert set(stale.tolist()) == {0, 1} and np.abs(new - old).mean() > 0.01
    assert np.abs(engine - new)[stale == 0].max() < 1e-3 and np.abs(engine - old)[stale == 1].max() < 1e-3


def test_damaged_weights_are_refused_and_the_engine_leaves(fleet: Fleet, roles: Roles) -> None:
    good = by_object_store(roles, 5)
    buckets = [np.array(ray.get(ref, timeout=30)) for ref in good.buckets]
    buckets[0][1000] ^= 1
    assert corrupted(good.manifest, buckets) == [0]
    receipt = ray.get(
        next(iter(fleet.actors.values())).apply.remote(
            PublishedWeights(good.manifest, tuple(ray.put(b) for b in buckets))
        ),
        timeout=60,
    )
    assert receipt.corrupted_buckets == 1 and receipt.version != 5


@pytest.mark.chaos
@pytest.mark.slow
def test_a_killed_engine_loses_no_consultation_and_is_replaced(fleet: Fleet, roles: Roles, chat: ChatFormat) -> None:
    fleet.publish(by_object_store(roles, 6))
    victim = fleet.actors["engine-0"]
    pid = ray.get(victim.wait_ready.remote(), timeout=60)
    ray.kill(victim, no_restart=True)
    trajectories = _rollout(fleet, chat, "chaos")
    assert len(trajectories) == len(PROMPTS)
    assert fleet.lives["engine-0"].state is EngineState.DEAD  # the witness that the fault took place
    assert heal(fleet) == ["engine-0"]
    life = fleet.lives["engine-0"]
    assert life.state is EngineState.SERVING and life.version == 6 and life.restarts == 1
    assert ray.get(fleet.actors["engine-0"].wait_ready.remote(), timeout=60) != pid


def test_a_saved_policy_is_restored_bit_for_bit(roles: Roles, fleet: Fleet, chat: ChatFormat, tmp_path: Path) -> None:
    def bits() -> bytes:
        return b"".join(bytes(ray.get(ref, timeout=30)) for ref in by_object_store(roles, 7).buckets)

    fleet.publish(by_object_store(roles, 7))
    save(roles, tmp_path)
    saved = bits()
    batch, _ = _scored_batch(roles, _rollout(fleet, chat, "drift"))
    roles.update(batch, [[[0, 1, 2, 3, 4]]], 0.1, learn_policy=True)
    assert bits() != saved
    roles.load(tmp_path)
    assert bits() == saved


@pytest.mark.slow
def test_without_a_critic_three_roles_learn_from_siblings_with_kl_and_entropy_in_the_loss(
    fleet: Fleet, tiny_models: Path, chat: ChatFormat
) -> None:
    config = replace(
        PPOConfig(),
        advantage="rloo",
        samples=3,
        kl_in="loss",
        kl_estimator="k3",
        entropy_coefficient=0.01,
        dual_clip=3.0,
        learning_rate=1e-2,
    )
    roles = Roles(config, MODEL, seed=0, temperature=1.0, start_timeout=60, fleet=OWN)
    try:
        roles.start(Models(reference=tiny_models / "lm", reward=tiny_models / "reward"))
        assert [group.name for group in roles.groups] == ["policy", "reference", "reward"]
        fleet.publish(by_object_store(roles, 8))
        siblings = [(PROMPTS[0][0], k) for k in range(3)]
        trajectories = fleet.rollout(
            siblings, key="rloo", seed=3, chat=chat, settings=SETTINGS, timeout=120
        ).trajectories
        assert (
            len({t.messages[0].content for t in trajectories}) == 1
            and len({tuple(t.token_ids) for t in trajectories}) == 3
        )
        batch = RolloutBatch.of(trajectories, trajectories[0].turns[0].weight_version)
        roles.score(batch)
        assert batch.values == []
        estimate_advantages(batch, [ScoredTurns(rewards=[0.0, 0.0, float(k)]) for k in range(3)], 0.1, config)
        assert [a[0] for a in batch.advantages] == pytest.approx([-1.5, 0.0, 1.5], abs=1e-4)
        before = roles.weights(9).manifest.checksums
        updated = roles.update(batch, [[[0, 1, 2]]], 0.1, learn_policy=True)
        assert updated.critic is None and updated.policy is not None and updated.policy.skipped == 0
        # On the first on-policy step every ratio is one and the KL to itself zero: −Σ A·tokens − c·entropy is left.
        surrogate = sum(float(a.sum()) for a in batch.advantages) / sum(batch.generated)
        assert updated.policy.loss == pytest.approx(-surrogate - 0.01 * updated.policy.entropy, abs=1e-4)
        assert roles.weights(10).manifest.checksums != before
        fleet.publish(by_object_store(roles, 11))
    finally:
        roles.close()
