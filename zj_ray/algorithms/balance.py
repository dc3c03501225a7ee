"""Who computes on what: even shares for the ranks, full rows for the forward passes."""

from __future__ import annotations

from collections.abc import Sequence


def partition(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Indices in `parts` groups of nearly equal total length: longest first, each to the emptiest group.

    A group may be empty when there are fewer items than groups; the caller must let that rank take part with no tokens.
    """
    groups: list[list[int]] = [[] for _ in range(parts)]
    totals = [0] * parts
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        emptiest = min(range(parts), key=lambda g: totals[g])
        groups[emptiest].append(index)
        totals[emptiest] += lengths[index]
    return groups


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices in rows of at most `capacity` tokens: first fit, longest first.

    An item longer than that gets a row of its own.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = next((r for r, left in enumerate(room) if left >= lengths[index]), None)
        if fitting is None:
            rows.append([])
            room.append(capacity)
            fitting = len(rows) - 1
        rows[fitting].append(index)
        room[fitting] -= lengths[index]
    return rows
