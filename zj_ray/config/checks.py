"""Which configurations can't run: values out of range, keys that contradict each other, keys without effect.

Each rule is one line of a table or one short function that yields faults; `check` raises the first, at the file and
line where its key was written. A key without effect is refused as well: whoever writes it believes that it does
something. `ineffective` never names a key that some stage still reads.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from zj_ray.config.schema import (
    ROLES,
    STAGES,
    Config,
    ConsultationConfig,
    FeedbackConfig,
    FleetConfig,
    PPOConfig,
    RoleConfig,
    TrainConfig,
)
from zj_ray.errors import ConfigError


@dataclass(frozen=True)
class Bound:
    """The numbers a key may hold; open ends exclude their limit."""

    low: float
    high: float = float("inf")
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        low = f"{'more than' if self.open_low else 'at least'} {self.low:g}"
        high = f"{'less than' if self.open_high else 'at most'} {self.high:g}"
        return low if self.high == float("inf") else high if self.low == -float("inf") else f"{low} and {high}"


@dataclass(frozen=True)
class Fault:
    """keys: those involved, the likeliest culprit first; its line is the one that is named."""

    keys: tuple[str, ...]
    what: str
    remedy: str


TRAINED = ("pretrain", "sft", "reward")  # the supervised stages
POSITIVE = Bound(0.0, open_low=True)
NOT_NEGATIVE = Bound(0.0)
AT_LEAST_ONE = Bound(1)
SHARE = Bound(0.0, 1.0)
INNER_SHARE = Bound(0.0, 1.0, open_low=True, open_high=True)
PORT = Bound(0, 65535)

# By the key's last part: the same word means the same thing in every section. A full key overrides its last part.
_BOUNDS: dict[str, Bound] = {
    **dict.fromkeys(
        ("seed", "gpus", "engine_gpus", "replica_gpus", "weight_decay", "noise", "tie_margin"), NOT_NEGATIVE
    ),
    **dict.fromkeys(
        ("max_staleness", "critic_warmup", "skipped_steps", "aspect_weight", "kl_coefficient", "entropy_coefficient"),
        NOT_NEGATIVE,
    ),
    **dict.fromkeys(("keep_best", "keep_every", "margin"), NOT_NEGATIVE),
    **dict.fromkeys(("samples", "patience", "ensemble"), AT_LEAST_ONE),
    "rank": Bound(0, 512),  # of LoRA adapters; vLLM has no room for larger ones
    "alpha": AT_LEAST_ONE,
    "dual_clip": Bound(1.0, open_low=True),
    **dict.fromkeys(
        (
            "start_timeout",
            "stall_timeout",
            "turn_timeout",
            "sync_timeout",
            "wait_timeout",
            "consultation.timeout",
            "role_timeout",
        ),
        POSITIVE,
    ),
    "slow_after": POSITIVE,
    **dict.fromkeys(
        ("learning_rate", "critic_learning_rate", "clip_norm", "epochs", "clip_high", "value_clip"), POSITIVE
    ),
    **dict.fromkeys(("cpus", "engine_cpus", "kl_target", "kl_bound", "mismatch_bound", "temperatures"), POSITIVE),
    **dict.fromkeys(
        ("local_cpus", "ranks", "threads", "max_in_flight", "turn_retries", "max_steps", "save_every"), AT_LEAST_ONE
    ),
    **dict.fromkeys(("fleet.initial", "fleet.min", "fleet.max", "tensor_parallel", "lost_engines"), AT_LEAST_ONE),
    **dict.fromkeys(("restarts", "role_restarts", "idle_seconds"), NOT_NEGATIVE),
    **dict.fromkeys(
        ("layers", "heads", "hidden_size", "intermediate_size", "batch_tokens", "micro_batch_tokens", "annotators"),
        AT_LEAST_ONE,
    ),
    **dict.fromkeys(
        ("steps", "mini_batches", "turn_tokens", "kl_horizon", "checkpoint_every", "keep_checkpoints", "replicas"),
        AT_LEAST_ONE,
    ),
    **dict.fromkeys(
        ("consultations", "single_turn", "passages", "cases", "prompts", "safety_prompts", "controls"), AT_LEAST_ONE
    ),
    **dict.fromkeys(("warmup", "safety_share", "lam", "overlap", "gold", "enough"), SHARE),
    "threshold": Bound(-1.0, 1.0),  # of Kendall's τ-b
    "lease_minutes": POSITIVE,
    **dict.fromkeys(("held_out", "clip_low"), INNER_SHARE),
    "gamma": Bound(0.0, 1.0, open_low=True),
    "gpu_memory_utilization": Bound(0.0, 1.0, open_low=True),
    "importance_cap": AT_LEAST_ONE,
    "port": PORT,
    "answers": Bound(2),
    "safety_repeats": AT_LEAST_ONE,
    "safety_samples": AT_LEAST_ONE,
    "bootstrap": Bound(100),
    "max_length": Bound(64),
    "kv_cache_mb": Bound(16),
    "object_store_mb": Bound(80),
    "vocab_size": Bound(300),
    "zero_stage": Bound(0, 3),
    "max_turns": Bound(3),
    "consultation.temperature": POSITIVE,
    "evaluate.temperature": NOT_NEGATIVE,
    **dict.fromkeys(
        ("reward_model", "new_facts", "red_flag", "advice", "repetition", "length", "format", "safety"),
        NOT_NEGATIVE,  # weights of ppo.mix
    ),
    "unsafe": Bound(-float("inf"), 0.0),
}

_HINTS = {
    "consultation.max_turns": "a consultation needs room for two questions and the advice",
    "ppo.mix.unsafe": "a turn that the safety gate stops must not be rewarded",
    "model.tiny.vocab_size": "a byte-level vocabulary has 256 bytes, the special tokens and some merges",
    "ray.object_store_mb": "Ray refuses a smaller object store",
}


def bound(key: str) -> Bound | None:
    """The numbers that a key may hold; None where the key is no number."""
    return _BOUNDS.get(key) or _BOUNDS.get(key.rpartition(".")[2])


def check(config: Config, set_keys: Mapping[str, str]) -> None:
    """Raises ConfigError for the first fault of a run. set_keys: every key that was written → where ("demo.yaml:12")."""
    for fault in _faults(config):
        key = next((key for key in fault.keys if key in set_keys), fault.keys[0])
        raise ConfigError(fault.what, where=set_keys.get(key, f"{key} (default)"), remedy=fault.remedy)
    unused = ineffective(config)
    for key, where in set_keys.items():
        if key in unused:
            raise ConfigError(
                f"'{key}' has no effect: {unused[key]}",
                where=where,
                remedy="remove the key, or change the setting it depends on",
            )


def ineffective(config: Config) -> dict[str, str]:
    """Every key that nothing reads under the other settings → the reason."""
    return {
        key: reason
        for pattern, reason in _unused(config)
        for key in _keys(config)
        if key == pattern or key.startswith(pattern + ".")
    }


def _unused(config: Config) -> Iterator[tuple[str, str]]:
    ppo, fleet = config.ppo, config.fleet
    if config.ray.address is not None:
        reason = "ray.address joins a cluster whose size is already settled"
        yield from ((key, reason) for key in ("ray.local_cpus", "ray.object_store_mb"))
    if config.model.base is not None:
        yield "model.tiny", "model.base is set, so no tiny model is made"
    if config.data.source == "files":
        yield "data.clinic", "data.source is files, so the clinic writes nothing"
    elif config.feedback.source != "file":
        yield "data.root", "data.source is clinic"
    if config.feedback.source == "file":
        reason = "feedback.source is file: its answers and ranks are read, not made"
        yield from (
            (f"feedback.{key}", reason) for key in ("prompts", "answers", "temperatures", "annotators", "noise")
        )
    elif config.feedback.source == "human":
        yield from (
            (f"feedback.{key}", "feedback.source is human: no annotator is simulated")
            for key in ("annotators", "noise")
        )
    if config.feedback.source != "human":
        yield "feedback.label.enough", "only feedback.source human waits for doctors"
    if config.reward.loss == "plackett_luce":
        yield "reward.margin", "reward.loss is plackett_luce, which has no pairs to ask a margin of"
    if fleet.engine_gpus > 0:
        yield from (
            (f"fleet.{key}", "fleet.engine_gpus > 0: the engines run on GPUs") for key in ("threads", "kv_cache_mb")
        )
    else:
        yield from (
            (f"fleet.{key}", "fleet.engine_gpus is 0: the engines run on CPUs")
            for key in ("gpu_memory_utilization", "sleep")
        )
    if not fleet.autoscale:
        yield "fleet.idle_seconds", "fleet.autoscale is off, so no engine is let go because it is idle"
    if ppo.kl_controller == "fixed":
        yield from ((f"ppo.{key}", "ppo.kl_controller is fixed") for key in ("kl_target", "kl_horizon"))
    if ppo.advantage != "gae":
        reason = f"ppo.advantage is {ppo.advantage}, which has no critic"
        yield from (
            (f"ppo.{key}", reason) for key in ("lam", "critic", "critic_learning_rate", "critic_warmup", "value_clip")
        )
    if ppo.advantage in ("grpo", "rloo"):
        yield "ppo.gamma", f"ppo.advantage is {ppo.advantage}, which pays for what a consultation earned in all"
    if ppo.safety_share == 0:
        yield "ppo.mix.safety", "ppo.safety_share is 0, so no safety prompt is rolled out"
    if ppo.reference_model == "adapter_off":
        yield "ppo.reference", "ppo.reference_model is adapter_off: the policy is its own reference"
    if ppo.policy.lora.rank == 0:
        yield "ppo.push", "ppo.policy.lora.rank is 0: there are no adapters"
    trained = {name: getattr(config, name) for name in TRAINED} | {f"ppo.{name}": getattr(ppo, name) for name in ROLES}
    for name, part in trained.items():
        if part.gpus == 0:
            yield f"{name}.offload", f"{name}.gpus is 0, so everything is in CPU memory anyway"
        if hasattr(part, "lora") and part.lora.rank == 0:
            yield from (
                (f"{name}.lora.{key}", f"{name}.lora.rank is 0: there are no adapters") for key in ("alpha", "targets")
            )


def _faults(config: Config) -> Iterator[Fault]:
    yield from _out_of_range(config)
    yield from _name_faults(config)
    yield from _data_faults(config)
    yield from _model_faults(config)
    for name in TRAINED:
        yield from _train_faults(getattr(config, name), name)
    yield from _feedback_faults(config.feedback, config.data.source)
    yield from _fleet_faults(config.fleet, config.serve.replica_gpus)
    yield from _transport_faults(config.fleet, config.ppo)
    if config.fleet.sleep and config.ppo.max_staleness > 0:
        what = "'fleet.sleep' lets engines sleep while the trainers work, but ppo.max_staleness has them hold consultations meanwhile"
        yield Fault(
            ("fleet.sleep", "ppo.max_staleness"),
            what,
            "give the engines GPUs of their own, or set ppo.max_staleness to 0",
        )
    if config.model.deterministic:
        yield from _determinism_faults(config.fleet, config.ppo)
    yield from _consultation_faults(config.consultation, config.model.max_length)
    yield from _ppo_faults(config.ppo)
    if config.fleet.autoscale and any("engines" in group for group in config.ppo.colocate):
        what = "'fleet.autoscale' adds and removes engines, but ppo.colocate gives them fixed places beside roles"
        yield Fault(
            ("fleet.autoscale", "ppo.colocate"),
            what,
            "take the engines out of ppo.colocate, or leave fleet.autoscale out",
        )
    yield from _colocation_faults(config.ppo, config.ppo.residents(config.fleet))


def _out_of_range(config: Config) -> Iterator[Fault]:
    for key, value in _keys(config).items():
        numbers = value if isinstance(value, tuple) else (value,)
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                continue
            limits = bound(key)
            if limits is not None and not limits.holds(number):
                remedy = _HINTS.get(key) or "choose a value in that range"
                wanted = f"{limits.low:g}" if limits.low == limits.high else str(limits)
                yield Fault((key,), f"'{key}' is {number:g} and must be {wanted}", remedy)


def _name_faults(config: Config) -> Iterator[Fault]:
    if not re.fullmatch(r"\w[\w.-]*", config.name):
        yield Fault(
            ("name",),
            f"'name' is {config.name!r}, which can't be a folder below runs/",
            "use letters, digits, '-', '_' and '.'",
        )
    if not config.stages:
        yield Fault(("stages",), "'stages' is empty", f"choose from {', '.join(STAGES)}")
    for stage in config.stages:
        if stage not in STAGES:
            close = difflib.get_close_matches(stage, STAGES, n=1)
            remedy = f"did you mean {close[0]}?" if close else f"choose from {', '.join(STAGES)}"
            yield Fault(("stages",), f"'stages' has the unknown stage {stage!r}", remedy)
        elif config.stages.count(stage) > 1:
            yield Fault(("stages",), f"'stages' has {stage!r} twice", "name each stage once")
    ordered = [stage for stage in STAGES if stage in config.stages]
    if list(config.stages) != ordered:
        yield Fault(
            ("stages",),
            "'stages' is out of order",
            f"write [{', '.join(ordered)}]: each stage needs what the one before made",
        )


def _data_faults(config: Config) -> Iterator[Fault]:
    if config.data.source == "files" and config.data.root is None:
        remedy = "name the folder that holds train/ and valid/, for example --set data.root=/path/to/data"
        yield Fault(("data.source",), "'data.source' is files but 'data.root' is not set", remedy)


def _model_faults(config: Config) -> Iterator[Fault]:
    tiny = config.model.tiny
    if config.model.base is None and tiny.hidden_size != 64 * tiny.heads:
        keys = ("model.tiny.hidden_size", "model.tiny.heads")
        what = f"'model.tiny.hidden_size' is {tiny.hidden_size}, but {tiny.heads} heads of 64 make {64 * tiny.heads}"
        yield Fault(
            keys, what, f"set hidden_size to {64 * tiny.heads}: the CPU attention kernel wants heads of size 64"
        )


def _train_faults(train: TrainConfig, name: str) -> Iterator[Fault]:
    yield from _engine_faults(name, train)
    if train.optimizer == "muon" and train.zero_stage > 0:
        what = f"'{name}.optimizer' muon works on whole matrices, but {name}.zero_stage {train.zero_stage} cuts them into pieces"
        yield Fault(
            (f"{name}.optimizer", f"{name}.zero_stage"),
            what,
            f"set {name}.zero_stage to 0, or {name}.optimizer to adamw",
        )


def _feedback_faults(feedback: FeedbackConfig, data_source: str) -> Iterator[Fault]:
    if feedback.source == "file" and data_source != "files":
        yield Fault(
            ("feedback.source",),
            "'feedback.source' is file, but data.source is clinic, which has no rankings",
            "set data.source: files",
        )
    if feedback.source != "file" and len(feedback.temperatures) != feedback.answers:
        what = f"'feedback.temperatures' has {len(feedback.temperatures)} entries for {feedback.answers} answers (feedback.answers)"
        yield Fault(("feedback.temperatures", "feedback.answers"), what, "give one temperature for each answer")


def _transport_faults(fleet: FleetConfig, ppo: PPOConfig) -> Iterator[Fault]:
    keys = ("fleet.transport", "fleet.engine_gpus")
    if fleet.transport in ("nccl", "ipc") and fleet.engine_gpus == 0:
        what = f"'fleet.transport' {fleet.transport} is for GPUs, but the engines have none"
        yield Fault(keys, what, "use object_store or gloo, or set fleet.engine_gpus")
    if fleet.transport == "gloo" and fleet.engine_gpus > 0:
        yield Fault(keys, "'fleet.transport' gloo is for engines on CPUs", "use nccl, ipc or object_store")
    if fleet.transport == "ipc" and not any({"policy", "engines"} <= set(group) for group in ppo.colocate):
        what = "'fleet.transport' ipc is for engines on the policy's GPUs, but ppo.colocate does not put them there"
        yield Fault(
            (keys[0], "ppo.colocate"),
            what,
            "add engines to the policy's group in ppo.colocate, or use nccl or object_store",
        )
    elif fleet.transport == "ipc" and fleet.initial > ppo.policy.ranks:
        what = f"'fleet.transport' ipc needs a policy rank on each engine's GPU, but there are {fleet.initial} engines for {ppo.policy.ranks} ranks"
        yield Fault(
            (keys[0], "fleet.initial", "ppo.policy.ranks"), what, f"set fleet.initial to at most {ppo.policy.ranks}"
        )
    if fleet.transport != "object_store" and fleet.tensor_parallel > 1:
        what = f"'fleet.transport' {fleet.transport} sends to engines of one process, but fleet.tensor_parallel is {fleet.tensor_parallel}"
        yield Fault((keys[0], "fleet.tensor_parallel"), what, "use object_store, or engines of one GPU")
    if fleet.transport != "object_store" and ppo.push == "adapter":
        what = f"'fleet.transport' {fleet.transport} sends whole weights, but ppo.push is adapter"
        yield Fault(
            (keys[0], "ppo.push"), what, "use object_store for adapters: they are small; or set ppo.push to merged"
        )


def _fleet_faults(fleet: FleetConfig, replica_gpus: float) -> Iterator[Fault]:
    if not fleet.min <= fleet.initial <= fleet.max:
        what = (
            f"'fleet.initial' is {fleet.initial}, which is not between fleet.min {fleet.min} and fleet.max {fleet.max}"
        )
        remedy = f"raise fleet.max to {max(fleet.initial, fleet.min)} or more, or lower the others"
        yield Fault(("fleet.initial", "fleet.max", "fleet.min"), what, remedy)
    if fleet.slow_after > fleet.stall_timeout:
        what = f"'fleet.slow_after' {fleet.slow_after:g} s comes after fleet.stall_timeout {fleet.stall_timeout:g} s, when an engine is replaced"
        yield Fault(("fleet.slow_after", "fleet.stall_timeout"), what, "set fleet.slow_after lower")
    if fleet.engine_gpus > 0 and fleet.tensor_parallel not in (1, fleet.engine_gpus):
        what = f"'fleet.tensor_parallel' cuts a model over {fleet.tensor_parallel} GPUs, but an engine has {fleet.engine_gpus:g} (fleet.engine_gpus)"
        yield Fault(
            ("fleet.tensor_parallel", "fleet.engine_gpus"), what, f"set fleet.engine_gpus to {fleet.tensor_parallel}"
        )
    if fleet.sleep and fleet.tensor_parallel > 1:
        what = "'fleet.sleep' is for engines of one GPU that share it with roles"
        yield Fault(
            ("fleet.sleep", "fleet.tensor_parallel"), what, "set fleet.tensor_parallel to 1, or leave fleet.sleep out"
        )
    for key, gpus in (("fleet.engine_gpus", fleet.engine_gpus), ("serve.replica_gpus", replica_gpus)):
        if gpus > 1 and gpus != int(gpus):
            yield Fault(
                (key,),
                f"'{key}' is {gpus:g}: Ray gives out parts of one GPU or whole GPUs",
                f"set it to {int(gpus)} or {int(gpus) + 1}",
            )


def _determinism_faults(fleet: FleetConfig, ppo: PPOConfig) -> Iterator[Fault]:
    if fleet.max_in_flight > 1:
        what = f"'model.deterministic' is on, but engines decode {fleet.max_in_flight} turns at once (fleet.max_in_flight): that changes last bits"
        yield Fault(
            ("fleet.max_in_flight", "model.deterministic"),
            what,
            "set fleet.max_in_flight to 1, and fleet.initial higher for speed",
        )
    if ppo.max_staleness > 0:
        what = f"'model.deterministic' is on, but with ppo.max_staleness {ppo.max_staleness} chance decides which weights speak a turn"
        yield Fault(("ppo.max_staleness", "model.deterministic"), what, "set ppo.max_staleness to 0")


def _consultation_faults(consultation: ConsultationConfig, max_length: int) -> Iterator[Fault]:
    turns, tokens = consultation.max_turns, consultation.turn_tokens
    if turns * tokens >= max_length:
        what = f"{turns} turns (consultation.max_turns) of {tokens} tokens (consultation.turn_tokens) leave no room for the patient in {max_length}"
        yield Fault(
            ("consultation.turn_tokens", "consultation.max_turns", "model.max_length"),
            what,
            "lower consultation.turn_tokens or raise model.max_length",
        )


def _ppo_faults(ppo: PPOConfig) -> Iterator[Fault]:
    ranks = max(ppo.policy.ranks, ppo.critic.ranks)
    if ppo.consultations < ppo.mini_batches * ranks:
        what = f"'ppo.consultations' is {ppo.consultations}: {ppo.mini_batches} mini-batches for {ranks} ranks leave a rank without one"
        remedy = f"set ppo.consultations to at least {ppo.mini_batches * ranks}, or ppo.mini_batches lower"
        yield Fault(("ppo.consultations", "ppo.mini_batches", "ppo.policy.ranks", "ppo.critic.ranks"), what, remedy)
    if ppo.consultations % ppo.samples:
        what = f"'ppo.consultations' is {ppo.consultations}, which does not divide by ppo.samples {ppo.samples}"
        yield Fault(("ppo.consultations", "ppo.samples"), what, f"set ppo.consultations to a multiple of {ppo.samples}")
    if ppo.advantage in ("grpo", "rloo") and ppo.samples < 2:
        what = (
            f"'ppo.advantage' {ppo.advantage} compares the consultations of a prompt, but ppo.samples is {ppo.samples}"
        )
        yield Fault(
            ("ppo.samples", "ppo.advantage"),
            what,
            "set ppo.samples to 4 or more, or ppo.advantage to gae or reinforce_pp",
        )
    if ppo.kl_in == "loss" and ppo.kl_estimator == "k1":
        what = "'ppo.kl_in' is loss with ppo.kl_estimator k1, whose gradient is zero on average: nothing would hold the policy"
        yield Fault(("ppo.kl_estimator", "ppo.kl_in"), what, "set ppo.kl_estimator to k2 or k3, or ppo.kl_in to reward")
    if ppo.advantage == "gae" and ppo.critic_warmup >= ppo.steps:
        what = (
            f"'ppo.critic_warmup' is {ppo.critic_warmup} of {ppo.steps} steps (ppo.steps): the policy would never learn"
        )
        yield Fault(("ppo.critic_warmup", "ppo.steps"), what, "set it lower than ppo.steps")
    if ppo.kl_controller == "adaptive" and ppo.kl_bound <= ppo.kl_target:
        what = f"'ppo.kl_bound' {ppo.kl_bound:g} stops the run at or below what the controller steers to (ppo.kl_target {ppo.kl_target:g})"
        yield Fault(("ppo.kl_bound", "ppo.kl_target"), what, "set ppo.kl_bound to several times ppo.kl_target")
    if ppo.init == "earlier" and "reference" not in ppo.roles():
        what = "'ppo.init' is earlier, but the reference is the policy without its adapters: the KL would be measured from that policy, not from SFT"
        yield Fault(("ppo.init", "ppo.reference_model"), what, "set ppo.reference_model to separate")
    if ppo.policy.lora.rank == 0 and ppo.reference_model == "adapter_off":
        what = "'ppo.reference_model' is adapter_off, but the policy has no adapters (ppo.policy.lora.rank is 0)"
        yield Fault(
            ("ppo.reference_model", "ppo.policy.lora.rank"),
            what,
            "set ppo.policy.lora.rank, or ppo.reference_model to separate",
        )
    for name, role in ppo.roles().items():
        yield from _engine_faults(f"ppo.{name}", role)


def _engine_faults(name: str, part: Any) -> Iterator[Fault]:
    """Of a stage's or a role's DeepSpeed ranks."""
    if part.gpus > 1:
        yield Fault(
            (f"{name}.gpus",), f"'{name}.gpus' is {part.gpus:g}: a rank drives one GPU", f"raise {name}.ranks instead"
        )
    needed = {"none": 0, "optimizer": 1, "all": 3}[part.offload]
    if part.zero_stage < needed:
        keys = (f"{name}.offload", f"{name}.zero_stage")
        what = f"'{name}.offload' {part.offload} needs ZeRO-{needed}, but {name}.zero_stage is {part.zero_stage}"
        yield Fault(keys, what, f"set {name}.zero_stage to {needed}")


def _colocation_faults(ppo: PPOConfig, present: Mapping[str, RoleConfig]) -> Iterator[Fault]:
    key = ("ppo.colocate",)
    named = [name for group in ppo.colocate for name in group]
    for name in named:
        if name not in present:
            reason = "is no role of this run" if name in ROLES else "is no role"
            yield Fault(
                key,
                f"'ppo.colocate' names {name!r}, which {reason}",
                f"choose from {', '.join({**present, 'engines': None})}",
            )
        elif named.count(name) > 1:
            yield Fault(key, f"'ppo.colocate' names {name!r} twice", "a role can be in one place only")
    for group in ppo.colocate:
        gpus = {name: present[name].gpus for name in group if name in present}
        if sum(gpus.values()) > 1 and len(gpus) > 1:
            what = f"'ppo.colocate' puts {', '.join(f'{name} ({share:g})' for name, share in gpus.items())} on one GPU: more than a whole one"
            shares = ("fleet.engine_gpus" if name == "engines" else f"ppo.{name}.gpus" for name in gpus)
            yield Fault((*key, *shares), what, "give each a part, such as 0.6 and 0.4")


def _keys(section: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a config as dotted key → value."""
    found: dict[str, Any] = {}
    for field in fields(section):
        value = getattr(section, field.name)
        found.update(_keys(value, f"{prefix}{field.name}.") if is_dataclass(value) else {prefix + field.name: value})
    return found
