"""Does it learn? Problems with a known optimum, by every advantage estimator; and does it keep a bound?

`make learning` takes about ten minutes and draws docs/learning_*.svg. The trainer is the real one (`PolicyRank` and
`CriticRank` on DeepSpeed, packed rows, `estimate_advantages`); only the sampling is done here in plain torch, as an
engine would cost more than these problems do.

*bandit*: one token, one prompt; one of the tokens earns 1, the others less. *consultation*: two doctor turns with a
patient between them. Only a patient who was asked in the first turn says which of two advices is right, and only then
does the right one earn 1 in the second turn: who doesn't ask earns nothing, who asks and guesses a half. *costly*: the
same, but asking costs 0.1 at once, so that a policy must see that it pays later.

Two problems tempt: what is best paid is unsafe, and the mean cost of a consultation is to stay within a bound.
*tempting bandit*: the best token costs, the second best does not. *emergency*: a quarter of the patients who are asked
voice a red flag; the right advice earns 1 as ever, sending them to emergency care half of it, anything but that costs.
Each is solved without a constraint too, to see that it tempts. What a step costs swings around what the constraint aims
at, so it aims at less than the bound.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from zj_ray.algorithms.whitening import whiten
from zj_ray.cluster.ports import free_port
from zj_ray.config.schema import ModelConfig, PPOConfig, SafetyConfig
from zj_ray.data.trajectory import Trajectory, Turn
from zj_ray.evaluation.plots import line_plot
from zj_ray.ppo.advantages import estimate_advantages
from zj_ray.ppo.ahead import check_staleness
from zj_ray.ppo.constraint import SafetyConstraint, costs_by_kind
from zj_ray.rewards.mix import ScoredTurns
from zj_ray.roles.batch import RolloutBatch, pad, unpad
from zj_ray.roles.critic import CriticRank
from zj_ray.roles.policy import MiniBatchPlan, PolicyObjective, PolicyRank
from zj_ray.training.model import ScalarHeads, TokenLogprobs
from zj_ray.training.packing import plan_rows
from zj_ray.training.zero_engine import EngineSpec, TrainEngine, join_process_group

VOCABULARY, OPENING, FLAG, ASK, SILENCE, UNSAFE, REFER = 8, 1, 2, 3, 4, 7, 7
ROW_TOKENS = 768  # attention in a row costs its square
ADVICE = (5, 6)  # what a patient who was asked says is right, and what the doctor may say
AIM = 0.5  # of the bound
ESTIMATORS = ("gae", "grpo", "rloo", "reinforce_pp")
DOCS = Path(__file__).parents[1] / "docs"
Estimate = Callable[..., object]


@dataclass(frozen=True)
class Problem:
    """A problem with a known optimum.

    turns: of the doctor; turn_tokens, patient_tokens: of each turn; cost: of asking; optimum: the best mean reward
    within the bound; bound: most that a consultation may cost in safety, on average; patients: kinds of them; last: how
    many steps of the end are judged.
    """

    name: str
    turns: int
    turn_tokens: int
    patient_tokens: int
    optimum: float
    steps: int
    cost: float = 0.0
    bound: float = float("inf")
    patients: int = 2
    last: int = 10

    def reply(self, turn: Sequence[int], secret: int) -> list[int]:
        """The patient's words to the doctor's first turn."""
        return [ADVICE[secret] if turn[0] == ASK else SILENCE] * self.patient_tokens

    def rewards(self, turns: Sequence[Sequence[int]], secret: int) -> list[float]:
        if self.turns == 1:
            return [1.0 if turns[0][0] == ASK else 0.05 * (turns[0][0] % 8)]
        asks = turns[0][0] == ASK
        return [-self.cost * asks, float(asks and turns[1][0] == ADVICE[secret])]

    def safety_costs(self, turns: Sequence[Sequence[int]], secret: int) -> list[float]:
        """The safety cost of each turn."""
        return [0.0] * self.turns


class TemptingBandit(Problem):
    def rewards(self, turns: Sequence[Sequence[int]], secret: int) -> list[float]:
        return [{UNSAFE: 1.0, ASK: 0.8}.get(turns[0][0], 0.05 * turns[0][0])]

    def safety_costs(self, turns: Sequence[Sequence[int]], secret: int) -> list[float]:
        return [float(turns[0][0] == UNSAFE)]


class Emergency(Problem):
    """The secret says which advice is right, and whether a red flag will be voiced."""

    def reply(self, turn: Sequence[int], secret: int) -> list[int]:
        words, half = super().reply(turn, secret % 2), self.patient_tokens // 2
        return words[:half] + [FLAG] * half if self.flagged(turn, secret) else words

    def rewards(self, turns: Sequence[Sequence[int]], secret: int) -> list[float]:
        advised = super().rewards(turns, secret % 2)[1]
        return [0.0, 0.5 if self.flagged(turns[0], secret) and turns[1][0] == REFER else advised]

    def safety_costs(self, turns: Sequence[Sequence[int]], secret: int) -> list[float]:
        return [0.0, float(self.flagged(turns[0], secret) and turns[1][0] != REFER)]

    def flagged(self, turn: Sequence[int], secret: int) -> bool:
        return turn[0] == ASK and secret >= 6


BANDIT = Problem("bandit", turns=1, turn_tokens=1, patient_tokens=0, optimum=1.0, steps=30)
CONSULTATION = Problem("consultation", turns=2, turn_tokens=2, patient_tokens=40, optimum=1.0, steps=80)
COSTLY = replace(CONSULTATION, name="costly", optimum=0.9, cost=0.1, steps=120)
# The optimum: what the safe earn, and for as many unsafe ones as the bound lets pass what they earn beyond that.
TEMPTING = TemptingBandit("tempting bandit", 1, 1, 0, optimum=0.8 + 0.1 * 0.2, steps=150, bound=0.1, last=50)
EMERGENCY = Emergency("emergency", 2, 2, 40, optimum=0.875 + 0.05 * 0.5, steps=240, bound=0.05, patients=8, last=50)


class Learner:
    """A tiny Llama as policy, another as critic, on one rank in this process."""

    def __init__(self, problem: Problem, config: PPOConfig, seed: int) -> None:
        if not torch.distributed.is_initialized():
            join_process_group(0, 1, "127.0.0.1", free_port(), timeout=60)
        torch.manual_seed(seed)
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
        shape = LlamaConfig(vocab_size=VOCABULARY, **sizes)
        self.problem, self.config = problem, config
        self.random = np.random.default_rng(seed)
        model = ModelConfig()
        entropy = config.entropy_coefficient
        objective = PolicyObjective(1.0, config.clip_low, config.clip_high, entropy_coefficient=entropy)
        self.policy = PolicyRank(model, seed, 60, objective)
        self.critic = CriticRank(model, seed, 60, config.value_clip)
        lm, heads = TokenLogprobs(LlamaForCausalLM(shape)), ScalarHeads(LlamaModel(shape), 1)
        self.policy.engine = TrainEngine(lm, EngineSpec(config.learning_rate, 1.0, 0))
        self.critic.engine = TrainEngine(heads, EngineSpec(config.critic_learning_rate, 1.0, 0))
        self.policy.rank = self.critic.rank = self.updates = 0
        self.safety = SafetyConstraint(config.safety)
        self.ahead: deque[tuple[list[Trajectory], list[ScoredTurns]]] = deque()  # held, not yet learnt from

    def rollout(self) -> tuple[list[Trajectory], list[ScoredTurns]]:
        """One step's consultations; the samples of a prompt share the patient's secret."""
        count, problem = self.config.consultations, self.problem
        secrets = self.random.integers(0, problem.patients, count // self.config.samples).repeat(self.config.samples)
        trajectories = [Trajectory(f"prompt-{i // self.config.samples}", i, 0) for i in range(count)]
        words: list[list[list[int]]] = [[] for _ in trajectories]
        for trajectory in trajectories:
            trajectory.append_context([OPENING])
        for turn in range(problem.turns):
            tokens, logprobs = self._speak([t.token_ids for t in trajectories])
            for i, trajectory in enumerate(trajectories):
                start, end = trajectory.append_generated(tokens[i], logprobs[i])
                version = self.updates
                trajectory.turns.append(Turn(start, end, "", weight_version=version, engine="", finished=True))
                words[i].append(tokens[i])
                if turn + 1 < problem.turns:
                    trajectory.append_context(problem.reply(tokens[i], secrets[i]))
        talks = list(zip(words, secrets, strict=True))
        return trajectories, [ScoredTurns(problem.rewards(*talk), problem.safety_costs(*talk)) for talk in talks]

    @torch.no_grad()
    def _speak(self, contexts: list[list[int]]) -> tuple[list[list[int]], list[list[float]]]:
        lm = self.policy.engine.module.lm
        ids, logprobs = torch.tensor(contexts), []
        before = ids.shape[1]
        for _ in range(self.problem.turn_tokens):
            distribution = torch.log_softmax(lm(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1], -1)
            token = torch.multinomial(distribution.exp(), 1)
            logprobs.append(distribution.gather(1, token))
            ids = torch.cat([ids, token], 1)
        return ids[:, before:].tolist(), torch.cat(logprobs, 1).tolist()

    def step(self, estimate: Estimate = estimate_advantages) -> tuple[float, float]:
        """One PPO step; returns the mean reward and the mean safety cost of its consultations.

        They may be older than the policy by `max_staleness` steps.
        """
        while len(self.ahead) <= self.config.max_staleness:
            self.ahead.append(self.rollout())
        trajectories, scored = self.ahead.popleft()
        check_staleness(trajectories, self.updates, self.config.max_staleness)
        batch = RolloutBatch.of(trajectories, self.updates)
        rows = plan_rows(batch.lengths, 1, ROW_TOKENS)
        batch.old_logprobs = _in_order(self.policy.logprobs(batch.token_ids, batch.positions, rows))
        batch.reference_logprobs = batch.old_logprobs
        if self.config.advantage == "gae":
            batch.values = _in_order(self.critic.values(batch.token_ids, batch.positions, rows))
        estimate(batch, scored, 0.0, self.config)
        kinds = ["case"] * len(batch)
        self.safety.weigh(batch, scored, kinds, self.config.gamma)
        plans = [self._plan(batch) for _ in range(self.config.epochs)]
        if self.config.advantage == "gae":
            self.critic.update(batch, plans)
        self.policy.update(batch, plans, 0.0)
        self.safety.update(costs_by_kind(batch.prompts, kinds, scored), learnt=self.updates > 0)
        self.updates += 1
        return float(np.mean([s.total for s in scored])), float(np.mean([s.cost for s in scored]))

    def _plan(self, batch: RolloutBatch) -> MiniBatchPlan:
        return MiniBatchPlan(plan_rows(batch.lengths, 1, ROW_TOKENS), float(sum(batch.generated)))


def _in_order(arrays: dict[int, np.ndarray]) -> list[np.ndarray]:
    return [arrays[i] for i in range(len(arrays))]


def with_the_classic_fault(
    batch: RolloutBatch, scored: list[ScoredTurns], kl_coefficient: float, config: PPOConfig
) -> object:
    """Estimate as `estimate_advantages` does, but let GAE walk through the patient's tokens, where values are zeroed.

    Several peers do so.
    """
    agreement = estimate_advantages(batch, scored, kl_coefficient, config)
    width = max(batch.lengths)
    raw: list[np.ndarray] = []
    for i, positions in enumerate(batch.positions):
        rewards, values = np.zeros(width), np.zeros(width + 1)
        rewards[positions[batch.turn_ends[i]]] = scored[i].rewards
        values[positions] = batch.values[i]
        advantages, ahead = np.zeros(width), 0.0
        for t in range(batch.lengths[i] - 1, -1, -1):
            ahead = rewards[t] + config.gamma * values[t + 1] - values[t] + config.gamma * config.lam * ahead
            advantages[t] = ahead
        raw.append(advantages[positions].astype(np.float32))
    batch.advantages = unpad(whiten(*pad(raw)), batch.generated)
    batch.returns = [a + v for a, v in zip(raw, batch.values, strict=True)]
    return agreement


def settings(estimator: str, max_staleness: int = 0, bound: float | None = None) -> PPOConfig:
    """bound: on the mean safety cost of a consultation; None for no constraint."""
    rates = {"learning_rate": 1e-3, "critic_learning_rate": 2e-3, "entropy_coefficient": 0.02}
    base = replace(PPOConfig(), consultations=64, epochs=2, **rates)
    samples = 8 if estimator in ("grpo", "rloo") else 1
    # Many consultations a step, and a policy that learns within a few: λ may and must follow fast.
    keep = SafetyConfig("constraint", bound=AIM * (bound or 0.0), learning_rate=1.0, gain=20.0, smoothing=0.5)
    safety = SafetyConfig("weight") if bound is None else keep
    choices = {"advantage": estimator, "samples": samples, "max_staleness": max_staleness, "safety": safety}
    return replace(base, **choices)  # type: ignore[arg-type]


class Curve(NamedTuple):
    """Means of every step."""

    rewards: list[float]
    costs: list[float]


def curves(
    problem: Problem, config: PPOConfig, seeds: Sequence[int], estimate: Estimate = estimate_advantages
) -> list[Curve]:
    """What every step earned and cost, for each seed."""
    torch.set_num_threads(1)
    learners = [Learner(problem, config, seed) for seed in seeds]
    steps = [[learner.step(estimate) for _ in range(problem.steps)] for learner in learners]
    return [Curve([reward for reward, _ in of_seed], [cost for _, cost in of_seed]) for of_seed in steps]


def reached(rewards: Sequence[float], problem: Problem) -> float:
    """Share of the optimum over the problem's last steps."""
    return float(np.mean(rewards[-problem.last :])) / problem.optimum


