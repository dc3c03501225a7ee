"""PPO whose engines sleep while the trainers work: when they sleep and when they are awake; nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from transformers import LlamaConfig

from bench.subject import config, ppo_stage, room, settle, speaker
from zj_ray.ppo.loop import PPOLoop

SHAPE = LlamaConfig(vocab_size=600, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=1)


def _asleep(loop: PPOLoop) -> set[bool]:
    states = [
        actor.__ray_call__.remote(lambda engine: bool(engine.core.engine.is_sleeping()))
        for actor in loop.fleet.actors.values()
    ]
    return set(ray.get(states, timeout=60))


def test_engines_sleep_from_the_end_of_a_rollout_to_the_next_publication(tmp_path: Path) -> None:
    """On a CPU, where it frees nothing, the config refuses `fleet.sleep`; loop and engines take the same steps."""
    talk = {"max_turns": 3, "turn_tokens": 12}
    settings = config(SHAPE, 1, 1, max_length=384, talk=talk, consultations=4, steps=2)
    run, tokenizer = room(tmp_path, replace(settings, fleet=replace(settings.fleet, sleep=True, kv_cache_mb=64)))
    settle(run, speaker(SHAPE, tokenizer, stop=0.1), tokenizer)
    seen: list[tuple[str, set[bool]]] = []
    with ppo_stage(run) as loop:

        def watched(what: str, work: Callable[..., Any]) -> Callable[..., Any]:
            def look_and_work(*arguments: Any, **more: Any) -> Any:
                seen.append((what, _asleep(loop)))
                return work(*arguments, **more)

            return look_and_work

        loop.fleet.rollout = watched("rollout", loop.fleet.rollout)
        loop.roles.score = watched("score", loop.roles.score)  # type: ignore[method-assign]
        loop.roles.update = watched("update", loop.roles.update)  # type: ignore[method-assign]
        loop.roles.weights = watched("weights", loop.roles.weights)  # type: ignore[method-assign]
        with loop.rollouts:
            for step in range(2):
                loop.step(step)
        assert _asleep(loop) == {False}
    one_step = [("rollout", {False}), ("score", {True}), ("update", {True}), ("weights", {True})]
    assert seen == 2 * one_step
