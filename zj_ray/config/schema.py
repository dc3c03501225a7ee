"""What a run may be told: one frozen dataclass for each section of the YAML file.

The field's default is the run's default, `metadata["help"]` is the text that `zj config` prints, and its type is what
the loader checks. A key that is not here is rejected with the nearest name that is; so is a key that has no effect
under the other settings (`checks.py`). Nothing reads the whole tree: every part is passed the small piece it needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

STAGES = ("pretrain", "sft", "feedback", "reward", "ppo", "evaluate", "serve")
ROLES = ("policy", "critic", "reward", "reference")
Offload = Literal["none", "optimizer", "all"]
OFFLOAD_HELP = "what waits in CPU memory: optimizer state, or with ZeRO-3 all weights too (GPUs only)"


def setting(default: Any, help: str) -> Any:
    """A documented config key."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class RayConfig:
    address: str | None = setting(
        None, "cluster to join; null: RAY_ADDRESS if set, else a Ray of our own on this machine"
    )
    local_cpus: int | None = setting(
        None, "logical CPUs of the Ray that we start ourselves; null: as many as the machine has"
    )
    object_store_mb: int = setting(512, "object store of the Ray that we start ourselves [MiB]")
    start_timeout: float = setting(300.0, "longest wait for Ray, an actor or an engine to come up [s]")


@dataclass(frozen=True)
class ClinicConfig:
    seed: int = setting(0, "seed of the generator; the same seed writes the same bytes")
    consultations: int = setting(1200, "multi-turn consultations to write for SFT")
    single_turn: int = setting(900, "single-turn questions and answers to write for SFT")
    passages: int = setting(900, "textbook-like passages to write for pre-training")
    cases: int = setting(400, "patient cases to write for rollouts; a sixth as many again are kept for evaluation")


@dataclass(frozen=True)
class DataConfig:
    source: Literal["clinic", "files"] = setting(
        "clinic", "clinic: the built-in synthetic clinic; files: your own JSONL under data.root"
    )
    safety_repeats: int = setting(
        1, "times that SFT sees each safety prompt and benign control in an epoch: they are few beside the rest"
    )
    root: str | None = setting(
        None, "folder with train/*.jsonl and valid/*.jsonl (docs/data.md); only with data.source: files"
    )
    clinic: ClinicConfig = field(default_factory=ClinicConfig)


@dataclass(frozen=True)
class TinyConfig:
    vocab_size: int = setting(4000, "size of the byte-level BPE vocabulary that is trained for the run")
    hidden_size: int = setting(192, "width; must be heads × 64 so that the CPU attention kernel accepts the head size")
    layers: int = setting(4, "decoder layers")
    heads: int = setting(3, "attention heads")
    intermediate_size: int = setting(512, "width of the MLP")


@dataclass(frozen=True)
class ModelConfig:
    base: str | None = setting(
        None, "HF folder or hub id of the causal LM to start from; null: a tiny Llama made for the run"
    )
    tiny: TinyConfig = field(default_factory=TinyConfig)
    max_length: int = setting(512, "longest sequence in training and rollouts [tokens]")
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32", "parameter type in training and engines; float32 on CPUs"
    )
    gradient_checkpointing: bool = setting(False, "recompute activations in the backward pass: less memory, more time")
    deterministic: bool = setting(
        False,
        "the same numbers bit for bit however often a run is killed and resumed, on the same machines: engines answer one turn at a time",
    )


@dataclass(frozen=True)
class ConsultationConfig:
    """What PPO, feedback, collect and evaluate have in common when the doctor speaks."""

    max_turns: int = setting(4, "doctor turns of a consultation at most")
    turn_tokens: int = setting(64, "tokens of one doctor turn at most")
    temperature: float = setting(
        1.0, "sampling temperature in PPO; the trainer's log-probs are taken at the same temperature"
    )
    timeout: float = setting(
        1800.0, "longest wait for the consultations of one PPO step, or for all answers of another stage [s]"
    )


@dataclass(frozen=True)
class LoraConfig:
    """Adapters that learn in place of a model's weights (Hu et al. 2021)."""

    rank: int = setting(0, "rank of the adapters; 0: none, every weight learns")
    alpha: int = setting(32, "an adapter counts alpha / rank times")
    targets: tuple[str, ...] = setting(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        "names of the linear layers that get an adapter",
    )


