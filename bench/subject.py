"""What the benchmarks measure on: a random model that stops speaking as often as one likes, in the real PPO stage."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from zj_ray.cluster.connect import connect
from zj_ray.config.schema import Config, ModelConfig
from zj_ray.data.tokenizer import load_tokenizer
from zj_ray.files import read_jsonl, write_jsonl
from zj_ray.ppo.loop import PPOLoop
from zj_ray.rankings.aspects import HEADS
from zj_ray.runs.folder import Run
from zj_ray.stages.context import StageContext
from zj_ray.stages.ppo import started
from zj_ray.stages.prepare import prepare
from zj_ray.training.model import new_heads

# 7.3 M, untied.
SHAPE = LlamaConfig(vocab_size=8000, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=4)
SMOLLM2_135M = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
)
# What TRL's PPOConfig takes so that it trains in float32 on the CPU, and keeps and tells nothing.
QUIET_TRL: dict[str, Any] = {
    "num_sample_generations": 0,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
}


def speaker(shape: LlamaConfig, tokenizer: PreTrainedTokenizerBase, stop: float) -> LlamaForCausalLM:
    """A random model that ends its turn with the probability `stop` at every token: lengths are geometric.

    One channel of the residual stream is the same for every token, no layer writes to it, and the end token's row of
    the head reads nothing else. stop: 0 for a model that never ends its turn.
    """
    torch.manual_seed(0)
    end = tokenizer.eos_token_id
    special = {"eos_token_id": end, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    lm = LlamaForCausalLM(LlamaConfig(**{**shape.to_dict(), **special}))
    with torch.no_grad():
        lm.model.embed_tokens.weight[:, 0] = 1.0
        for layer in lm.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        lm.lm_head.weight[:, 0] = 0.0
        ids = torch.randint(5, len(tokenizer), (8, 32))
        constant = float(lm.model(input_ids=ids).last_hidden_state[..., 0].mean())
        others = float(lm(input_ids=ids).logits.logsumexp(-1).mean())
        lm.lm_head.weight[end] = 0.0
        lm.lm_head.weight[end, 0] = (others + math.log(stop / (1 - stop)) if stop else -30.0) / constant
    return lm


def config(
    shape: LlamaConfig,
    engines: int,
    threads: int,
    max_length: int = 512,
    ranks: int = 1,
    talk: Mapping[str, int] | None = None,
    **ppo: Any,
) -> Config:
    """A PPO run without safety prompts. talk: keys of the section `consultation`. ranks: of policy and critic.

    Every rank has one thread and whole weights (ZeRO 0). Two roles share each place and take turns there, the heavier
    with the lighter, as two cores have room for two at a time.
    """
    base = Config()
    kind: dict[str, Any] = {"safety_share": 0.0, "critic_warmup": 0, "checkpoint_every": 10**6, "kl_bound": 1e9}
    kind["colocate"] = (("policy", "reward"), ("critic", "reference"))
    kind |= ppo
    for role in ("policy", "critic"):
        kind[role] = replace(getattr(base.ppo, role), ranks=ranks, zero_stage=0)
    return replace(
        base,
        name="bench",
        model=ModelConfig(tiny=replace(base.model.tiny, vocab_size=shape.vocab_size), max_length=max_length),
        consultation=replace(base.consultation, **(talk or {})),
        fleet=replace(base.fleet, initial=engines, threads=threads),
        ppo=replace(base.ppo, **kind),
    )


def room(folder: Path, config: Config) -> tuple[Run, PreTrainedTokenizerBase]:
    """The run folder with the synthetic clinic's data and a tokenizer trained on it."""
    run = Run.open(folder, config)
    prepare(run)
    return run, load_tokenizer(run.folder / "tokenizer")


def only_cases(run: Run, openings: Sequence[str | None]) -> None:
    """Leave as many training cases as there are openings, with those words where they are not None.

    Every step then consults all of them.
    """
    path = run.folder / "data" / "train" / "patient_cases.jsonl"
    rows = [row for _, row in read_jsonl(path)][: len(openings)]
    pairs = zip(rows, openings, strict=True)
    write_jsonl(path, [row if words is None else {**row, "opening": words} for row, words in pairs])


def settle(run: Run, lm: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """Put the model where PPO looks for what SFT and the reward stage leave."""
    for stage in ("sft", "reward"):
        tokenizer.save_pretrained(run.stage(stage) / "model")
    lm.save_pretrained(run.folder / "sft" / "model")
    new_heads(run.folder / "sft" / "model", len(HEADS), run.config.model, seed=1).save(run.folder / "reward" / "model")
    run.finish("sft", {})
    run.finish("reward", {"score_mean": 0.0, "score_deviation": 1.0})


@contextmanager
def ppo_stage(run: Run) -> Iterator[PPOLoop]:
    """The PPO stage's own loop, started up and with the first weights published, on a Ray of its own."""
    with connect(run.config.ray, log_folder=run.folder):
        context = StageContext(run)
        try:
            with started(context) as loop:
                loop.fleet.publish(loop.roles.weights(context.versions.next()))
                yield loop
        finally:
            context.release_fleet()
