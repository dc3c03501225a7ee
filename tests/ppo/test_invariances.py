"""What must not change what is learnt: how the batch is cut up, packed and padded, ZeRO's stage, the number of ranks.

The trainer is the real one: `PolicyRank.update` and `CriticRank.update` on DeepSpeed ranks that are processes, with the
plans that the roles make. It is compared with plain torch on a padded `[batch, time]` batch, in loss, in the norm
before clipping, in the gradient of every optimizer step, and in the weights after the last. Adam forgives a gradient
that is wrong by a factor, and clipping hides one: weights alone would prove little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from deepspeed.utils import safe_get_full_grad
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoModel, LlamaConfig, LlamaForCausalLM

import zj_ray.ppo.advantages as advantages_stage
from tests.helpers.ranks import run_ranks
from zj_ray.algorithms.gae import gae
from zj_ray.algorithms.importance import importance_weights
from zj_ray.algorithms.masked import masked_mean
from zj_ray.algorithms.policy_loss import clip_fraction, policy_loss, token_policy_loss
from zj_ray.algorithms.value_loss import value_loss
from zj_ray.algorithms.whitening import whiten
from zj_ray.config.schema import ModelConfig, PPOConfig
from zj_ray.data.trajectory import Trajectory, Turn
from zj_ray.ppo.advantages import estimate_advantages
from zj_ray.rewards.mix import ScoredTurns
from zj_ray.roles.batch import RolloutBatch, pad
from zj_ray.roles.critic import CriticRank
from zj_ray.roles.policy import MiniBatchPlan, PolicyObjective, PolicyRank, UpdateStats
from zj_ray.roles.roles import Roles
from zj_ray.training.lora import plain_weights
from zj_ray.training.model import new_heads
from zj_ray.training.packing import EMPTY, plan_rows
from zj_ray.training.zero_engine import EngineSpec, TrainEngine

SHAPE = LlamaConfig(
    vocab_size=48,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    max_position_embeddings=128,
    initializer_range=0.2,  # attention that is sharp enough for a leak between documents to show
    tie_word_embeddings=True,
    bos_token_id=None,
    eos_token_id=None,
)
# Three optimizer steps. The second has fewer documents than three ranks; seven divide by neither two nor three.
MINI_BATCHES = [[0, 1, 2, 3, 4, 5, 6], [2, 5], [6, 0, 1, 3, 4]]
OBJECTIVE = PolicyObjective(
    temperature=0.7, clip_low=0.2, clip_high=0.28, dual_clip=3.0, entropy_coefficient=0.02, kl_estimator="k3"
)
KL_COEFFICIENT, VALUE_CLIP, LEARNING_RATE = 0.1, 0.2, 1e-3
CLIP_NORM = 3.5  # some of the steps are clipped, some are not
PER_TOKEN = ("old_logprobs", "reference_logprobs", "values", "advantages", "returns", "importance")
ROLES, WORLDS = ("policy", "critic"), (1, 2, 3)
DOCUMENT, SOME, ALL = 1, 64, 1024  # tokens a row: that is one document; a few; all that a rank has
CAPACITIES = {0: (DOCUMENT, ALL), 1: (DOCUMENT,), 2: (DOCUMENT, SOME, ALL), 3: (DOCUMENT, ALL)}  # by ZeRO stage
CASES = [
    (role, stage, capacity) for stage, capacities in CAPACITIES.items() for role in ROLES for capacity in capacities
]


def _batch() -> RolloutBatch:
    """Seven consultations of unequal lengths, two or three turns each, with everything that an update reads."""
    random = np.random.default_rng(0)
    found = []
    for i in range(7):
        trajectory = Trajectory(f"prompt-{i}", 0, 0)
        for _ in range(2 + i % 2):
            trajectory.append_context(random.integers(1, 48, random.integers(1, 12)).tolist())
            written = random.integers(1, 48, random.integers(1, 9)).tolist()
            start, end = trajectory.append_generated(written, [-1.0] * len(written))
            trajectory.turns.append(Turn(start, end, "", 0, "", True))
        trajectory.append_context([1] * (i % 3))  # what the patient said last, which nobody answered
        found.append(trajectory)
    batch = RolloutBatch.of(found, 0)
    for name, centre, spread in (("advantages", 0.0, 1.0), ("returns", 0.5, 1.0), ("values", 0.0, 0.3)):
        setattr(
            batch, name, [(centre + spread * random.standard_normal(n)).astype(np.float32) for n in batch.generated]
        )
    batch.importance = [random.uniform(0.3, 2.0, n).astype(np.float32) for n in batch.generated]
    return batch


@dataclass
class Learnt:
    """gradients: of each optimizer step, before clipping."""

    stats: UpdateStats
    gradients: list[dict[str, Tensor]]
    weights: dict[str, Tensor]


# --- the same in plain torch, on a padded batch ---


class PlainCritic(nn.Module):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.trunk = AutoModel.from_pretrained(folder)
        self.heads = nn.Linear(SHAPE.hidden_size, 1)
        self.heads.weight.data, self.heads.bias.data = _living_head(), torch.zeros(1)

    def forward(self, **inputs: Any) -> Tensor:
        return self.heads(self.trunk(**inputs).last_hidden_state)[..., 0]


class PlainPolicy(nn.Module):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.lm = LlamaForCausalLM.from_pretrained(folder)

    def forward(self, **inputs: Any) -> torch.distributions.Categorical:
        return torch.distributions.Categorical(logits=self.lm(**inputs).logits / OBJECTIVE.temperature)


@dataclass
class Padded:
    """Some of the batch's consultations as `[batch, time]`, padded on one side. generated: the policy's tokens."""

    batch: RolloutBatch
    members: list[int]
    ids: Tensor
    attention: Tensor
    generated: Tensor

    @classmethod
    def of(cls, batch: RolloutBatch, members: list[int], side: str) -> Padded:
        width = max(batch.lengths)
        ids, attention, generated = (torch.zeros(len(members), width, dtype=torch.long) for _ in range(3))
        for row, m in enumerate(members):
            start = width - batch.lengths[m] if side == "left" else 0
            ids[row, start : start + batch.lengths[m]] = torch.from_numpy(batch.token_ids[m])
            attention[row, start : start + batch.lengths[m]] = 1
            generated[row, start + batch.positions[m]] = 1
        return cls(batch, members, ids, attention, generated.bool())

    @property
    def inputs(self) -> dict[str, Any]:
        positions = (self.attention.cumsum(1) - 1).clamp(min=0)
        return {"input_ids": self.ids, "attention_mask": self.attention, "position_ids": positions, "use_cache": False}

    @property
    def mask(self) -> Tensor:
        """`[batch, time - 1]`: the generated tokens at the place of the token before them, which foretells them."""
        return self.generated[:, 1:]

    def spread(self, name: str) -> Tensor:
        """What the batch has for each generated token, `[batch, time - 1]`."""
        arrays = getattr(self.batch, name)
        spread = torch.zeros(self.mask.shape)
        spread[self.mask] = torch.from_numpy(np.concatenate([arrays[m] for m in self.members]))
        return spread

    def gather(self, x: Tensor) -> list[np.ndarray]:
        return [row[mask].numpy() for row, mask in zip(x, self.mask, strict=True)]


def _plain_policy_loss(model: nn.Module, padded: Padded) -> tuple[Tensor, float, float]:
    """Loss, share of ratios outside the clip, entropy: means over the generated tokens."""
    foretold = model(**padded.inputs)
    new = foretold.log_prob(padded.ids.roll(-1, 1))[:, :-1]
    old, mask = padded.spread("old_logprobs"), padded.mask
    # A positive factor on the advantage is one on the loss.
    advantages = padded.spread("importance") * padded.spread("advantages")
    loss = policy_loss(new, old, advantages, mask, OBJECTIVE.clip_low, OBJECTIVE.clip_high, OBJECTIVE.dual_clip)
    to_reference = (padded.spread("reference_logprobs") - new)[mask]
    entropy = foretold.entropy()[:, :-1][mask].mean()
    loss = (
        loss + KL_COEFFICIENT * (to_reference.exp() - 1 - to_reference).mean() - OBJECTIVE.entropy_coefficient * entropy
    )
    ratio = (new - old)[mask].exp()
    outside = ((ratio < 1 - OBJECTIVE.clip_low) | (ratio > 1 + OBJECTIVE.clip_high)).float().mean()
    return loss, float(outside), float(entropy.detach())


def _plain_value_loss(model: nn.Module, padded: Padded) -> tuple[Tensor, float, float]:
    values = model(**padded.inputs)[:, :-1]
    return value_loss(values, padded.spread("values"), padded.spread("returns"), padded.mask, VALUE_CLIP), 0.0, 0.0


def _plain_torch(role: str, folder: Path, batch: RolloutBatch, side: str) -> Learnt:
    model = PlainPolicy(folder / "policy") if role == "policy" else PlainCritic(folder / "critic")
    loss_of = _plain_policy_loss if role == "policy" else _plain_value_loss
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, betas=(0.9, 0.95))
    gradients, norms, means, tokens = [], [], [], []
    for members in MINI_BATCHES:
        optimizer.zero_grad()
        loss, outside, entropy = loss_of(model, Padded.of(batch, members, side))
        loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)))
        optimizer.step()
        means.append([float(loss.detach()), outside, entropy])
        tokens.append(sum(batch.generated[m] for m in members))
    loss, outside, entropy = np.average(means, axis=0, weights=tokens).tolist()
    stats = UpdateStats(loss, float(np.mean(norms)), outside, entropy, LEARNING_RATE, skipped=0)
    return Learnt(stats, gradients, {name: p.detach() for name, p in model.named_parameters()})


# --- the real trainer, on real ranks ---


def _living_head() -> Tensor:
    """The critic starts with a head of zeros, through which no gradient reaches the trunk."""
    return torch.randn(1, SHAPE.hidden_size, generator=torch.Generator().manual_seed(0)) / 4


def _plans(batch: RolloutBatch, ranks: int, capacity: int) -> list[MiniBatchPlan]:
    roles = Roles.__new__(Roles)  # without its actors
    roles.config = replace(PPOConfig(), micro_batch_tokens=capacity)
    return roles._plans(batch, [MINI_BATCHES], ranks)


def _start(
    role: str,
    folder: Path,
    stage: int,
    learning_rate: float = LEARNING_RATE,
    objective: PolicyObjective = OBJECTIVE,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> Any:
    config = ModelConfig(dtype=dtype)
    rank: Any = PolicyRank(config, 0, 60, objective) if role == "policy" else CriticRank(config, 0, 60, VALUE_CLIP)
    model = rank.load_model(str(folder / role))
    if role == "critic":
        model.heads.weight.data = _living_head()
    rank.engine = TrainEngine(model, EngineSpec(learning_rate, CLIP_NORM, stage, dtype=dtype))
    rank.rank, rank.world = rank.engine.rank, rank.engine.world
    return rank


def _update(rank: Any, batch: RolloutBatch, plans: Sequence[MiniBatchPlan]) -> UpdateStats:
    return rank.update(batch, plans, *([KL_COEFFICIENT] if isinstance(rank, PolicyRank) else []))


def _weights(rank: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in rank.engine.gather(plain_weights(rank.engine.module))}


def _learn(rank: Any, batch: RolloutBatch, plans: Sequence[MiniBatchPlan]) -> Learnt:
    """An update, with an eye on the gradient just before each optimizer step."""
    gradients, step = [], rank.engine.engine.step

    def watched() -> None:
        named = rank.engine.module.named_parameters()
        gradients.append({name: safe_get_full_grad(p).clone() for name, p in named})
        step()

    rank.engine.engine.step = watched
    stats = _update(rank, batch, plans)
    return Learnt(stats, gradients, _weights(rank))


def _scored(rank: Any, batch: RolloutBatch, capacity: int) -> list[np.ndarray]:
    """Log-probs or values of the generated tokens, as the roles score a batch before they learn from it."""
    score = rank.logprobs if isinstance(rank, PolicyRank) else rank.values
    parts: list[Any] = [None] * rank.world
    torch.distributed.all_gather_object(
        parts, score(batch.token_ids, batch.positions, plan_rows(batch.lengths, rank.world, capacity))
    )
    merged = {i: array for part in parts for i, array in part.items()}
    return [merged[i] for i in range(len(batch))]


def _first_steps(folder: Path, batch: RolloutBatch, world: int) -> tuple[UpdateStats, UpdateStats, UpdateStats]:
    """The policy's first and second step on what it has just scored, and the critic's first on returns that it foresaw.

    Scored in other rows than those learnt from, and with a clip so narrow that a ratio of 1.00001 is outside.
    """
    policy, critic = (
        _start("policy", folder, 2, objective=PolicyObjective(0.7, 1e-5, 1e-5)),
        _start("critic", folder, 2),
    )
    exact = replace(
        batch, old_logprobs=_scored(policy, batch, SOME), importance=[np.ones(n, np.float32) for n in batch.generated]
    )
    exact.values = exact.returns = _scored(critic, batch, SOME)
    plan = _plans(batch, world, ALL)[:1]
    return _update(policy, exact, plan), _update(policy, exact, plan), _update(critic, exact, plan)


def _twice_without_a_learning_rate(role: str, folder: Path, stage: int, batch: RolloutBatch, world: int) -> list[Any]:
    rank = _start(role, folder, stage, learning_rate=0.0)
    plans = _plans(batch, world, SOME)
    return [_weights(rank), _update(rank, batch, plans), _update(rank, batch, plans), _weights(rank)]


def _one_step(role: str, folder: Path, batch: RolloutBatch, world: int, dtype: Any) -> tuple[UpdateStats, Any]:
    rank = _start(role, folder, 2, dtype=dtype)
    return _update(rank, batch, _plans(batch, world, SOME)[:1]), _weights(rank)


def _with_garbage_in_the_rest(role: str, folder: Path, batch: RolloutBatch, world: int) -> tuple[Learnt, Learnt]:
    """The mini-batch of two documents, and again when all that the others have for their tokens is NaN or infinite."""
    plan = _plans(batch, world, SOME)[1:2]
    poisoned = replace(batch)
    for garbage, name in zip(cycle((np.nan, np.inf, -np.inf)), PER_TOKEN):
        arrays = getattr(batch, name)
        setattr(poisoned, name, [x if m in MINI_BATCHES[1] else np.full_like(x, garbage) for m, x in enumerate(arrays)])
    return _learn(_start(role, folder, 2), batch, plan), _learn(_start(role, folder, 2), poisoned, plan)


def _find(rank: int, world: int, folder: Path) -> None:
    batch = torch.load(folder / "batch.pt", weights_only=False)
    found: dict[Any, Any] = {"first": _first_steps(folder, batch, world)}
    for role in ROLES:
        if world == 3:
            found["garbage", role] = _with_garbage_in_the_rest(role, folder, batch, world)
        if world == 2:
            found |= {
                ("still", role, stage): _twice_without_a_learning_rate(role, folder, stage, batch, world)
                for stage in CAPACITIES
            }
            found["half", role] = [_one_step(role, folder, batch, world, dtype) for dtype in ("bfloat16", "float32")]
    for role, stage, capacity in CASES:
        found[role, stage, capacity] = _learn(_start(role, folder, stage), batch, _plans(batch, world, capacity))
    torch.save(found, folder / f"{world}-{rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both models, and a batch whose old log-probs and values are some way off, so that the clips bind."""
    folder = tmp_path_factory.mktemp("invariances")
    torch.manual_seed(0)
    LlamaForCausalLM(SHAPE).save_pretrained(folder / "policy")
    new_heads(folder / "policy", 4, ModelConfig(), 0).save(folder / "critic")
    batch, random = _batch(), np.random.default_rng(1)
    everyone = Padded.of(batch, list(range(len(batch))), "right")
    with torch.no_grad():
        logprobs = everyone.gather(
            PlainPolicy(folder / "policy")(**everyone.inputs).log_prob(everyone.ids.roll(-1, 1))[:, :-1]
        )
        values = everyone.gather(PlainCritic(folder / "critic")(**everyone.inputs)[:, :-1])
    for name, exact in (("old_logprobs", logprobs), ("reference_logprobs", logprobs), ("values", values)):
        setattr(batch, name, [x + 0.2 * random.standard_normal(len(x)).astype(np.float32) for x in exact])
    torch.save(batch, folder / "batch.pt")
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> dict[int, list[dict[Any, Any]]]:
    """For each number of ranks what each of them found."""
    found = {}
    for world in WORLDS:
        run_ranks(world, _find, folder)
        found[world] = [torch.load(folder / f"{world}-{rank}.pt", weights_only=False) for rank in range(world)]
    return found