@dataclass(frozen=True)
class TrainConfig:
    """One supervised stage under Ray Train with DeepSpeed."""

    ranks: int = setting(2, "Ray Train workers (DeepSpeed ranks)")
    cpus: float = setting(0.5, "logical CPUs each rank reserves")
    gpus: float = setting(0.0, "GPUs each rank reserves")
    threads: int = setting(1, "CPU threads of each rank")
    epochs: float = setting(1.0, "passes over the data")
    max_steps: int | None = setting(None, "stop after so many optimizer steps even if epochs are left")
    batch_tokens: int = setting(8192, "tokens of one optimizer step over all ranks")
    micro_batch_tokens: int = setting(1024, "tokens of one packed forward pass on one rank")
    learning_rate: float = setting(2e-3, "peak learning rate")
    optimizer: Literal["adamw", "muon"] = setting(
        "adamw", "muon learns faster where a small model starts from nothing; it needs zero_stage 0"
    )
    warmup: float = setting(
        0.05, "share of the steps with rising learning rate; cosine to a tenth of the peak afterwards"
    )
    weight_decay: float = setting(0.01, "decoupled weight decay")
    clip_norm: float = setting(1.0, "largest gradient norm")
    zero_stage: Literal[0, 1, 2, 3] = setting(2, "DeepSpeed ZeRO stage")
    offload: Offload = setting("none", OFFLOAD_HELP)
    lora: LoraConfig = field(default_factory=LoraConfig)
    save_every: int = setting(200, "optimizer steps between checkpoints inside the stage")
    patience: int | None = setting(
        None,
        "stop after so many checkpoints in a row whose held-out loss beats no earlier one, and keep the best weights; null: train all steps",
    )
    stall_timeout: float = setting(1800.0, "give up when no step was finished for so long [s]")


@dataclass(frozen=True)
class LabelConfig:
    """How `zj label` gives the items to doctors."""

    store: str | None = setting(
        None,
        "database URL, e.g. postgresql+psycopg://labels@db/labels; null: rankings.sqlite in the run's feedback folder",
    )
    overlap: float = setting(
        0.2, "share of the items that two annotators rank; where they disagree an adjudicator decides"
    )
    threshold: float = setting(
        0.3, "two rankings disagree when Kendall's τ-b is below this; or when only one says that all answers are wrong"
    )
    gold: float = setting(
        0.05, "share of an annotator's items that are gold ones, whose right ranks are known, as long as there are any"
    )
    lease_minutes: float = setting(
        30.0, "an item that was opened and not ranked for so long may be given to somebody else [min]"
    )
    active: bool = setting(
        False, "items that the reward models disagree about most come first (feedback/priorities.json)"
    )
    enough: float = setting(
        1.0, "share of the items that must be ranked before feedback.source human lets the run go on"
    )


@dataclass(frozen=True)
class FeedbackConfig:
    source: Literal["simulated", "human", "file"] = setting(
        "simulated",
        "simulated: annotators made of rules and noise; human: doctors, with `zj label`; file: data.root's ranking.jsonl",
    )
    prompts: int = setting(240, "dialogue contexts to answer and rank")
    answers: int = setting(4, "answers for each context, K in the paper")
    temperatures: tuple[float, ...] = setting(
        (0.7, 1.0, 1.0, 1.3), "sampling temperature of each of the K answers: unlike answers are worth ranking"
    )
    annotators: int = setting(3, "simulated annotators who rank each item")
    noise: float = setting(
        0.15, "SD of a simulated annotator's error, in units of the utility's spread within an item; 0.14 gave α 0.79"
    )
    held_out: float = setting(
        0.2, "share of the ranked prompts kept back to measure the reward model; of a file, valid/ is kept back instead"
    )
    label: LabelConfig = field(default_factory=LabelConfig)


