"""The stages before PPO: supervised training, answers and how they are ranked, the reward model that learns from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from zj_ray.config.sections.setting import AT_LEAST_ONE, INNER_SHARE, NOT_NEGATIVE, POSITIVE, SHARE, Bound, setting

Offload = Literal["none", "optimizer", "all"]
OFFLOAD_HELP = "what waits in CPU memory: optimizer state, or with ZeRO-3 all weights too (GPUs only)"
PATIENCE_HELP = (
    "stop after so many checkpoints in a row whose held-out loss beats no earlier one, and keep the best weights; "
    "null: train all steps"
)


@dataclass(frozen=True)
class LoraConfig:
    """Adapters that learn in place of a model's weights (Hu et al. 2021)."""

    rank: int = setting(0, "rank of the adapters; 0: none, every weight learns", Bound(0, 512))
    alpha: int = setting(32, "an adapter counts alpha / rank times", AT_LEAST_ONE)
    targets: tuple[str, ...] = setting(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        "names of the linear layers that get an adapter",
    )


@dataclass(frozen=True)
class TrainConfig:
    """One supervised stage under Ray Train with DeepSpeed."""

    ranks: int = setting(2, "Ray Train workers (DeepSpeed ranks)", AT_LEAST_ONE)
    cpus: float = setting(0.5, "logical CPUs each rank reserves", POSITIVE)
    gpus: float = setting(0.0, "GPUs each rank reserves", NOT_NEGATIVE)
    threads: int = setting(1, "CPU threads of each rank", AT_LEAST_ONE)
    epochs: float = setting(1.0, "passes over the data", POSITIVE)
    max_steps: int | None = setting(None, "stop after so many optimizer steps even if epochs are left", AT_LEAST_ONE)
    batch_tokens: int = setting(8192, "tokens of one optimizer step over all ranks", AT_LEAST_ONE)
    micro_batch_tokens: int = setting(1024, "tokens of one packed forward pass on one rank", AT_LEAST_ONE)
    learning_rate: float = setting(2e-3, "peak learning rate", POSITIVE)
    optimizer: Literal["adamw", "muon"] = setting(
        "adamw", "muon learns faster where a small model starts from nothing; it needs zero_stage 0"
    )
    warmup: float = setting(
        0.05, "share of the steps with rising learning rate; cosine to a tenth of the peak afterwards", SHARE
    )
    weight_decay: float = setting(0.01, "decoupled weight decay", NOT_NEGATIVE)
    clip_norm: float = setting(1.0, "largest gradient norm", POSITIVE)
    zero_stage: Literal[0, 1, 2, 3] = setting(2, "DeepSpeed ZeRO stage")
    offload: Offload = setting("none", OFFLOAD_HELP)
    lora: LoraConfig = field(default_factory=LoraConfig)
    save_every: int = setting(200, "optimizer steps between checkpoints inside the stage", AT_LEAST_ONE)
    patience: int | None = setting(None, PATIENCE_HELP, AT_LEAST_ONE)
    stall_timeout: float = setting(1800.0, "give up when no step was finished for so long [s]", POSITIVE)


@dataclass(frozen=True)
class LabelConfig:
    """How `zj label` gives the items to doctors."""

    store: str | None = setting(
        None,
        "database URL, e.g. postgresql+psycopg://labels@db/labels; null: rankings.sqlite in the run's feedback folder",
    )
    overlap: float = setting(
        0.2, "share of the items that two annotators rank; where they disagree an adjudicator decides", SHARE
    )
    threshold: float = setting(
        0.3,
        "two rankings disagree when Kendall's τ-b is below this; or when only one says that all answers are wrong",
        Bound(-1, 1),
    )
    gold: float = setting(
        0.05,
        "share of an annotator's items that are gold ones, whose right ranks are known, as long as there are any",
        SHARE,
    )
    lease_minutes: float = setting(
        30.0, "an item that was opened and not ranked for so long may be given to somebody else [min]", POSITIVE
    )
    active: bool = setting(
        False, "items that the reward models disagree about most come first (feedback/priorities.json)"
    )
    enough: float = setting(
        1.0, "share of the items that must be ranked before feedback.source human lets the run go on", SHARE
    )


@dataclass(frozen=True)
class FeedbackConfig:
    source: Literal["simulated", "human", "file"] = setting(
        "simulated",
        "simulated: annotators of rules and noise; human: doctors, with `zj label`; file: data.root's ranking.jsonl",
    )
    prompts: int = setting(240, "dialogue contexts to answer and rank", AT_LEAST_ONE)
    answers: int = setting(4, "answers for each context, K in the paper", Bound(2))
    temperatures: tuple[float, ...] = setting(
        (0.7, 1.0, 1.0, 1.3),
        "sampling temperature of each of the K answers: unlike answers are worth ranking",
        POSITIVE,
    )
    annotators: int = setting(3, "simulated annotators who rank each item", AT_LEAST_ONE)
    noise: float = setting(
        0.15,
        "SD of a simulated annotator's own error, in units of the utility's spread within an item",
        NOT_NEGATIVE,
    )
    hard_items: float = setting(
        0.3, "share of the items that are hard: there simulated annotators err more, and all of them alike", SHARE
    )
    shared_bias: float = setting(
        1.5, "SD of the error that all simulated annotators share on a hard item, in the same units", NOT_NEGATIVE
    )
    held_out: float = setting(
        0.2,
        "share of the ranked prompts kept back to measure the reward model; of a file, valid/ is kept back instead",
        INNER_SHARE,
    )
    label: LabelConfig = field(default_factory=LabelConfig)


@dataclass(frozen=True)
class RewardTrainConfig(TrainConfig):
    epochs: float = setting(6.0, "passes over the rankings", POSITIVE)
    learning_rate: float = setting(5e-4, "peak learning rate", POSITIVE)
    batch_tokens: int = setting(
        4096, "tokens of one optimizer step over all ranks; all K answers of a prompt stay together", AT_LEAST_ONE
    )
    save_every: int = setting(100, "optimizer steps between checkpoints inside the stage", AT_LEAST_ONE)
    patience: int | None = setting(3, PATIENCE_HELP, AT_LEAST_ONE)
    init: Literal["pretrain", "sft"] = setting(
        "sft", "model that the trunk starts from; the paper starts from the pre-trained one"
    )
    loss: Literal["bradley_terry", "plackett_luce"] = setting(
        "bradley_terry",
        "of a prompt's K answers: every pair by itself, each weighted 1 / C(K, 2) as in the paper; or the whole order",
    )
    noise_weighting: bool = setting(
        False, "learn the annotators' votes, weighted by how well each agrees with the others; off: what most say"
    )
    margin: float = setting(
        0.0,
        "score difference to reach between two answers that all annotators order alike, less where fewer do; 0: none",
        NOT_NEGATIVE,
    )
    ensemble: int = setting(
        1,
        "reward models to train, each from a seed of its own; they score together, and where they differ is ranked "
        "next",
        AT_LEAST_ONE,
    )
    pessimism: float = setting(
        1.0, "what an ensemble's score loses for a spread of one standard deviation between its members", NOT_NEGATIVE
    )
    aspect_weight: float = setting(
        0.3, "weight of the three aspect heads' loss beside the overall head's", NOT_NEGATIVE
    )