@pytest.fixture(scope="module")
def plain(folder: Path) -> dict[tuple[str, str], Learnt]:
    """By role and padding side."""
    batch = torch.load(folder / "batch.pt", weights_only=False)
    return {(role, side): _plain_torch(role, folder, batch, side) for role in ROLES for side in ("left", "right")}


def _assert_same(ours: Learnt, theirs: Learnt) -> None:
    """Equal but for rounding, which Adam makes a few percent of a step where a gradient is near zero."""
    assert astuple(ours.stats) == pytest.approx(astuple(theirs.stats), rel=1e-5, abs=1e-6)
    assert len(ours.gradients) == len(theirs.gradients)
    for mine, other in zip(ours.gradients, theirs.gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.weights, theirs.weights, atol=5e-5, rtol=0)


@pytest.mark.parametrize("role", ROLES)
def test_the_side_of_the_padding_changes_nothing(plain: dict[tuple[str, str], Learnt], role: str) -> None:
    _assert_same(plain[role, "left"], plain[role, "right"])


@pytest.mark.parametrize(("role", "stage", "capacity"), CASES)
@pytest.mark.parametrize("world", WORLDS)
def test_rows_zero_stage_and_ranks_change_nothing(
    ranks: dict[int, list[dict[Any, Any]]],
    plain: dict[tuple[str, str], Learnt],
    role: str,
    world: int,
    stage: int,
    capacity: int,
) -> None:
    found = [rank[role, stage, capacity] for rank in ranks[world]]
    _assert_same(found[0], plain[role, "right"])
    assert all(learnt.stats == found[0].stats for learnt in found)


