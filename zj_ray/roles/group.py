"""The ranks of one role as a unit: started together, called together, waited for with a limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from zj_ray.config.schema import RoleConfig
from zj_ray.errors import RoleLost, WaitTimeout, ZjError
from zj_ray.roles.placement import Places
from zj_ray.roles.rank import rank_environment
from zj_ray.training.packing import plan_rows
from zj_ray.training.zero_engine import EngineSpec

DEATH_SECONDS = 10.0  # between a rank's death and Ray's word on it


class RoleGroup:
    """`call` starts a method on every rank and returns at once; `wait` collects, naming the role that failed."""

    def __init__(
        self, name: str, rank_class: type, role: RoleConfig, places: Places, timeout: float, arguments: Sequence[Any]
    ) -> None:
        """timeout: longest that any call may take [s]; arguments: of `rank_class`, the same for every rank."""
        self.name, self.size, self.timeout = name, role.ranks, timeout
        actor: Any = ray.remote(rank_class)
        needs = {
            "num_cpus": role.cpus,
            "num_gpus": role.gpus,
            "runtime_env": {"env_vars": rank_environment(role.threads)},
        }
        self.actors: list[Any] = [
            actor.options(**needs, scheduling_strategy=places.strategy(name, rank)).remote(*arguments)
            for rank in range(role.ranks)
        ]

    def start(self, path: str, spec: EngineSpec) -> list[Any]:
        """Join the process group and load the model at `path`; when the references are done every rank is ready."""
        address, port = self.wait([self.actors[0].address.remote()], what="start its process")[0]
        joining = [actor.join.remote(rank, self.size, address, port) for rank, actor in enumerate(self.actors)]
        return [*joining, *self.call("build", path, spec)]

    def call(self, method: str, *arguments: Any) -> list[Any]:
        return [getattr(actor, method).remote(*arguments) for actor in self.actors]

    def wait(self, references: Sequence[Any], *, what: str) -> list[Any]:
        """Results of every rank. Raises WaitTimeout or ZjError naming the role and what it was asked to do."""
        try:
            return ray.get(list(references), timeout=self.timeout)
        except GetTimeoutError:
            late = f"did not {what} within {self.timeout:.0f} s"
            raise WaitTimeout(late, where=f"role {self.name}", remedy="raise ppo.role_timeout") from None
        except RayTaskError as error:
            death = _death(references)  # its peers fail as well, and may say so first
            if death is not None:
                raise self._lost(what, death) from error
            cause = error.cause
            if isinstance(cause, ZjError):
                raise cause from None
            raise
        except RayActorError as error:
            raise self._lost(what, error) from error

    def _lost(self, what: str, error: RayActorError) -> RoleLost:
        return RoleLost(
            f"a rank died when it was to {what}: {str(error).splitlines()[0]}",
            where=f"role {self.name}",
            remedy="`zj run` again resumes from the last checkpoint; see log.txt, "
            "a rank that dies at once usually ran out of memory",
        )

    def compute(
        self, method: str, token_ids: Any, positions: Any, lengths: Sequence[int], capacity: int
    ) -> list[np.ndarray]:
        """What `method` computes of each document at its `positions`, each rank in packed rows of `capacity` tokens.

        token_ids, positions: a list with an array for each document, or Ray's reference to one; lengths: of the
        documents.
        """
        references = self.call(method, token_ids, positions, plan_rows(lengths, self.size, capacity))
        merged: dict[int, np.ndarray] = {}
        for part in self.wait(references, what=f"compute {method}"):
            merged.update(part)
        return [merged[i] for i in range(len(lengths))]

    def close(self) -> None:
        for actor in self.actors:
            ray.kill(actor, no_restart=True)


def _death(references: Sequence[Any]) -> RayActorError | None:
    """The death of a rank among those that were called, if Ray reports one within DEATH_SECONDS."""
    ended, _ = ray.wait(list(references), num_returns=len(references), timeout=DEATH_SECONDS)
    for reference in ended:
        try:
            ray.get(reference, timeout=DEATH_SECONDS)
        except RayActorError as death:
            return death
        except RayTaskError:
            continue
    return None