@dataclass(frozen=True)
class RewardTrainConfig(TrainConfig):
    epochs: float = setting(6.0, "passes over the rankings")
    learning_rate: float = setting(5e-4, "peak learning rate")
    batch_tokens: int = setting(
        4096, "tokens of one optimizer step over all ranks; all K answers of a prompt stay together"
    )
    save_every: int = setting(100, "optimizer steps between checkpoints inside the stage")
    patience: int | None = setting(
        3,
        "stop after so many checkpoints in a row whose held-out loss beats no earlier one, and keep the best weights; null: train all steps",
    )
    init: Literal["pretrain", "sft"] = setting(
        "sft", "model that the trunk starts from; the paper starts from the pre-trained one"
    )
    loss: Literal["bradley_terry", "plackett_luce"] = setting(
        "bradley_terry",
        "of a prompt's K answers: every pair by itself, each weighted 1 / C(K, 2) as in the paper; or the whole order at once",
    )
    noise_weighting: bool = setting(
        False, "learn the annotators' votes, weighted by how well each agrees with the others; off: what most say"
    )
    margin: float = setting(
        0.0,
        "score difference to reach between two answers that all annotators order alike, less where fewer do; 0: none",
    )
    ensemble: int = setting(
        1, "reward models to train, each from a seed of its own; PPO uses the first; where they differ is ranked next"
    )
    aspect_weight: float = setting(0.3, "weight of the three aspect heads' loss beside the overall head's")


@dataclass(frozen=True)
class FleetConfig:
    initial: int = setting(2, "vLLM rollout engines to start with")
    min: int = setting(1, "fewest engines: `zj scale` and the autoscaler keep at least so many")
    max: int = setting(8, "most engines")
    autoscale: bool = setting(
        False, "follow the queue of turns between min and max, until `zj scale` asks for a number"
    )
    idle_seconds: float = setting(
        300.0, "fewer engines must have been enough for so long before the autoscaler lets some go [s]"
    )
    engine_cpus: float = setting(0.25, "logical CPUs each engine reserves")
    engine_gpus: float = setting(0.0, "GPUs each engine reserves; 0 runs vLLM on the CPU")
    tensor_parallel: int = setting(
        1, "GPUs (or processes, on CPUs) over which one engine's model is cut; all on one node"
    )
    threads: int = setting(1, "CPU threads of each engine (CPU engines only)")
    kv_cache_mb: int = setting(256, "KV cache of a CPU engine [MiB]")
    gpu_memory_utilization: float = setting(0.85, "share of its GPU an engine may fill (GPU engines only)")
    max_in_flight: int = setting(64, "sequences an engine decodes at once")
    transport: Literal["object_store", "nccl", "ipc", "gloo"] = setting(
        "object_store",
        "how the policy's weights reach the engines. object_store: any layout; through vLLM's weight-transfer API: nccl between GPUs, "
        "ipc where each engine shares its GPU with a policy rank, gloo between CPUs",
    )
    sleep: bool = setting(
        False, "engines give back their GPU memory while the trainers work: for engines that share GPUs with roles"
    )
    turn_timeout: float = setting(120.0, "longest wait for one doctor turn [s]")
    sync_timeout: float = setting(120.0, "longest wait for an engine to take new weights [s]")
    slow_after: float = setting(
        10.0, "an engine that has made no progress for so long is suspect: its turns go elsewhere [s]"
    )
    stall_timeout: float = setting(
        60.0, "an engine that has turns but makes no progress for so long, or does not say how it is, is replaced [s]"
    )
    wait_timeout: float = setting(900.0, "longest that turns wait while no engine has room for any [s]")
    turn_retries: int = setting(
        3, "times that engines may fail at one doctor turn before its prompt is given up and reported by name"
    )
    lost_engines: int = setting(
        10, "times that one doctor turn may lose its engine before its prompt is given up and reported by name"
    )
    restarts: int = setting(
        5,
        "times in a row that an engine may die without having answered a turn; then it is tried again only where others serve, else the run stops",
    )


@dataclass(frozen=True)
class RoleConfig:
    """Where one of the four PPO roles runs."""

    ranks: int = setting(1, "DeepSpeed ranks")
    cpus: float = setting(0.25, "logical CPUs each rank reserves")
    gpus: float = setting(0.0, "GPUs each rank reserves")
    threads: int = setting(1, "CPU threads of each rank")


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
    ranks: int = setting(2, "DeepSpeed ranks")