@pytest.mark.parametrize("role", ROLES)
def test_half_precision_learns_about_the_same(ranks: dict[int, list[dict[Any, Any]]], role: str) -> None:
    """In the first step: later ones differ more, where a ratio or a value lies on the other side of a clip."""
    (stats, weights), (exact, exact_weights) = ranks[2][0]["half", role]
    assert stats.loss == pytest.approx(exact.loss, rel=0.02, abs=0.002) and stats.loss != exact.loss
    assert stats.grad_norm == pytest.approx(exact.grad_norm, rel=0.03) and stats.skipped == 0
    assert all(weight.dtype == torch.bfloat16 for weight in weights.values())
    for name, weight in weights.items():
        if "proj" in name:  # what has not learnt at all is a whole learning rate away
            assert (weight.float() - exact_weights[name]).abs().mean() < 0.75 * LEARNING_RATE, name


def test_the_cases_above_are_as_different_as_they_claim(folder: Path, plain: dict[tuple[str, str], Learnt]) -> None:
    batch = torch.load(folder / "batch.pt", weights_only=False)
    rows = [[len(plan.rows[0]) for plan in _plans(batch, 1, capacity)] for capacity in (DOCUMENT, SOME, ALL)]
    assert rows == [[7, 2, 5], [4, 1, 3], [1, 1, 1]]
    assert EMPTY in [row for rank in _plans(batch, 3, DOCUMENT)[1].rows for row in rank]
    policy, critic = plain["policy", "right"], plain["critic", "right"]
    assert 0.1 < policy.stats.clip_fraction < 0.9
    for learnt in (policy, critic):
        norms = [float(nn.utils.get_total_norm(gradient.values())) for gradient in learnt.gradients]
        assert min(norms) < CLIP_NORM < max(norms)


