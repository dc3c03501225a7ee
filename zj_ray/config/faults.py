"""Keys that contradict each other: one short function for each part of a run, which yields the faults that it has."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zj_ray.config.schema import (
    ROLES,
    STAGES,
    Config,
    ConsultationConfig,
    FeedbackConfig,
    FleetConfig,
    ModelConfig,
    PPOConfig,
    TrainConfig,
)
from zj_ray.config.unused import TRAINED


@dataclass(frozen=True)
class Fault:
    """keys: those involved, the likeliest culprit first; its line is the one that is named."""

    keys: tuple[str, ...]
    what: str
    remedy: str


def contradictions(config: Config) -> Iterator[Fault]:
    fleet, ppo = config.fleet, config.ppo
    yield from _name_faults(config.name)
    yield from _stage_faults(config.stages)
    if config.data.source == "files" and config.data.root is None:
        remedy = "name the folder that holds train/ and valid/, for example --set data.root=/path/to/data"
        yield Fault(("data.source",), "'data.source' is files but 'data.root' is not set", remedy)
    yield from _model_faults(config.model)
    for name in TRAINED:
        yield from _train_faults(name, getattr(config, name))
    yield from _feedback_faults(config.feedback, config.data.source)
    yield from _fleet_faults(fleet)
    yield from _gpu_faults("fleet.engine_gpus", fleet.engine_gpus)
    yield from _gpu_faults("serve.replica_gpus", config.serve.replica_gpus)
    yield from _transport_faults(fleet, ppo)
    yield from _sharing_faults(fleet, ppo)
    if config.model.deterministic:
        yield from _determinism_faults(fleet, ppo)
    yield from _consultation_faults(config.consultation, config.model.max_length)
    yield from _estimator_faults(ppo)
    yield from _kl_faults(ppo)
    if ppo.safety.multiplier > ppo.safety.cap:
        what = f"'ppo.safety.multiplier' {ppo.safety.multiplier:g} starts above ppo.safety.cap {ppo.safety.cap:g}"
        yield Fault(("ppo.safety.multiplier", "ppo.safety.cap"), what, "set ppo.safety.cap higher")
    for name, role in ppo.roles().items():
        yield from _rank_faults(f"ppo.{name}", role)
    yield from _colocation_faults(fleet, ppo)


def _name_faults(name: str) -> Iterator[Fault]:
    if not re.fullmatch(r"\w[\w.-]*", name):
        what = f"'name' is {name!r}, which can't be a folder below runs/"
        yield Fault(("name",), what, "use letters, digits, '-', '_' and '.'")


def _stage_faults(stages: tuple[str, ...]) -> Iterator[Fault]:
    key, choose = ("stages",), f"choose from {', '.join(STAGES)}"
    if not stages:
        yield Fault(key, "'stages' is empty", choose)
    for stage in stages:
        if stage not in STAGES:
            close = difflib.get_close_matches(stage, STAGES, n=1)
            remedy = f"did you mean {close[0]}?" if close else choose
            yield Fault(key, f"'stages' has the unknown stage {stage!r}", remedy)
        elif stages.count(stage) > 1:
            yield Fault(key, f"'stages' has {stage!r} twice", "name each stage once")
    ordered = [stage for stage in STAGES if stage in stages]
    if list(stages) != ordered:
        remedy = f"write [{', '.join(ordered)}]: each stage needs what the one before made"
        yield Fault(key, "'stages' is out of order", remedy)


def _model_faults(model: ModelConfig) -> Iterator[Fault]:
    tiny, width = model.tiny, 64 * model.tiny.heads
    if model.base is None and tiny.hidden_size != width:
        keys = ("model.tiny.hidden_size", "model.tiny.heads")
        what = f"'model.tiny.hidden_size' is {tiny.hidden_size}, but {tiny.heads} heads of 64 make {width}"
        yield Fault(keys, what, f"set hidden_size to {width}: the CPU attention kernel wants heads of size 64")


def _train_faults(name: str, train: TrainConfig) -> Iterator[Fault]:
    yield from _rank_faults(name, train)
    if train.optimizer == "muon" and train.zero_stage > 0:
        stage = f"{name}.zero_stage"
        what = f"'{name}.optimizer' muon works on whole matrices, but {stage} {train.zero_stage} cuts them into pieces"
        yield Fault((f"{name}.optimizer", stage), what, f"set {stage} to 0, or {name}.optimizer to adamw")


def _rank_faults(name: str, part: Any) -> Iterator[Fault]:
    """Of a stage's or a role's DeepSpeed ranks."""
    if part.gpus > 1:
        what = f"'{name}.gpus' is {part.gpus:g}: a rank drives one GPU"
        yield Fault((f"{name}.gpus",), what, f"raise {name}.ranks instead")
    needed = {"none": 0, "optimizer": 1, "all": 3}[part.offload]
    if part.zero_stage < needed:
        keys = (f"{name}.offload", f"{name}.zero_stage")
        what = f"'{name}.offload' {part.offload} needs ZeRO-{needed}, but {name}.zero_stage is {part.zero_stage}"
        yield Fault(keys, what, f"set {name}.zero_stage to {needed}")


def _feedback_faults(feedback: FeedbackConfig, data_source: str) -> Iterator[Fault]:
    if feedback.source == "file" and data_source != "files":
        what = "'feedback.source' is file, but data.source is clinic, which has no rankings"
        yield Fault(("feedback.source",), what, "set data.source: files")
    number, answers = len(feedback.temperatures), feedback.answers
    if feedback.source != "file" and number != answers:
        what = f"'feedback.temperatures' has {number} entries for {answers} answers (feedback.answers)"
        yield Fault(("feedback.temperatures", "feedback.answers"), what, "give one temperature for each answer")


def _fleet_faults(fleet: FleetConfig) -> Iterator[Fault]:
    cut = fleet.tensor_parallel
    if not fleet.min <= fleet.initial <= fleet.max:
        bounds = f"fleet.min {fleet.min} and fleet.max {fleet.max}"
        what = f"'fleet.initial' is {fleet.initial}, which is not between {bounds}"
        remedy = f"raise fleet.max to {max(fleet.initial, fleet.min)} or more, or lower the others"
        yield Fault(("fleet.initial", "fleet.max", "fleet.min"), what, remedy)
    if fleet.slow_after > fleet.stall_timeout:
        what = (
            f"'fleet.slow_after' {fleet.slow_after:g} s comes after "
            f"fleet.stall_timeout {fleet.stall_timeout:g} s, when an engine is replaced"
        )
        yield Fault(("fleet.slow_after", "fleet.stall_timeout"), what, "set fleet.slow_after lower")
    if fleet.engine_gpus > 0 and cut not in (1, fleet.engine_gpus):
        what = (
            f"'fleet.tensor_parallel' cuts a model over {cut} GPUs, "
            f"but an engine has {fleet.engine_gpus:g} (fleet.engine_gpus)"
        )
        yield Fault(("fleet.tensor_parallel", "fleet.engine_gpus"), what, f"set fleet.engine_gpus to {cut}")
    if fleet.sleep and cut > 1:
        what = "'fleet.sleep' is for engines of one GPU that share it with roles"
        remedy = "set fleet.tensor_parallel to 1, or leave fleet.sleep out"
        yield Fault(("fleet.sleep", "fleet.tensor_parallel"), what, remedy)


def _gpu_faults(key: str, gpus: float) -> Iterator[Fault]:
    if gpus > 1 and gpus != int(gpus):
        what = f"'{key}' is {gpus:g}: Ray gives out parts of one GPU or whole GPUs"
        yield Fault((key,), what, f"set it to {int(gpus)} or {int(gpus) + 1}")


def _transport_faults(fleet: FleetConfig, ppo: PPOConfig) -> Iterator[Fault]:
    key, way, engines, ranks = "fleet.transport", fleet.transport, fleet.initial, ppo.policy.ranks
    if way in ("nccl", "ipc") and fleet.engine_gpus == 0:
        what = f"'{key}' {way} is for GPUs, but the engines have none"
        yield Fault((key, "fleet.engine_gpus"), what, "use object_store or gloo, or set fleet.engine_gpus")
    if way == "gloo" and fleet.engine_gpus > 0:
        what = f"'{key}' gloo is for engines on CPUs"
        yield Fault((key, "fleet.engine_gpus"), what, "use nccl, ipc or object_store")
    if way == "ipc" and not any({"policy", "engines"} <= set(group) for group in ppo.colocate):
        what = f"'{key}' ipc is for engines on the policy's GPUs, but ppo.colocate does not put them there"
        remedy = "add engines to the policy's group in ppo.colocate, or use nccl or object_store"
        yield Fault((key, "ppo.colocate"), what, remedy)
    elif way == "ipc" and engines > ranks:
        what = (
            f"'{key}' ipc needs a policy rank on each engine's GPU, but there are {engines} engines for {ranks} ranks"
        )
        yield Fault((key, "fleet.initial", "ppo.policy.ranks"), what, f"set fleet.initial to at most {ranks}")
    if way != "object_store" and fleet.tensor_parallel > 1:
        what = f"'{key}' {way} sends to engines of one process, but fleet.tensor_parallel is {fleet.tensor_parallel}"
        yield Fault((key, "fleet.tensor_parallel"), what, "use object_store, or engines of one GPU")
    if way != "object_store" and ppo.push == "adapter":
        what = f"'{key}' {way} sends whole weights, but ppo.push is adapter"
        remedy = "use object_store for adapters: they are small; or set ppo.push to merged"
        yield Fault((key, "ppo.push"), what, remedy)


def _sharing_faults(fleet: FleetConfig, ppo: PPOConfig) -> Iterator[Fault]:
    if fleet.sleep and ppo.max_staleness > 0:
        what = (
            "'fleet.sleep' lets engines sleep while the trainers work, "
            "but ppo.max_staleness has them hold consultations meanwhile"
        )
        remedy = "give the engines GPUs of their own, or set ppo.max_staleness to 0"
        yield Fault(("fleet.sleep", "ppo.max_staleness"), what, remedy)
    if fleet.autoscale and any("engines" in group for group in ppo.colocate):
        what = "'fleet.autoscale' adds and removes engines, but ppo.colocate gives them fixed places beside roles"
        remedy = "take the engines out of ppo.colocate, or leave fleet.autoscale out"
        yield Fault(("fleet.autoscale", "ppo.colocate"), what, remedy)


def _determinism_faults(fleet: FleetConfig, ppo: PPOConfig) -> Iterator[Fault]:
    if fleet.max_in_flight > 1:
        what = (
            f"'model.deterministic' is on, but engines decode {fleet.max_in_flight} turns at once "
            "(fleet.max_in_flight): that changes last bits"
        )
        remedy = "set fleet.max_in_flight to 1, and fleet.initial higher for speed"
        yield Fault(("fleet.max_in_flight", "model.deterministic"), what, remedy)
    if ppo.max_staleness > 0:
        what = (
            f"'model.deterministic' is on, but with ppo.max_staleness {ppo.max_staleness} "
            "chance decides which weights speak a turn"
        )
        yield Fault(("ppo.max_staleness", "model.deterministic"), what, "set ppo.max_staleness to 0")


def _consultation_faults(consultation: ConsultationConfig, max_length: int) -> Iterator[Fault]:
    turns, tokens = consultation.max_turns, consultation.turn_tokens
    if turns * tokens >= max_length:
        keys = ("consultation.turn_tokens", "consultation.max_turns", "model.max_length")
        what = (
            f"{turns} turns (consultation.max_turns) of {tokens} tokens (consultation.turn_tokens) "
            f"leave no room for the patient in {max_length}"
        )
        yield Fault(keys, what, "lower consultation.turn_tokens or raise model.max_length")


def _estimator_faults(ppo: PPOConfig) -> Iterator[Fault]:
    consultations, samples, ranks = ppo.consultations, ppo.samples, max(ppo.policy.ranks, ppo.critic.ranks)
    if consultations < ppo.mini_batches * ranks:
        keys = ("ppo.consultations", "ppo.mini_batches", "ppo.policy.ranks", "ppo.critic.ranks")
        what = (
            f"'ppo.consultations' is {consultations}: "
            f"{ppo.mini_batches} mini-batches for {ranks} ranks leave a rank without one"
        )
        remedy = f"set ppo.consultations to at least {ppo.mini_batches * ranks}, or ppo.mini_batches lower"
        yield Fault(keys, what, remedy)
    if consultations % samples:
        what = f"'ppo.consultations' is {consultations}, which does not divide by ppo.samples {samples}"
        yield Fault(("ppo.consultations", "ppo.samples"), what, f"set ppo.consultations to a multiple of {samples}")
    if ppo.advantage in ("grpo", "rloo") and samples < 2:
        what = f"'ppo.advantage' {ppo.advantage} compares the consultations of a prompt, but ppo.samples is {samples}"
        remedy = "set ppo.samples to 4 or more, or ppo.advantage to gae or reinforce_pp"
        yield Fault(("ppo.samples", "ppo.advantage"), what, remedy)
    if ppo.advantage == "gae" and ppo.critic_warmup >= ppo.steps:
        warmup = f"'ppo.critic_warmup' is {ppo.critic_warmup} of {ppo.steps} steps (ppo.steps)"
        what = f"{warmup}: the policy would never learn"
        yield Fault(("ppo.critic_warmup", "ppo.steps"), what, "set it lower than ppo.steps")


def _kl_faults(ppo: PPOConfig) -> Iterator[Fault]:
    if ppo.kl_in == "loss" and ppo.kl_estimator == "k1":
        what = (
            "'ppo.kl_in' is loss with ppo.kl_estimator k1, "
            "whose gradient is zero on average: nothing would hold the policy"
        )
        yield Fault(("ppo.kl_estimator", "ppo.kl_in"), what, "set ppo.kl_estimator to k2 or k3, or ppo.kl_in to reward")
    if ppo.kl_controller == "adaptive" and ppo.kl_bound <= ppo.kl_target:
        what = (
            f"'ppo.kl_bound' {ppo.kl_bound:g} stops the run at or below "
            f"what the controller steers to (ppo.kl_target {ppo.kl_target:g})"
        )
        yield Fault(("ppo.kl_bound", "ppo.kl_target"), what, "set ppo.kl_bound to several times ppo.kl_target")
    if ppo.init == "earlier" and "reference" not in ppo.roles():
        what = (
            "'ppo.init' is earlier, but the reference is the policy without its adapters: "
            "the KL would be measured from that policy, not from SFT"
        )
        yield Fault(("ppo.init", "ppo.reference_model"), what, "set ppo.reference_model to separate")
    if ppo.policy.lora.rank == 0 and ppo.reference_model == "adapter_off":
        what = "'ppo.reference_model' is adapter_off, but the policy has no adapters (ppo.policy.lora.rank is 0)"
        remedy = "set ppo.policy.lora.rank, or ppo.reference_model to separate"
        yield Fault(("ppo.reference_model", "ppo.policy.lora.rank"), what, remedy)


def _colocation_faults(fleet: FleetConfig, ppo: PPOConfig) -> Iterator[Fault]:
    key, present = "ppo.colocate", ppo.residents(fleet)
    named = [name for group in ppo.colocate for name in group]
    for name in named:
        if name not in present:
            reason = "is no role of this run" if name in ROLES else "is no role"
            remedy = f"choose from {', '.join({**present, 'engines': None})}"
            yield Fault((key,), f"'{key}' names {name!r}, which {reason}", remedy)
        elif named.count(name) > 1:
            yield Fault((key,), f"'{key}' names {name!r} twice", "a role can be in one place only")
    for group in ppo.colocate:
        gpus = {name: present[name].gpus for name in group if name in present}
        if sum(gpus.values()) > 1 and len(gpus) > 1:
            shares = ", ".join(f"{name} ({share:g})" for name, share in gpus.items())
            keys = ("fleet.engine_gpus" if name == "engines" else f"ppo.{name}.gpus" for name in gpus)
            what = f"'{key}' puts {shares} on one GPU: more than a whole one"
            yield Fault((key, *keys), what, "give each a part, such as 0.6 and 0.4")
