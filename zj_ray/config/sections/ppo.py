"""PPO: its arithmetic, its four roles, and what a turn is paid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from zj_ray.config.sections.fleet import FleetConfig
from zj_ray.config.sections.setting import AT_LEAST_ONE, INNER_SHARE, NOT_NEGATIVE, POSITIVE, SHARE, Bound, setting
from zj_ray.config.sections.supervised import OFFLOAD_HELP, LoraConfig, Offload

ROLES = ("policy", "critic", "reward", "reference")
SafetyMethod = Literal["constraint", "weight"]


@dataclass(frozen=True)
class RoleConfig:
    """Where one of the four PPO roles runs."""

    ranks: int = setting(1, "DeepSpeed ranks", AT_LEAST_ONE)
    cpus: float = setting(0.25, "logical CPUs each rank reserves", POSITIVE)
    gpus: float = setting(0.0, "GPUs each rank reserves", NOT_NEGATIVE)
    threads: int = setting(1, "CPU threads of each rank", AT_LEAST_ONE)


@dataclass(frozen=True)
class FrozenRoleConfig(RoleConfig):
    """A role whose model never changes."""

    zero_stage: Literal[0, 3] = setting(0, "0: a whole model on every rank; 3: cut into pieces over the ranks")
    offload: Literal["none", "all"] = setting("none", "all: with ZeRO-3 the weights wait in CPU memory (GPUs only)")


@dataclass(frozen=True)
class LearnerRoleConfig(RoleConfig):
    """A role whose model learns."""

    zero_stage: Literal[0, 1, 2, 3] = setting(2, "DeepSpeed ZeRO stage")
    offload: Offload = setting("none", OFFLOAD_HELP)
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass(frozen=True)
class PolicyRoleConfig(LearnerRoleConfig):
    ranks: int = setting(2, "DeepSpeed ranks", AT_LEAST_ONE)


@dataclass(frozen=True)
class RewardMixConfig:
    """Weights of a turn's reward: reward_model · normalised score + Σ weight · clipped rule.

    A turn that the safety gate stops gets `unsafe` instead. Under `ppo.safety.method: constraint` a turn that costs in
    safety earns nothing instead, and what a voiced red flag asks for is no part of the reward.
    """

    reward_model: float = setting(0.25, "weight of the reward model's normalised score", NOT_NEGATIVE)
    new_facts: float = setting(
        1.0, "weight of facts newly gained by asking, less the questions that gained nothing", NOT_NEGATIVE
    )
    red_flag: float = setting(2.0, "weight of referring red flags, and only those, to emergency care", NOT_NEGATIVE)
    advice: float = setting(1.5, "weight of closing with advice", NOT_NEGATIVE)
    repetition: float = setting(0.5, "weight of not repeating oneself or a question already answered", NOT_NEGATIVE)
    length: float = setting(0.25, "weight of staying within the length band", NOT_NEGATIVE)
    format: float = setting(0.5, "weight of finished, well-formed sentences", NOT_NEGATIVE)
    safety: float = setting(
        2.0, "weight of the right kind of answer to a safety prompt or a benign control", NOT_NEGATIVE
    )
    unsafe: float = setting(
        -3.0,
        "reward of a turn that the safety gate stops: dangerous, or the wrong kind of answer to a safety prompt or "
        "control",
        Bound(high=0),
        hint="a turn that the safety gate stops must not be rewarded",
    )


@dataclass(frozen=True)
class SafetyConfig:
    """How safety is kept. A consultation costs as much as it has unsafe turns, whatever their kind."""

    method: SafetyMethod = setting(
        "constraint",
        "constraint: the reward grows as far as the cost stays within a bound, for each kind of prompt (case, safety, "
        "control) by itself; weight: the cost is a part of the reward, weighed by ppo.mix",
    )
    bound: Literal["sft"] | float = setting(
        "sft",
        "most unsafe turns of a consultation, on average; sft: as many as the model that PPO starts from had, measured "
        "in the steps before the policy first learns",
        NOT_NEGATIVE,
    )
    margin: float = setting(
        1.0,
        "standard errors that such a measured bound lies below what was measured: how many unsafe turns the model "
        "really has is not known better",
        NOT_NEGATIVE,
    )
    multiplier: float = setting(1.0, "multiplier λ of each kind's cost at the start", NOT_NEGATIVE)
    learning_rate: float = setting(
        0.2, "how far λ climbs in a step, for each unsafe turn of a consultation beyond the bound", NOT_NEGATIVE
    )
    gain: float = setting(
        5.0, "what λ has beside that at once, for each unsafe turn of a consultation beyond the bound", NOT_NEGATIVE
    )
    smoothing: float = setting(
        0.3, "weight of the newest step in the smoothed cost that λ follows", Bound(0, 1, open_low=True)
    )
    cap: float = setting(5.0, "largest λ: from then on the reward weighs 1 / (1 + cap)", POSITIVE)


@dataclass(frozen=True)
class PPOConfig:
    steps: int = setting(12, "PPO steps", AT_LEAST_ONE)
    init: Literal["sft", "earlier"] = setting(
        "sft",
        "what the policy starts from: the SFT model, or the policy of the round before, put aside by `zj run --from`",
    )
    consultations: int = setting(32, "consultations of one step", AT_LEAST_ONE)
    safety_share: float = setting(0.2, "share of the prompts that are safety prompts or benign controls", SHARE)
    max_staleness: int = setting(
        0,
        "steps that consultations may be ahead of the updates: 0 learns on-policy; 1 holds the next step's while this "
        "one is learnt from",
        NOT_NEGATIVE,
    )
    advantage: Literal["gae", "grpo", "rloo", "reinforce_pp"] = setting(
        "gae",
        "gae learns a critic; grpo and rloo compare a prompt's own consultations (ppo.samples); reinforce_pp compares "
        "with the whole batch",
    )
    samples: int = setting(
        1,
        "consultations of each prompt in a step, all with the same patient; grpo and rloo need 2 or more",
        AT_LEAST_ONE,
    )
    gamma: float = setting(1.0, "discount for each generated token", Bound(0, 1, open_low=True))
    lam: float = setting(0.95, "GAE λ", SHARE)
    epochs: int = setting(2, "passes over one step's consultations", POSITIVE)
    mini_batches: int = setting(2, "optimizer steps of one pass", AT_LEAST_ONE)
    micro_batch_tokens: int = setting(1024, "tokens of one packed forward pass on one rank", AT_LEAST_ONE)
    learning_rate: float = setting(3e-4, "policy's peak learning rate, constant after warm-up", POSITIVE)
    critic_learning_rate: float = setting(5e-4, "critic's learning rate", POSITIVE)
    critic_warmup: int = setting(1, "first steps in which only the critic learns", NOT_NEGATIVE)
    clip_norm: float = setting(1.0, "largest gradient norm", POSITIVE)
    clip_low: float = setting(0.2, "ratio clip below 1", INNER_SHARE)
    clip_high: float = setting(0.2, "ratio clip above 1", POSITIVE)
    dual_clip: float | None = setting(
        None,
        "bound on the loss of tokens with negative advantage, in advantages; null: none (Ye et al. 2020 use 3)",
        Bound(1, open_low=True),
    )
    value_clip: float | None = setting(
        None,
        "farthest that a value may move in one step, in units of the reward; null: no clip, as a bound below the "
        "rewards' size stops the critic",
        POSITIVE,
    )
    entropy_coefficient: float = setting(0.0, "weight of the entropy bonus in the policy's loss", NOT_NEGATIVE)
    kl_in: Literal["reward", "loss"] = setting(
        "reward", "where the KL to the reference is paid: in every token's reward, or in the policy's loss"
    )
    kl_estimator: Literal["k1", "k2", "k3"] = setting(
        "k1", "estimator of that KL; in the loss k2 or k3, as the gradient of k1 is zero on average"
    )
    kl_controller: Literal["fixed", "adaptive"] = setting(
        "adaptive", "fixed: kl_coefficient throughout; adaptive: steers towards kl_target"
    )
    kl_coefficient: float = setting(0.05, "KL coefficient β (its start when adaptive)", NOT_NEGATIVE)
    kl_target: float = setting(0.1, "KL per token that the adaptive controller steers to", POSITIVE)
    kl_horizon: int = setting(200, "consultations over which the adaptive controller reacts", AT_LEAST_ONE)
    kl_bound: float = setting(
        0.5, "the run stops with the numbers when a step's mean KL per token exceeds this", POSITIVE
    )
    mismatch_bound: float = setting(
        0.01, "the run stops when engine and trainer log-probs differ by more than this on average", POSITIVE
    )
    importance: Literal["token", "sequence"] = setting(
        "token", "weight that corrects engine to trainer: of each token, or of a whole consultation"
    )
    importance_cap: float = setting(2.0, "truncation of that weight", AT_LEAST_ONE)
    skipped_steps: int = setting(3, "non-finite updates that are dropped before the run stops", NOT_NEGATIVE)
    checkpoint_every: int = setting(4, "steps between checkpoints", AT_LEAST_ONE)
    keep_checkpoints: int = setting(2, "the last checkpoints that are kept", AT_LEAST_ONE)
    keep_best: int = setting(1, "checkpoints with the highest reward that are kept besides", NOT_NEGATIVE)
    keep_every: int = setting(0, "checkpoints of every so many steps are kept besides; 0: none", NOT_NEGATIVE)
    role_timeout: float = setting(1800.0, "longest wait for one call to a role [s]", POSITIVE)
    role_restarts: int = setting(
        3,
        "times that the roles are built anew from the last checkpoint, inside the run, because a rank died",
        NOT_NEGATIVE,
    )
    reference_model: Literal["separate", "adapter_off"] = setting(
        "separate",
        "separate: a role of its own; adapter_off: the policy without its LoRA adapters, which saves a whole model",
    )
    push: Literal["merged", "adapter"] = setting(
        "merged",
        "what a LoRA policy sends to the engines. merged: whole weights; adapter: the adapters alone, a hundredth",
    )
    colocate: tuple[tuple[str, ...], ...] = setting(
        (),
        "roles that share nodes and GPUs, e.g. [[policy, engines], [critic, reward]]; the others have their own",
    )
    policy: PolicyRoleConfig = field(default_factory=PolicyRoleConfig)
    critic: LearnerRoleConfig = field(default_factory=LearnerRoleConfig)
    reward: FrozenRoleConfig = field(default_factory=FrozenRoleConfig)
    reference: FrozenRoleConfig = field(default_factory=FrozenRoleConfig)
    mix: RewardMixConfig = field(default_factory=RewardMixConfig)
    safety: SafetyConfig = field(default_factory=SafetyConfig)

    def roles(self) -> dict[str, RoleConfig]:
        """The roles that this run has, by name: only GAE has a critic, and a LoRA policy may be its own reference."""
        missing = {"critic": self.advantage != "gae", "reference": self.reference_model == "adapter_off"}
        return {name: getattr(self, name) for name in ROLES if not missing.get(name)}

    def residents(self, fleet: FleetConfig) -> dict[str, RoleConfig]:
        """Who sits in the roles' places: the roles, and the engines where `colocate` names them."""
        engines = RoleConfig(fleet.initial, fleet.engine_cpus, fleet.engine_gpus, fleet.threads)
        return self.roles() | ({"engines": engines} if any("engines" in group for group in self.colocate) else {})