@pytest.mark.parametrize("world", WORLDS)
def test_the_first_on_policy_step_has_ratio_one(
    ranks: dict[int, list[dict[Any, Any]]], folder: Path, world: int
) -> None:
    first, second, critic = ranks[world][0]["first"]
    advantages = np.concatenate(torch.load(folder / "batch.pt", weights_only=False).advantages)
    assert first.clip_fraction == 0.0 and first.loss == pytest.approx(-advantages.mean(), abs=1e-6)
    assert second.clip_fraction > 0.9  # the narrow clip sees a single step
    assert critic.loss < 1e-10 and critic.grad_norm < 1e-4


@pytest.mark.parametrize("stage", CAPACITIES)
@pytest.mark.parametrize("role", ROLES)
def test_a_learning_rate_of_zero_leaves_weights_and_metrics_still(
    ranks: dict[int, list[dict[Any, Any]]], role: str, stage: int
) -> None:
    before, first, second, after = ranks[2][0]["still", role, stage]
    assert first == second and first.grad_norm > 0 and first.skipped == 0
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("role", ROLES)
def test_garbage_in_documents_of_no_row_changes_nothing_even_where_one_fills_an_empty_row(
    ranks: dict[int, list[dict[Any, Any]]], role: str
) -> None:
    for rank in ranks[3]:
        clean, poisoned = rank["garbage", role]
        assert clean.stats == poisoned.stats and clean.stats.skipped == 0 and clean.stats.grad_norm > 0
        assert all(torch.equal(clean.weights[name], poisoned.weights[name]) for name in clean.weights)


