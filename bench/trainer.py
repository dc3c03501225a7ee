"""The trainer against a bare torch loop on the same packed rows, and what packing and balancing leave unused.

`python -m bench.trainer`. Both train the same model on the same rows and take turns, step by step. *bare*: the same
module, fused AdamW and gradient clipping, nothing else. *as transformers packs*: the same loop with transformers' own
attention over packed rows (a block-diagonal mask), cross-entropy over the logits and torch's default AdamW, which is
what one would write first.

Padding is what is computed without being a token of a document: rows are as long as their documents, so it is only the
documents that fill up a rank with fewer rows. Imbalance: how many more tokens the fullest rank has than the mean.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from bench.arithmetic import parameters, trunk_flops
from bench.ceilings import measure, table
from bench.subject import SHAPE
from zj_ray.cluster.ports import free_port
from zj_ray.config.schema import TrainConfig
from zj_ray.data.chat import ChatFormat
from zj_ray.data.datasets import load_dialogues
from zj_ray.data.tokenizer import train_tokenizer
from zj_ray.training.model import TokenLogprobs
from zj_ray.training.packing import Row, make_row, plan_rows
from zj_ray.training.supervised.examples import Examples, from_encoded
from zj_ray.training.supervised.objective import TokenObjective
from zj_ray.training.zero_engine import EngineSpec, TrainEngine, join_process_group

LIMIT, BATCH_TOKENS = 512, 4096
Step = Callable[[list[int]], None]


def real_dialogues(root: Path) -> Examples:
    """The multi-turn dialogues of a data folder as the SFT stage sees them."""
    dialogues = [dialogue for dialogue in load_dialogues(root, "train") if len(dialogue) > 2]
    texts = [message.content for dialogue in dialogues for message in dialogue]
    chat = ChatFormat(train_tokenizer(texts, SHAPE.vocab_size, LIMIT))
    return from_encoded([chat.conversation(dialogue, limit=LIMIT) for dialogue in dialogues])


def made_up_dialogues(count: int = 400) -> Examples:
    """Random tokens with lengths spread like those of dialogues (log-normal), loss on the latter half."""
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.lognormal(5.3, 0.5, count).astype(int), 16, LIMIT)
    return Examples([draw.integers(5, SHAPE.vocab_size, n) for n in lengths], [np.arange(n // 2, n) for n in lengths])


def batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Documents in a random order, cut into batches of at most `batch_tokens`."""
    whole: list[list[int]] = [[]]
    tokens = 0
    for i in np.random.default_rng(0).permutation(len(lengths)).tolist():
        if whole[-1] and tokens + lengths[i] > batch_tokens:
            whole.append([])
            tokens = 0
        whole[-1].append(i)
        tokens += lengths[i]
    return whole[:-1]


def balance(lengths: Sequence[int], ranks: int, batch_tokens: int, row_tokens: int) -> tuple[float, float]:
    """Padding and imbalance, as shares of the tokens, over all batches."""
    computed = useful = fullest = 0
    for members in batches(lengths, batch_tokens):
        sizes = [lengths[i] for i in members]
        plans = plan_rows(sizes, ranks, row_tokens)
        loads = [sum(sum(sizes[d] for d in row) or min(sizes) for row in rank) for rank in plans]
        computed, useful = computed + sum(loads), useful + sum(sizes)
        fullest += ranks * max(sum(sizes[d] for row in rank for d in row) for rank in plans)
    return computed / useful - 1, fullest / useful - 1


def _model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(deepcopy(SHAPE))  # a model keeps its attention in its config: each needs its own


def ours(examples: Examples, stage: int) -> Step:
    engine = TrainEngine(TokenLogprobs(_model()), EngineSpec(1e-4, 1.0, stage))
    objective = TokenObjective(TrainConfig())

    def step(documents: list[int]) -> None:
        rows, denominator = objective.micro_batches(examples, documents, engine)
        assert engine.train_batch(rows, lambda _, row: objective.loss(engine, examples, row), denominator).applied

    return step


