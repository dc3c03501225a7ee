"""Keys without effect: what nothing reads under a run's other settings. A key that some stage reads is never named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from zj_ray.config.schema import Config, FleetConfig, PPOConfig
from zj_ray.config.sections.ppo import ROLES
from zj_ray.config.sections.setting import leaves

TRAINED = ("pretrain", "sft", "reward")  # the supervised stages
SIMULATION = ("annotators", "noise", "hard_items", "shared_bias")  # keys of feedback on simulated annotators

Unused = tuple[str, str]  # a key, or the section of many, and why nothing reads it


def ineffective(config: Config) -> dict[str, str]:
    """Every key that nothing reads under the other settings → the reason."""
    keys = [leaf.key for leaf in leaves(config)]
    return {key: reason for unused, reason in _unused(config) for key in keys if f"{key}.".startswith(f"{unused}.")}


def _unused(config: Config) -> Iterator[Unused]:
    if config.ray.address is not None:
        reason = "ray.address joins a cluster whose size is already settled"
        yield from _all("ray", ("local_cpus", "object_store_mb"), reason)
    if config.model.base is not None:
        yield "model.tiny", "model.base is set, so no tiny model is made"
    if config.data.source == "files":
        yield "data.clinic", "data.source is files, so the clinic writes nothing"
    elif config.feedback.source != "file":
        yield "data.root", "data.source is clinic"
    yield from _unused_in_feedback(config.feedback.source)
    if config.reward.loss == "plackett_luce":
        yield "reward.margin", "reward.loss is plackett_luce, which has no pairs to ask a margin of"
    if config.reward.ensemble == 1:
        yield "reward.pessimism", "reward.ensemble is 1, so there is no spread to weigh"
    yield from _unused_in_fleet(config.fleet)
    yield from _unused_in_ppo(config.ppo)
    stages = {name: getattr(config, name) for name in TRAINED}
    for name, part in {**stages, **{f"ppo.{role}": getattr(config.ppo, role) for role in ROLES}}.items():
        if part.gpus == 0:
            yield f"{name}.offload", f"{name}.gpus is 0, so everything is in CPU memory anyway"
        if hasattr(part, "lora") and part.lora.rank == 0:
            yield from _all(f"{name}.lora", ("alpha", "targets"), f"{name}.lora.rank is 0: there are no adapters")


def _unused_in_feedback(source: str) -> Iterator[Unused]:
    if source == "file":
        keys = ("prompts", "answers", "temperatures", *SIMULATION)
        yield from _all("feedback", keys, "feedback.source is file: its answers and ranks are read, not made")
    elif source == "human":
        yield from _all("feedback", SIMULATION, "feedback.source is human: no annotator is simulated")
    if source != "human":
        yield "feedback.label.enough", "only feedback.source human waits for doctors"


def _unused_in_fleet(fleet: FleetConfig) -> Iterator[Unused]:
    if fleet.engine_gpus > 0:
        yield from _all("fleet", ("threads", "kv_cache_mb"), "fleet.engine_gpus > 0: the engines run on GPUs")
    else:
        reason = "fleet.engine_gpus is 0: the engines run on CPUs"
        yield from _all("fleet", ("gpu_memory_utilization", "sleep"), reason)
    if not fleet.autoscale:
        yield "fleet.idle_seconds", "fleet.autoscale is off, so no engine is let go because it is idle"


def _unused_in_ppo(ppo: PPOConfig) -> Iterator[Unused]:
    if ppo.kl_controller == "fixed":
        yield from _all("ppo", ("kl_target", "kl_horizon"), "ppo.kl_controller is fixed")
    if ppo.advantage != "gae":
        critics = ("lam", "critic", "critic_learning_rate", "critic_warmup", "value_clip")
        yield from _all("ppo", critics, f"ppo.advantage is {ppo.advantage}, which has no critic")
    if ppo.advantage in ("grpo", "rloo"):
        yield "ppo.gamma", f"ppo.advantage is {ppo.advantage}, which pays for what a consultation earned in all"
    if ppo.safety.method == "constraint":
        reason = "ppo.safety.method is constraint: the cost of an unsafe turn is no part of the reward"
        yield from _all("ppo.mix", ("safety", "unsafe"), reason)
        if ppo.safety.bound != "sft":
            yield "ppo.safety.margin", "ppo.safety.bound is a number, which nobody has to measure"
    else:
        keys = ("bound", "margin", "multiplier", "learning_rate", "gain", "smoothing", "cap")
        yield from _all("ppo.safety", keys, "ppo.safety.method is weight: there is no bound to keep")
        if ppo.safety_share == 0:
            yield "ppo.mix.safety", "ppo.safety_share is 0, so no safety prompt is rolled out"
    if ppo.reference_model == "adapter_off":
        yield "ppo.reference", "ppo.reference_model is adapter_off: the policy is its own reference"
    if ppo.policy.lora.rank == 0:
        yield "ppo.push", "ppo.policy.lora.rank is 0: there are no adapters"


def _all(section: str, keys: Iterable[str], reason: str) -> Iterator[Unused]:
    return ((f"{section}.{key}", reason) for key in keys)