# --- garbage in masked slots of the algorithms ---

Algorithm = Callable[..., Tensor | tuple[Tensor, ...]]
ALGORITHMS: dict[str, tuple[int, Algorithm]] = {  # how many tensors `[batch, time]` each reads, before the mask
    "gae": (2, lambda rewards, values, mask: gae(rewards, values, mask, 0.9, 0.8)),
    "whiten": (1, whiten),
    "masked_mean": (1, masked_mean),
    "policy_loss": (3, lambda new, old, advantages, mask: policy_loss(new, old, advantages, mask, 0.2, 0.28)),
    "token_policy_loss": (
        3,
        lambda new, old, advantages, mask: token_policy_loss(new, old, advantages, mask, 0.2, 0.28, dual_clip=2.0),
    ),
    "clip_fraction": (2, lambda new, old, mask: clip_fraction(new, old, mask, 0.2, 0.28)),
    "value_loss": (3, lambda values, old, returns, mask: value_loss(values, old, returns, mask, 0.2)),
    "importance of a token": (2, lambda new, old, mask: importance_weights(new, old, mask, 2.0)),
    "importance of a row": (2, lambda new, old, mask: importance_weights(new, old, mask, 2.0, "sequence")),
}
GARBAGE = st.sampled_from([float("nan"), float("inf"), float("-inf"), 3e38, -3e38])


