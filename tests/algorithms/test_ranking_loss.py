"""The losses of the reward model, against what their definitions give when every order is written out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from zj_ray.algorithms.preference import majority, votes
from zj_ray.algorithms.ranking_loss import bradley_terry, plackett_luce

NAN = float("nan")
STRICT, TIED = (
    ([1, 2, 3, 4], [4, 1, 3, 2]),
    ([1, 1, 3, 4], [2, 1, 2, 4], [1, 2, 2, 2], [1, 1, 1, 4], [1, 1, 3, 3], [1, 1, 1, 1]),
)
RANKINGS = (*STRICT, *TIED, [2, NAN, 1, 3], [1, NAN, 1, NAN])


def by_hand(scores: Tensor, ranks: list[float]) -> float:
    """−log of the summed probabilities of all strict orders that agree with the ranks."""
    members = [i for i, rank in enumerate(ranks) if not math.isnan(rank)]
    total = 0.0
    for order in itertools.permutations(members):
        if [ranks[i] for i in order] == sorted(ranks[i] for i in members):
            weights = [math.exp(float(scores[i].detach())) for i in order]
            total += math.prod(weight / sum(weights[k:]) for k, weight in enumerate(weights))
    return -math.log(total)


@pytest.mark.parametrize("ranks", RANKINGS, ids=str)
def test_plackett_luce_is_the_probability_of_all_orders_that_agree_with_the_ranks(ranks: list[float]) -> None:
    scores = torch.tensor([0.3, -1.2, 2.0, 0.7], dtype=torch.float64, requires_grad=True)
    order = torch.tensor(ranks, dtype=torch.float64)
    assert plackett_luce(scores, order).item() == pytest.approx(by_hand(scores, ranks), abs=1e-12)
    assert gradcheck(lambda s: plackett_luce(s, order), scores)


def test_the_probabilities_of_all_orders_sum_to_one() -> None:
    scores = torch.randn(4, dtype=torch.float64)
    orders = [torch.tensor(order, dtype=torch.float64) for order in itertools.permutations(range(4))]
    assert sum(math.exp(-plackett_luce(scores, order)) for order in orders) == pytest.approx(1.0)


@pytest.mark.parametrize("ranks", [[1, 2], [2, 1], [1, 1]], ids=str)
def test_with_two_answers_plackett_luce_is_bradley_terry(ranks: list[float]) -> None:
    scores = torch.tensor([0.4, 1.3], dtype=torch.float64)
    preference = torch.from_numpy(majority(np.array(ranks, dtype=float)[:, None])).double()
    pairwise = bradley_terry(scores, preference).item()
    assert plackett_luce(scores, torch.tensor(ranks, dtype=torch.float64)).item() == pytest.approx(pairwise, abs=1e-15)


def test_plackett_luce_survives_scores_far_apart() -> None:
    scores = torch.tensor([-300.0, 200.0, 500.0], requires_grad=True)
    loss = plackett_luce(scores, torch.tensor([1.0, 1.0, 3.0]))
    loss.backward()
    assert loss.item() == pytest.approx(1100.0 - math.log(2))
    assert torch.isfinite(scores.grad).all()  # type: ignore[arg-type]


def test_every_pair_weighs_one_over_k_choose_two_whatever_is_tied() -> None:
    scores = torch.tensor([1.5, 0.2, -0.3, -1.0], dtype=torch.float64)

    def pair(i: int, j: int) -> float:
        return math.log1p(math.exp(-float(scores[i] - scores[j])))

    strict = torch.from_numpy(majority(np.array([[1.0], [2.0], [3.0], [4.0]]))).double()
    assert bradley_terry(scores, strict).item() == pytest.approx(
        sum(pair(i, j) for i, j in itertools.combinations(range(4), 2)) / 6
    )
    tied = torch.from_numpy(majority(np.array([[1.0], [1.0], [3.0], [3.0]]))).double()
    assert bradley_terry(scores, tied).item() == pytest.approx(sum(pair(i, j) for i in (0, 1) for j in (2, 3)) / 6)
    assert gradcheck(lambda s: bradley_terry(s, strict, 0.5 * strict), scores.requires_grad_())


def test_a_share_of_votes_is_least_lossy_where_the_scores_say_the_same_share() -> None:
    preference = torch.tensor([[0.0, 0.75], [0.25, 0.0]], dtype=torch.float64)
    scores = torch.tensor([math.log(3.0), 0.0], dtype=torch.float64, requires_grad=True)  # σ(log 3) = 3/4
    bradley_terry(scores, preference).backward()
    assert scores.grad is not None and scores.grad.abs().max() < 1e-12


def test_a_margin_asks_for_that_much_more() -> None:
    preference = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    margin = torch.tensor([[0.0, 0.7], [0.0, 0.0]])
    without = bradley_terry(torch.tensor([1.0, 0.0]), preference).item()
    assert bradley_terry(torch.tensor([1.7, 0.0]), preference, margin).item() == pytest.approx(without)


def test_votes_are_shares_of_those_who_ranked_both_by_their_weight() -> None:
    ranks = np.array([[1, 2, 1, NAN], [2, 1, 1, 1], [3, 3, NAN, 2]], dtype=float)
    assert votes(ranks)[0, 1] == pytest.approx(1 / 3) and votes(ranks)[1, 0] == pytest.approx(1 / 3)  # one tied them
    assert votes(ranks)[0, 2] == 1.0 and votes(ranks)[1, 2] == 1.0
    weighted = votes(ranks, np.array([3.0, 1.0, 1.0, 9.0]))
    assert weighted[0, 1] == pytest.approx(3 / 5) and weighted[1, 0] == pytest.approx(1 / 5)
    assert not votes(np.full((2, 2), NAN)).any()
