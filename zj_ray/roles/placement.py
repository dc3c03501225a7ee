"""Where the ranks of the roles sit: a Ray placement group for each set of roles that share nodes and GPUs.

Bundle i of a place holds rank i of each of its roles, so that colocated ranks share a node, and a GPU where each takes
a part of one. A role that shares with nobody has a place of its own: it can come and go by itself. Engines that share
with roles count as a role whose ranks they are; they live no longer than the place does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from zj_ray.config.schema import RoleConfig
from zj_ray.errors import WaitTimeout

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """roles: names of those who share it. bundles: what rank i of all of them needs together."""

    roles: tuple[str, ...]
    bundles: tuple[dict[str, float], ...]


def plan_places(roles: Mapping[str, RoleConfig], colocate: Sequence[Sequence[str]] = ()) -> list[Place]:
    """One place for each group in `colocate`, and one for each role that is in none."""
    shared = {name for group in colocate for name in group}
    groups = [tuple(group) for group in colocate] + [(name,) for name in roles if name not in shared]
    return [Place(group, _bundles([roles[name] for name in group])) for group in groups if group]


def _bundles(roles: Sequence[RoleConfig]) -> tuple[dict[str, float], ...]:
    bundles = []
    for rank in range(max(role.ranks for role in roles)):
        here = [role for role in roles if rank < role.ranks]
        amounts = {"CPU": sum(role.cpus for role in here), "GPU": sum(role.gpus for role in here)}
        bundles.append({resource: amount for resource, amount in amounts.items() if amount > 0})
    return tuple(bundles)


def in_turns(places: Sequence[Place], work: Mapping[str, Sequence[Callable[[], T]]]) -> dict[str, list[T]]:
    """Do each role's work, place beside place; the roles of one place take turns, as they share its GPU or cores."""
    shares = [[name for name in place.roles if name in work] for place in places]
    with ThreadPoolExecutor(len(shares), "place") as pool:
        done = pool.map(lambda names: {name: [do() for do in work[name]] for name in names}, shares)
        return {name: results for share in done for name, results in share.items()}


class Places:
    """The placement groups of a run's roles."""

    def __init__(self, roles: Mapping[str, RoleConfig], colocate: Sequence[Sequence[str]] = ()) -> None:
        self.plan = plan_places(roles, colocate)
        self.groups: list[PlacementGroup] = [placement_group(list(p.bundles), strategy="PACK") for p in self.plan]

    def wait(self, timeout: float) -> None:
        """Raises WaitTimeout naming the roles for which the cluster has no room."""
        ready = {group.ready(): place for group, place in zip(self.groups, self.plan, strict=True)}
        _, late = ray.wait(list(ready), num_returns=len(ready), timeout=timeout)
        if late:
            homeless = [ready[reference] for reference in late]
            needs = "; ".join(f"{', '.join(p.roles)}: {len(p.bundles)} × {_words(p.bundles[0])}" for p in homeless)
            free = _words(ray.available_resources())
            what = f"the cluster had no room for {needs} within {timeout:.0f} s (free: {free})"
            remedy = "lower the roles' ranks, cpus or gpus, let roles share GPUs (ppo.colocate), add nodes, "
            remedy += "or raise ray.start_timeout"
            raise WaitTimeout(what, where="ppo roles", remedy=remedy)

    def strategy(self, role: str, rank: int) -> Any:
        """Scheduling strategy that puts this rank into its bundle."""
        group = next(group for group, place in zip(self.groups, self.plan, strict=True) if role in place.roles)
        return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)

    @property
    def of_engines(self) -> Callable[[int], Any] | None:
        """The strategy for each engine by number; None where they sit wherever Ray finds room."""
        shared = any("engines" in place.roles for place in self.plan)
        return partial(self.strategy, "engines") if shared else None

    def close(self) -> None:
        for group in self.groups:
            remove_placement_group(group)


def _words(resources: Mapping[str, float]) -> str:
    """Resources as "4 CPU, 1 GPU"."""
    names = [name for name in ("CPU", "GPU") if resources.get(name, 0) or name == "CPU"]
    return ", ".join(f"{resources.get(name, 0):g} {name}" for name in names)