@st.composite
def _layouts(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Where the generated tokens stand, `[batch, time]` bool, a row may have none; a seed for what is there."""
    batch, time = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    mask = draw(st.lists(st.lists(st.booleans(), min_size=time, max_size=time), min_size=batch, max_size=batch))
    return torch.tensor(mask), draw(st.integers(0, 10_000))


def _tensors(mask: Tensor, count: int, seed: int, garbage: Callable[[], float]) -> list[Tensor]:
    """The same values for the generated tokens of every layout with as many of them; garbage elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for _ in range(count):
        x = torch.tensor([[garbage() for _ in row] for row in mask])
        x[mask] = torch.randn(int(mask.sum()), generator=generator)
        tensors.append(x.requires_grad_())
    return tensors


def _results(algorithm: Algorithm, tensors: list[Tensor], mask: Tensor) -> list[Tensor]:
    """What the algorithm gives, and the gradient of its sum where it has one."""
    found = algorithm(*tensors, mask)
    outputs = list(found) if isinstance(found, tuple) else [found]
    if outputs[0].requires_grad:
        outputs += torch.autograd.grad(
            sum(x.sum() for x in outputs), tensors, allow_unused=True, materialize_grads=True
        )  # type: ignore[arg-type]
    return [x.detach() for x in outputs]


@pytest.mark.parametrize("name", ALGORITHMS)
@settings(deadline=None, max_examples=60)
@given(layout=_layouts(), data=st.data())
def test_garbage_in_masked_slots_changes_nothing(name: str, layout: tuple[Tensor, int], data: st.DataObject) -> None:
    (mask, seed), (count, algorithm) = layout, ALGORITHMS[name]
    clean = _results(algorithm, _tensors(mask, count, seed, lambda: 0.0), mask)
    dirty = _results(algorithm, _tensors(mask, count, seed, lambda: data.draw(GARBAGE)), mask)
    assert all(
        torch.equal(mine, theirs) and torch.isfinite(mine).all() for mine, theirs in zip(dirty, clean, strict=True)
    )


@pytest.mark.parametrize("name", ALGORITHMS)
@settings(deadline=None, max_examples=60)
@given(layout=_layouts())
def test_where_the_masked_slots_stand_changes_nothing(name: str, layout: tuple[Tensor, int]) -> None:
    (mask, seed), (count, algorithm) = layout, ALGORITHMS[name]
    left_padded = mask.sort(dim=1).values
    spread, together = (
        _results(algorithm, _tensors(m, count, seed, lambda: float("nan")), m) for m in (mask, left_padded)
    )
    for mine, theirs in zip(spread, together, strict=True):
        torch.testing.assert_close(
            mine[mask] if mine.ndim else mine, theirs[left_padded] if theirs.ndim else theirs, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("kl_in", ["reward", "loss"])
@pytest.mark.parametrize("advantage", ["gae", "grpo", "rloo", "reinforce_pp"])
def test_garbage_where_the_batch_is_padded_changes_no_advantage(
    monkeypatch: pytest.MonkeyPatch, folder: Path, advantage: Any, kl_in: Any
) -> None:
    config = replace(PPOConfig(), advantage=advantage, kl_in=kl_in, kl_estimator="k3")
    found = []
    for garbage in (0.0, float("nan"), float("inf")):
        batch = torch.load(folder / "batch.pt", weights_only=False)
        batch.prompts = [0, 0, 0, 1, 1, 1, 1]
        scored = [
            ScoredTurns(rewards=[0.1 * i + t for t in range(len(ends))]) for i, ends in enumerate(batch.turn_ends)
        ]

        def dirty(arrays: Sequence[np.ndarray], garbage: float = garbage) -> tuple[Tensor, Tensor]:
            padded, mask = pad(arrays)
            return torch.where(mask, padded, garbage), mask

        monkeypatch.setattr(advantages_stage, "pad", dirty)
        agreement = estimate_advantages(batch, scored, 0.1, config)
        found.append(
            [
                np.array(astuple(agreement)),
                *batch.advantages,
                *batch.importance,
                *(batch.returns if advantage == "gae" else []),
            ]
        )
    for other in found[1:]:
        assert all(np.array_equal(mine, clean, equal_nan=True) for mine, clean in zip(other, found[0], strict=True))
    assert all(np.isfinite(array).all() for array in found[0][1:])


def test_a_log_prob_that_a_patients_token_cannot_have_is_never_read() -> None:
    trajectory = Trajectory("prompt", 0, 0)
    trajectory.append_context([1, 2])
    trajectory.turns.append(Turn(*trajectory.append_generated([3], [-1.0]), "", 0, "", True))
    trajectory.append_context([4])
    trajectory.turns.append(Turn(*trajectory.append_generated([5, 6], [-2.0, -3.0]), "", 0, "", True))
    trajectory.behaviour_logprobs = [
        x if mine else float("nan") for x, mine in zip(trajectory.behaviour_logprobs, trajectory.loss_mask, strict=True)
    ]
    assert RolloutBatch.of([trajectory], 0).behaviour_logprobs[0].tolist() == [-1.0, -2.0, -3.0]