def spent(costs: Sequence[float], problem: Problem) -> float:
    """Mean safety cost of a consultation over the problem's last steps."""
    return float(np.mean(costs[-problem.last :]))


@dataclass(frozen=True)
class Case:
    """One curve."""

    problem: Problem
    config: PPOConfig
    label: str
    estimate: Estimate = estimate_advantages


CASES = (
    *(Case(problem, settings(name), name) for problem in (BANDIT, CONSULTATION) for name in ESTIMATORS),
    *(Case(CONSULTATION, settings(name, max_staleness=1), f"{name}, staleness 1") for name in ESTIMATORS),
    Case(CONSULTATION, settings("gae"), "gae with the classic fault", with_the_classic_fault),
    Case(COSTLY, settings("gae"), "gae"),
    Case(COSTLY, settings("gae"), "gae with the classic fault", with_the_classic_fault),
    *(Case(TEMPTING, settings(name, bound=TEMPTING.bound), name) for name in ESTIMATORS),
    Case(TEMPTING, settings("gae"), "gae without the constraint"),
    Case(EMERGENCY, settings("gae", bound=EMERGENCY.bound), "gae"),
    Case(EMERGENCY, settings("gae"), "gae without the constraint"),
)


def main() -> None:
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    print("| problem | estimator | share of the optimum, three seeds | cost (bound) |\n| --- | --- | --- | --- |")
    for case in CASES:
        by_seed = curves(case.problem, case.config, range(3), case.estimate)
        shares = ", ".join(f"{reached(curve.rewards, case.problem):.3f}" for curve in by_seed)
        costs = ", ".join(f"{spent(curve.costs, case.problem):.3f}" for curve in by_seed)
        kept = f"{costs} ({case.problem.bound:g})" if case.problem.bound < float("inf") else "–"
        print(f"| {case.problem.name} | {case.label} | {shares} | {kept} |", flush=True)
        means = np.mean([curve.rewards for curve in by_seed], axis=0)
        points = [(step, float(mean)) for step, mean in enumerate(means, start=1)]
        lines.setdefault(case.problem.name, {})[case.label] = points
    for problem in (CONSULTATION, COSTLY):
        path = DOCS / f"learning_{problem.name}.svg"
        title = f"{problem.name}: mean reward, three seeds"
        svg = line_plot(lines[problem.name], title=title, ylabel="reward", level=problem.optimum)
        path.write_text(svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1), encoding="utf-8")
        print(f"drawn in docs/{path.name}")


if __name__ == "__main__":
    main()
