"""What a supervised stage learns: the next token, or the order of K answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zj_ray.algorithms.balance import pack, partition
from zj_ray.algorithms.preference import majority, votes
from zj_ray.algorithms.ranking_loss import bradley_terry, pair_outcomes, plackett_luce
from zj_ray.config.schema import ModelConfig, RewardTrainConfig, TrainConfig
from zj_ray.rankings.aspects import HEADS
from zj_ray.training.lora import add_lora
from zj_ray.training.model import ScalarHeads, TokenLogprobs, load_causal_lm, new_heads
from zj_ray.training.packing import Row, make_row, make_shared_row, plan_rows, shared_length
from zj_ray.training.supervised.examples import Examples
from zj_ray.training.zero_engine import TrainEngine


class Objective:
    """The differences between the supervised stages.

    A *unit* is what must stay in one row: a document, or all answers of a prompt.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def build(self, path: str, model: ModelConfig, seed: int) -> nn.Module:
        raise NotImplementedError

    def units(self, examples: Examples) -> list[list[int]]:
        raise NotImplementedError

    def size(self, examples: Examples, unit: Sequence[int]) -> int:
        """Tokens that a unit takes in a row."""
        return sum(len(examples.token_ids[i]) for i in unit)

    def micro_batches(
        self, examples: Examples, documents: Sequence[int], engine: TrainEngine
    ) -> tuple[list[Row], float]:
        """This rank's rows of a batch (the same number on every rank) and the denominator of the whole batch's loss."""
        raise NotImplementedError

    def loss(self, engine: TrainEngine, examples: Examples, row: Row) -> Tensor:
        """Summed loss of one row; zero, with a gradient path, for an empty one."""
        raise NotImplementedError

    def evaluate(self, engine: TrainEngine, examples: Examples) -> dict[str, Any]:
        raise NotImplementedError


class TokenObjective(Objective):
    """Pre-training and SFT: cross-entropy of the tokens with loss, a mean over all of them in the batch."""

    def build(self, path: str, model: ModelConfig, seed: int) -> nn.Module:
        return _with_lora(TokenLogprobs(load_causal_lm(path, model)), self.config, seed)

    def units(self, examples: Examples) -> list[list[int]]:
        return [[i] for i in range(len(examples))]

    def micro_batches(
        self, examples: Examples, documents: Sequence[int], engine: TrainEngine
    ) -> tuple[list[Row], float]:
        lengths = [len(examples.token_ids[i]) for i in documents]
        rows = plan_rows(lengths, engine.world, self.config.micro_batch_tokens)[engine.rank]
        tokens = sum(len(examples.positions[i]) for i in documents)
        return [[documents[i] for i in row] for row in rows], float(tokens)

    def loss(self, engine: TrainEngine, examples: Examples, row: Row) -> Tensor:
        packed = make_row(examples.token_ids, row or [0]).to(engine.device)
        index = packed.index([examples.positions[i] for i in row] if row else [np.zeros(0)])
        logprobs, _ = engine.engine(packed.input_ids, packed.position_ids, index.to(engine.device))
        return -logprobs.sum()

    def evaluate(self, engine: TrainEngine, examples: Examples) -> dict[str, Any]:
        """Mean loss [nats per token] and perplexity on held-out documents."""
        engine.engine.eval()
        rows, _ = self.micro_batches(examples, range(len(examples)), engine)
        with torch.no_grad():
            losses = [float(self.loss(engine, examples, row)) for row in rows]
        tokens = sum(len(examples.positions[i]) for row in rows for i in row)
        total, count = engine.sum_over_ranks([sum(losses), tokens])
        return {"loss": total / count, "perplexity": math.exp(min(total / count, 50.0)), "tokens": int(count)}