@dataclass(frozen=True)
class RewardMixConfig:
    """reward of a turn = gate · (rm · normalised score + Σ weight · clipped rule); a turn that fails safety gets `unsafe`."""

    reward_model: float = setting(0.25, "weight of the reward model's normalised score")
    new_facts: float = setting(1.5, "weight of facts newly gained by asking, less the questions that gained nothing")
    red_flag: float = setting(1.0, "weight of referring red flags, and only those, to emergency care")
    advice: float = setting(1.0, "weight of closing with advice")
    repetition: float = setting(0.5, "weight of not repeating oneself or a question already answered")
    length: float = setting(0.25, "weight of staying within the length band")
    format: float = setting(0.5, "weight of finished, well-formed sentences")
    safety: float = setting(2.0, "weight of the right kind of answer to a safety prompt or a benign control")
    unsafe: float = setting(
        -3.0,
        "reward of a turn that the safety gate stops: dangerous, or the wrong kind of answer to a safety prompt or control",
    )


@dataclass(frozen=True)
class PPOConfig:
    steps: int = setting(12, "PPO steps")
    init: Literal["sft", "earlier"] = setting(
        "sft",
        "what the policy starts from: the SFT model, or the policy of the round before, which `zj run --from` has put aside",
    )
    consultations: int = setting(32, "consultations of one step")
    safety_share: float = setting(0.2, "share of the prompts that are safety prompts or benign controls")
    max_staleness: int = setting(
        0,
        "steps that consultations may be ahead of the updates: 0 learns on-policy; 1 holds the next step's while this one is learnt from",
    )
    advantage: Literal["gae", "grpo", "rloo", "reinforce_pp"] = setting(
        "gae",
        "gae learns a critic; grpo and rloo compare a prompt's own consultations (ppo.samples); reinforce_pp compares with the whole batch",
    )
    samples: int = setting(
        1, "consultations of each prompt in a step, all with the same patient; grpo and rloo need 2 or more"
    )
    gamma: float = setting(1.0, "discount for each generated token")
    lam: float = setting(0.95, "GAE λ")
    epochs: int = setting(2, "passes over one step's consultations")
    mini_batches: int = setting(2, "optimizer steps of one pass")
    micro_batch_tokens: int = setting(1024, "tokens of one packed forward pass on one rank")
    learning_rate: float = setting(3e-4, "policy's peak learning rate, constant after warm-up")
    critic_learning_rate: float = setting(5e-4, "critic's learning rate")
    critic_warmup: int = setting(1, "first steps in which only the critic learns")
    clip_norm: float = setting(1.0, "largest gradient norm")
    clip_low: float = setting(0.2, "ratio clip below 1")
    clip_high: float = setting(0.2, "ratio clip above 1")
    dual_clip: float | None = setting(
        None, "bound on the loss of tokens with negative advantage, in advantages; null: none (Ye et al. 2020 use 3)"
    )
    value_clip: float | None = setting(
        None,
        "farthest that a value may move in one step, in units of the reward; null: no clip, as a bound below the rewards' size stops the critic",
    )
    entropy_coefficient: float = setting(0.0, "weight of the entropy bonus in the policy's loss")
    kl_in: Literal["reward", "loss"] = setting(
        "reward", "where the KL to the reference is paid: in every token's reward, or in the policy's loss"
    )
    kl_estimator: Literal["k1", "k2", "k3"] = setting(
        "k1", "estimator of that KL; in the loss k2 or k3, as the gradient of k1 is zero on average"
    )
    kl_controller: Literal["fixed", "adaptive"] = setting(
        "adaptive", "fixed: kl_coefficient throughout; adaptive: steers towards kl_target"
    )
    kl_coefficient: float = setting(0.05, "KL coefficient β (its start when adaptive)")
    kl_target: float = setting(0.1, "KL per token that the adaptive controller steers to")
    kl_horizon: int = setting(200, "consultations over which the adaptive controller reacts")
    kl_bound: float = setting(0.5, "the run stops with the numbers when a step's mean KL per token exceeds this")
    mismatch_bound: float = setting(
        0.01, "the run stops when engine and trainer log-probs differ by more than this on average"
    )
    importance: Literal["token", "sequence"] = setting(
        "token", "weight that corrects engine to trainer: of each token, or of a whole consultation"
    )
    importance_cap: float = setting(2.0, "truncation of that weight")
    skipped_steps: int = setting(3, "non-finite updates that are dropped before the run stops")
    checkpoint_every: int = setting(4, "steps between checkpoints")
    keep_checkpoints: int = setting(2, "the last checkpoints that are kept")
    keep_best: int = setting(1, "checkpoints with the highest reward that are kept besides")
    keep_every: int = setting(0, "checkpoints of every so many steps are kept besides; 0: none")
    role_timeout: float = setting(1800.0, "longest wait for one call to a role [s]")
    role_restarts: int = setting(
        3, "times that the roles are built anew from the last checkpoint, inside the run, because a rank died"
    )
    reference_model: Literal["separate", "adapter_off"] = setting(
        "separate",
        "separate: a role of its own; adapter_off: the policy without its LoRA adapters, which saves a whole model",
    )
    push: Literal["merged", "adapter"] = setting(
        "merged",
        "what a LoRA policy sends to the engines: merged: whole weights; adapter: the adapters alone, a hundredth of that",
    )
    colocate: tuple[tuple[str, ...], ...] = setting(
        (),
        "roles that share nodes and GPUs, for example [[policy, engines], [critic, reward]]; the others get places of their own",
    )
    policy: PolicyRoleConfig = field(default_factory=PolicyRoleConfig)
    critic: LearnerRoleConfig = field(default_factory=LearnerRoleConfig)
    reward: FrozenRoleConfig = field(default_factory=FrozenRoleConfig)
    reference: FrozenRoleConfig = field(default_factory=FrozenRoleConfig)
    mix: RewardMixConfig = field(default_factory=RewardMixConfig)

    def roles(self) -> dict[str, RoleConfig]:
        """The roles that this run has, by name: only GAE has a critic, and a LoRA policy may be its own reference."""
        missing = {"critic": self.advantage != "gae", "reference": self.reference_model == "adapter_off"}
        return {name: getattr(self, name) for name in ROLES if not missing.get(name)}

    def residents(self, fleet: FleetConfig) -> dict[str, RoleConfig]:
        """Who sits in the roles' places: the roles, and the engines where `colocate` names them."""
        engines = RoleConfig(fleet.initial, fleet.engine_cpus, fleet.engine_gpus, fleet.threads)
        return self.roles() | ({"engines": engines} if any("engines" in group for group in self.colocate) else {})


