"""Which rank computes which packed rows: the plan that every rank of a role follows in step.

Ranks must make the same number of forward passes, or their collectives hang: where a rank has fewer rows, `EMPTY` ones
fill up, in which it computes one document and keeps nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from zj_ray.algorithms.balance import pack, partition

Row = list[int]  # indices of the documents in one packed row
EMPTY: Row = []


def plan_rows(lengths: Sequence[int], ranks: int, capacity: int) -> list[list[Row]]:
    """For each rank its rows of at most `capacity` tokens; all ranks get the same number of rows, at least one."""
    shares = partition(lengths, ranks)
    plans = [[[share[i] for i in row] for row in pack([lengths[i] for i in share], capacity)] for share in shares]
    most = max(1, max(map(len, plans)))
    return [plan + [EMPTY] * (most - len(plan)) for plan in plans]