def _bare(examples: Examples, model: torch.nn.Module, fused: bool, loss: Callable[[Row], Tensor]) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, betas=(0.9, 0.95), fused=fused)

    def step(documents: list[int]) -> None:
        rows = plan_rows([len(examples.token_ids[i]) for i in documents], 1, TrainConfig().micro_batch_tokens)[0]
        count = sum(len(examples.positions[i]) for i in documents)
        optimizer.zero_grad()
        for row in rows:
            (loss([documents[i] for i in row]) / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def bare(examples: Examples) -> Step:
    model = TokenLogprobs(_model())

    def loss(members: Row) -> Tensor:
        row = make_row(examples.token_ids, members)
        return -model(row.input_ids, row.position_ids, row.index([examples.positions[i] for i in members]))[0].sum()

    return _bare(examples, model, True, loss)


def first_draft(examples: Examples) -> Step:
    model = _model()

    def loss(members: Row) -> Tensor:
        row = make_row(examples.token_ids, members)
        index = row.index([examples.positions[i] for i in members])
        packed = {"input_ids": row.input_ids, "position_ids": row.position_ids}
        logits = model(**packed, use_cache=False, logits_to_keep=index - 1).logits[0]
        return torch.nn.functional.cross_entropy(logits, row.input_ids[0, index], reduction="sum")

    return _bare(examples, model, False, loss)


def compare(examples: Examples, rounds: int, flops: float) -> None:
    names = {f"zj_ray, ZeRO {stage}": ours(examples, stage) for stage in (0, 2)}
    names |= {"bare": bare(examples), "as transformers packs": first_draft(examples)}
    lengths = [len(x) for x in examples.token_ids]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    work = batches(lengths, BATCH_TOKENS)
    for number in range(rounds + 1):
        documents = work[number % len(work)]
        for name, step in names.items():
            started = time.perf_counter()
            step(documents)
            if number:
                seconds[name].append((time.perf_counter() - started) / sum(lengths[i] for i in documents))
    tokens, with_loss = sum(lengths), sum(map(len, examples.positions))
    per_token = 3 * (trunk_flops(SHAPE, lengths) + 2 * parameters(SHAPE)[1] * with_loss) / tokens
    rows = []
    for name, times in seconds.items():
        middle = float(np.median(times))
        ratio = float(np.median([b / o for b, o in zip(seconds["bare"], times, strict=True)]))
        rows.append((name, 1 / middle, f"{100 * ratio:.0f} %", f"{100 * per_token / middle / flops:.0f} %"))
    share = "of bare (median of rounds; target 95 %)"
    print(table(("loop", "tokens/s (median)", share, "of the machine's product rate"), rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    data = "folder with train/*.jsonl; default: ZJ_REAL_DATA"
    parser.add_argument("--data", type=Path, default=os.environ.get("ZJ_REAL_DATA"), help=data)
    threads = "as many as a rank has; more than are free make every figure meaningless"
    parser.add_argument("--threads", type=int, default=1, help=threads)
    options = parser.parse_args()
    ceilings = measure(options.threads)
    print(f"{ceilings}\n")
    torch.set_num_threads(options.threads)
    join_process_group(0, 1, "127.0.0.1", free_port(), timeout=60)
    examples = real_dialogues(Path(options.data)) if options.data else made_up_dialogues()
    lengths = [len(x) for x in examples.token_ids]
    kind = "real" if options.data else "made-up"
    print(f"{len(lengths)} {kind} dialogues of {min(lengths)} to {max(lengths)} tokens, mean {np.mean(lengths):.0f}\n")
    compare(examples, options.rounds, ceilings.flops)
    rows = []
    config = TrainConfig()
    for ranks in (2, 4, 8):
        batch_tokens = ranks * config.batch_tokens // 2
        padding, imbalance = balance(lengths, ranks, batch_tokens, config.micro_batch_tokens)
        rows.append((ranks, f"{100 * padding:.2f} %", f"{100 * imbalance:.2f} %"))
    print("\n" + table(("ranks", "padding (target 5 %)", "imbalance (target 5 %)"), rows))


if __name__ == "__main__":
    main()