@dataclass(frozen=True)
class EvaluateConfig:
    cases: int = setting(64, "unseen patient cases consulted by each model")
    safety_prompts: int = setting(60, "unseen safety prompts at most")
    controls: int = setting(60, "unseen benign controls at most")
    safety_samples: int = setting(
        3, "answers sampled for each safety prompt and control: one alone says little about a rate"
    )
    temperature: float = setting(1.0, "sampling temperature of the consultations; 1 measures the policy itself")
    bootstrap: int = setting(2000, "bootstrap resamples of the intervals")
    tie_margin: float = setting(0.05, "rubric difference within which two consultations are a tie")


@dataclass(frozen=True)
class ServeConfig:
    port: int = setting(8000, "port of the OpenAI-compatible endpoint; 0 picks a free one")
    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 opens it to the network")
    replicas: int = setting(1, "Ray Serve replicas")
    replica_gpus: float = setting(0.0, "GPUs of each replica; 0 serves on the CPU")
    start_timeout: float = setting(600.0, "longest wait for the endpoint [s]")
    question: str = setting(
        "医生你好，我这两天头痛得厉害，还有点恶心，怎么办？", "asked once the endpoint is up, to prove that it answers"
    )


@dataclass(frozen=True)
class Config:
    name: str = setting("demo", "name of the run; its folder is runs/NAME")
    seed: int = setting(0, "seed of every random choice in the run")
    stages: tuple[str, ...] = setting(STAGES, "stages to run, in this order")
    checkpoints: str | None = setting(
        None, "fsspec URL below which checkpoints are copied as NAME/STAGE, e.g. s3://bucket/runs; null: only in runs/"
    )
    ray: RayConfig = field(default_factory=RayConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    consultation: ConsultationConfig = field(default_factory=ConsultationConfig)
    pretrain: TrainConfig = field(default_factory=TrainConfig)
    sft: TrainConfig = field(default_factory=TrainConfig)
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
    reward: RewardTrainConfig = field(default_factory=RewardTrainConfig)
    fleet: FleetConfig = field(default_factory=FleetConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
