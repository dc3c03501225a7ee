"""Consultations ahead of the updates, at most `max_staleness` steps.

With 0 a step's consultations are held when they are asked for, by the policy that learns from them. With 1 those of the
next step are held while this one is learnt from, and so on: the rollout of step r is asked for once the weights of step
r - max_staleness are out, so no turn is ever older than that. `check_staleness` sees to it, trajectory by trajectory.
Consultations of several steps share the fleet; those that were asked for first begin first, and the next step's fill
the engines as they run out, which a step's last and longest consultations would leave idle.

A checkpoint takes along what was spoken for steps that are not learnt from yet, turn by turn, so that a resumed run
goes on with those consultations where they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from zj_ray.data.case import Prompt
from zj_ray.data.trajectory import Trajectory
from zj_ray.errors import WaitTimeout, ZjError
from zj_ray.files import read_jsonl, write_jsonl
from zj_ray.fleet.control.fleet import Consultations
from zj_ray.fleet.turns import SpokenTurn, SpokenTurns, TurnOutput

SPOKEN = "spoken.jsonl"


@dataclass(frozen=True)
class Rollout:
    """One step's prompts and what came of them."""

    prompts: dict[str, Prompt]
    consultations: Consultations


class RolloutAhead:
    def __init__(self, hold: Callable[[int], Rollout], max_staleness: int, steps: int, limit: float) -> None:
        """hold: holds the consultations of a step beside those of other steps; steps: how many the whole run has.

        limit: longest wait for the consultations of a step [s].
        """
        self._hold, self.max_staleness, self.steps, self.limit = hold, max_staleness, steps, limit
        self._worker = ThreadPoolExecutor(max_staleness + 1, thread_name_prefix="rollouts")
        self._rollouts: dict[int, Future[Rollout]] = {}

    def take(self, step: int) -> Rollout:
        """The rollout of `step`; those of the next `max_staleness` steps go on in the background."""
        for ahead in range(step, min(step + self.max_staleness + 1, self.steps)):
            if ahead not in self._rollouts:
                self._rollouts[ahead] = self._worker.submit(self._hold, ahead)
        try:
            return self._rollouts.pop(step).result(self.limit)
        except TimeoutError:
            what = f"the consultations of step {step} were not held within {self.limit:.0f} s"
            raise WaitTimeout(what, where="ppo", remedy="raise consultation.timeout, or add engines") from None

    def __enter__(self) -> RolloutAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)


def check_staleness(trajectories: Sequence[Trajectory], version: int, bound: int) -> None:
    """Raises ZjError naming the first consultation with a turn more than `bound` publications older than `version`."""
    for trajectory in trajectories:
        for turn in trajectory.turns:
            if not 0 <= version - turn.weight_version <= bound:
                name = f"consultation {trajectory.prompt_id}#{trajectory.sample}"
                what = f"{name} has a turn of weight version {turn.weight_version}; the policy is at {version}, "
                what += f"and {bound} versions of difference are allowed (ppo.max_staleness)"
                remedy = "this is a fault of zj_ray: please report it with the run's log.txt"
                raise ZjError(what, where="ppo", remedy=remedy)


def save_spoken(folder: Path, steps: Mapping[int, SpokenTurns], version: int) -> None:
    """Write the finished turns of these steps, each with its age in publications before `version`."""
    rows = [
        {
            "step": step,
            "turn": name,
            "token_ids": turn.output.token_ids,
            "logprobs": turn.output.logprobs,
            "finished": turn.output.finished,
            "age": version - turn.output.version,
            "engine": turn.engine,
            "attempts": turn.attempts,
        }
        for step, spoken in steps.items()
        for name, turn in spoken.items()
    ]
    write_jsonl(folder / SPOKEN, rows)


def load_spoken(folder: Path, version: int) -> dict[int, SpokenTurns]:
    """What `save_spoken` wrote; `version` is the number that the weights of then have now."""
    steps: dict[int, SpokenTurns] = {}
    for _, row in read_jsonl(folder / SPOKEN):
        output = TurnOutput(row["token_ids"], row["logprobs"], row["finished"], version - row["age"])
        steps.setdefault(row["step"], {})[row["turn"]] = SpokenTurn(output, row["engine"], row["attempts"])
    return steps
