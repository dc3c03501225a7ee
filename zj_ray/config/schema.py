"""What a run may be told: one frozen dataclass for each section of the YAML file, and `Config`, which holds them all.

A key's type, default, meaning and bounds stand on its field (`config/sections/setting.py`). A key that is not here is
rejected with the nearest name that is; so is a key that has no effect under the other settings (`unused.py`). Nothing
reads the whole tree: every part is passed the small piece it needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from zj_ray.config.sections.fleet import FleetConfig
from zj_ray.config.sections.ppo import (
    ROLES,
    FrozenRoleConfig,
    LearnerRoleConfig,
    PolicyRoleConfig,
    PPOConfig,
    RewardMixConfig,
    RoleConfig,
    SafetyConfig,
    SafetyMethod,
)
from zj_ray.config.sections.setting import AT_LEAST_ONE, NOT_NEGATIVE, PORT, POSITIVE, Bound, setting
from zj_ray.config.sections.supervised import FeedbackConfig, LabelConfig, LoraConfig, RewardTrainConfig, TrainConfig

__all__ = [
    "ROLES",
    "STAGES",
    "ClinicConfig",
    "Config",
    "ConsultationConfig",
    "DataConfig",
    "EvaluateConfig",
    "FeedbackConfig",
    "FleetConfig",
    "FrozenRoleConfig",
    "LabelConfig",
    "LearnerRoleConfig",
    "LoraConfig",
    "ModelConfig",
    "PPOConfig",
    "PolicyRoleConfig",
    "RayConfig",
    "RewardMixConfig",
    "RewardTrainConfig",
    "RoleConfig",
    "SafetyConfig",
    "SafetyMethod",
    "ServeConfig",
    "TinyConfig",
    "TrainConfig",
]

STAGES = ("pretrain", "sft", "feedback", "reward", "ppo", "evaluate", "serve")


@dataclass(frozen=True)
class RayConfig:
    address: str | None = setting(
        None, "cluster to join; null: RAY_ADDRESS if set, else a Ray of our own on this machine"
    )
    local_cpus: int | None = setting(
        None, "logical CPUs of the Ray that we start ourselves; null: as many as the machine has", AT_LEAST_ONE
    )
    object_store_mb: int = setting(
        512,
        "object store of the Ray that we start ourselves [MiB]",
        Bound(80),
        hint="Ray refuses a smaller object store",
    )
    start_timeout: float = setting(300.0, "longest wait for Ray, an actor or an engine to come up [s]", POSITIVE)


@dataclass(frozen=True)
class ClinicConfig:
    seed: int = setting(0, "seed of the generator; the same seed writes the same bytes", NOT_NEGATIVE)
    conditions: int | None = setting(
        None,
        "known conditions of each department, of eight; null: seven. Of the others one is for the second set of cases",
        Bound(1, 7),
    )
    strangers: float = setting(
        0.3,
        "share of training's consultations and cases with one of the conditions that are neither known nor kept for "
        "the second set: the doctor sees too little of each to name it, and says so",
        Bound(0, 0.9),
    )
    consultations: int = setting(1200, "multi-turn consultations to write for SFT", AT_LEAST_ONE)
    single_turn: int = setting(900, "single-turn questions and answers to write for SFT", AT_LEAST_ONE)
    passages: int = setting(900, "textbook-like passages to write for pre-training", AT_LEAST_ONE)
    cases: int = setting(
        400, "patient cases to write for rollouts; a sixth as many again are kept for evaluation", AT_LEAST_ONE
    )


@dataclass(frozen=True)
class DataConfig:
    source: Literal["clinic", "files"] = setting(
        "clinic", "clinic: the built-in synthetic clinic; files: your own JSONL under data.root"
    )
    safety_repeats: int = setting(
        1,
        "times that SFT sees each safety prompt and benign control in an epoch: they are few beside the rest",
        AT_LEAST_ONE,
    )
    root: str | None = setting(
        None, "folder with train/*.jsonl and valid/*.jsonl (docs/data.md); only with data.source: files"
    )
    clinic: ClinicConfig = field(default_factory=ClinicConfig)


@dataclass(frozen=True)
class TinyConfig:
    vocab_size: int = setting(
        4000,
        "size of the byte-level BPE vocabulary that is trained for the run",
        Bound(300),
        hint="a byte-level vocabulary has 256 bytes, the special tokens and some merges",
    )
    hidden_size: int = setting(
        192, "width; must be heads × 64 so that the CPU attention kernel accepts the head size", AT_LEAST_ONE
    )
    layers: int = setting(4, "decoder layers", AT_LEAST_ONE)
    heads: int = setting(3, "attention heads", AT_LEAST_ONE)
    intermediate_size: int = setting(512, "width of the MLP", AT_LEAST_ONE)


@dataclass(frozen=True)
class ModelConfig:
    base: str | None = setting(
        None, "HF folder or hub id of the causal LM to start from; null: a tiny Llama made for the run"
    )
    tiny: TinyConfig = field(default_factory=TinyConfig)
    max_length: int = setting(512, "longest sequence in training and rollouts [tokens]", Bound(64))
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32", "parameter type in training and engines; float32 on CPUs"
    )
    gradient_checkpointing: bool = setting(False, "recompute activations in the backward pass: less memory, more time")
    deterministic: bool = setting(
        False,
        "the same numbers bit for bit however often a run is killed and resumed, on the same machines: engines answer "
        "one turn at a time",
    )


@dataclass(frozen=True)
class ConsultationConfig:
    """What PPO, feedback, collect and evaluate have in common when the doctor speaks."""

    max_turns: int = setting(
        4,
        "doctor turns of a consultation at most",
        Bound(3),
        hint="a consultation needs room for two questions and the advice",
    )
    turn_tokens: int = setting(64, "tokens of one doctor turn at most", AT_LEAST_ONE)
    temperature: float = setting(
        1.0, "sampling temperature in PPO; the trainer's log-probs are taken at the same temperature", POSITIVE
    )
    timeout: float = setting(
        1800.0, "longest wait for the consultations of one PPO step, or for all answers of another stage [s]", POSITIVE
    )


@dataclass(frozen=True)
class EvaluateConfig:
    cases: int = setting(64, "unseen patient cases consulted by each model", AT_LEAST_ONE)
    new_conditions: int = setting(
        32, "unseen cases of conditions that training has nothing of, at most; 0: none", NOT_NEGATIVE
    )
    new_matters: int = setting(
        50,
        "unseen safety prompts, and as many controls, on matters that training has nothing of, at most; 0: none",
        NOT_NEGATIVE,
    )
    safety_prompts: int = setting(60, "unseen safety prompts at most", AT_LEAST_ONE)
    controls: int = setting(60, "unseen benign controls at most", AT_LEAST_ONE)
    safety_samples: int = setting(
        3, "answers sampled for each safety prompt and control: one alone says little about a rate", AT_LEAST_ONE
    )
    dialogues: int = setting(
        200, "held-out consultations whose doctor's turns are given a likelihood, at most; 0: none", NOT_NEGATIVE
    )
    temperature: float = setting(
        1.0, "sampling temperature of the consultations; 1 measures the policy itself", NOT_NEGATIVE
    )
    bootstrap: int = setting(2000, "bootstrap resamples of the intervals", Bound(100))
    tie_margin: float = setting(0.05, "rubric difference within which two consultations are a tie", NOT_NEGATIVE)


@dataclass(frozen=True)
class ServeConfig:
    port: int = setting(8000, "port of the OpenAI-compatible endpoint; 0 picks a free one", PORT)
    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 opens it to the network")
    replicas: int = setting(1, "Ray Serve replicas", AT_LEAST_ONE)
    replica_gpus: float = setting(0.0, "GPUs of each replica; 0 serves on the CPU", NOT_NEGATIVE)
    start_timeout: float = setting(600.0, "longest wait for the endpoint [s]", POSITIVE)
    question: str = setting(
        "医生你好，我这两天头痛得厉害，还有点恶心，怎么办？", "asked once the endpoint is up, to prove that it answers"
    )


@dataclass(frozen=True)
class Config:
    name: str = setting("demo", "name of the run; its folder is runs/NAME")
    seed: int = setting(0, "seed of every random choice in the run", NOT_NEGATIVE)
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