class RankingObjective(Objective):
    """The reward model: the order of a prompt's K answers, overall and on each aspect.

    All K stand in one row, their prompt computed once.
    """

    config: RewardTrainConfig

    def build(self, path: str, model: ModelConfig, seed: int) -> nn.Module:
        return _with_lora(new_heads(path, len(HEADS), model, seed), self.config, seed)

    def units(self, examples: Examples) -> list[list[int]]:
        return _groups(examples, range(len(examples)))

    def size(self, examples: Examples, unit: Sequence[int]) -> int:
        return shared_length([examples.token_ids[i] for i in unit])

    def micro_batches(
        self, examples: Examples, documents: Sequence[int], engine: TrainEngine
    ) -> tuple[list[Row], float]:
        prompts = _groups(examples, documents)
        sizes = [self.size(examples, prompt) for prompt in prompts]
        shares = partition(sizes, engine.world)
        capacity = self.config.micro_batch_tokens
        plans = [[[share[i] for i in row] for row in pack([sizes[i] for i in share], capacity)] for share in shares]
        mine = [[i for p in row for i in prompts[p]] for row in plans[engine.rank]]
        return mine + [[]] * (max(map(len, plans)) - len(mine)), float(len(prompts))

    def _scores(self, engine: TrainEngine, examples: Examples, row: Row) -> Tensor:
        packed = make_shared_row(examples.token_ids, _groups(examples, row or [0])).to(engine.device)
        index = packed.index([examples.positions[i] for i in row] if row else [np.zeros(0)])
        return engine.engine(packed.input_ids, packed.position_ids, index.to(engine.device), packed.attention)

    def loss(self, engine: TrainEngine, examples: Examples, row: Row) -> Tensor:
        scores = self._scores(engine, examples, row)
        # On the CPU: it is many operations on a few numbers, and a GPU would wait for each.
        return self._loss(scores.cpu(), examples, row).to(scores.device)

    def _loss(self, scores: Tensor, examples: Examples, row: Row) -> Tensor:
        assert examples.ranks is not None and examples.weights is not None
        total = scores.sum() * 0.0
        for members, prompt in self._prompts(examples, row):
            ranks, weights = examples.ranks[prompt], examples.weights[prompt[0]]
            heads = range(len(HEADS))
            losses = [order_loss(scores[members, head], ranks[:, head], weights, self.config) for head in heads]
            total = total + losses[0] + self.config.aspect_weight * sum(losses[1:]) / len(losses[1:])
        return total

    def _prompts(self, examples: Examples, row: Row) -> list[tuple[list[int], Row]]:
        """For each prompt in the row: where its answers stand in the row's scores, and which documents they are."""
        number = {document: k for k, document in enumerate(row)}
        return [([number[i] for i in prompt], prompt) for prompt in _groups(examples, row)]

    def evaluate(self, engine: TrainEngine, examples: Examples) -> dict[str, Any]:
        """Loss, pair accuracy of the overall head, and the scores `[documents][heads]` of every held-out answer."""
        assert examples.ranks is not None
        engine.engine.eval()
        rows, prompts = self.micro_batches(examples, range(len(examples)), engine)
        loss, right, pairs = 0.0, 0, 0
        own_scores = np.zeros((len(examples), len(HEADS)))
        with torch.no_grad():
            for row in rows:
                scores = self._scores(engine, examples, row).cpu()
                loss += float(self._loss(scores, examples, row))
                for members, prompt in self._prompts(examples, row):
                    better = torch.from_numpy(majority(examples.ranks[prompt, 0]))
                    outcome = pair_outcomes(scores[members, 0], better)
                    right, pairs = right + outcome[0], pairs + outcome[1]
                own_scores[row] = scores[: len(row)]
        sums = engine.sum_over_ranks([loss, right, pairs, *own_scores.flatten()])
        total_loss, total_right, total_pairs, *all_scores = sums
        return {
            "loss": total_loss / prompts,
            "pair_accuracy": total_right / max(total_pairs, 1),
            "pairs": int(total_pairs),
            "scores": np.reshape(all_scores, own_scores.shape).tolist(),
        }


def order_loss(scores: Tensor, ranks: np.ndarray, weights: np.ndarray, config: RewardTrainConfig) -> Tensor:
    """Loss of one head on one prompt's answers.

    scores: `[K]`; ranks: `[K, annotators]`; weights: `[annotators]`, used with `noise_weighting`. Bradley–Terry learns
    what most annotators say or, with `noise_weighting`, their weighted votes; Plackett–Luce learns every annotator's
    own order, a weighted mean over them.
    """
    counts = weights if config.noise_weighting else np.ones(len(weights))
    if config.loss == "plackett_luce":
        annotators = np.flatnonzero(~np.isnan(ranks).all(axis=0))
        losses = [counts[a] * plackett_luce(scores, torch.from_numpy(ranks[:, a])) for a in annotators]
        return sum(losses, scores.sum() * 0.0) / max(counts[annotators].sum(), np.finfo(float).tiny)
    shares = votes(ranks, counts)
    preference = shares if config.noise_weighting else (shares > 0.5).astype(float)
    margin = config.margin * np.maximum(shares - shares.T, 0.0)  # all annotators agree: the whole margin
    return bradley_terry(scores, *(torch.from_numpy(array).to(scores.dtype) for array in (preference, margin)))


def _with_lora(model: TokenLogprobs | ScalarHeads, config: TrainConfig, seed: int) -> nn.Module:
    add_lora(model.backbone, config.lora, seed)
    return model


def _groups(examples: Examples, documents: Sequence[int]) -> list[list[int]]:
    """The documents by the prompt that they answer, in the order given."""
    assert examples.groups is not None
    groups: dict[int, list[int]] = {}
    for i in documents:
        groups.setdefault(int(examples.groups[i]), []).append(i)
    return list(groups.values())


def make_objective(name: str, config: TrainConfig) -> Objective:
    return {"tokens": TokenObjective, "rankings": RankingObjective}[name](config)
