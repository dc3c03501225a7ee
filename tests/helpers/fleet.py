"""A fleet mended at once, for tests that do not let its supervisor work."""

from __future__ import annotations

import asyncio

from zj_ray.fleet.control.fleet import Fleet
from zj_ray.fleet.states import EngineState

LIMIT = 600.0  # longest for new engines to start and to take their weights [s]


def heal(fleet: Fleet) -> list[str]:
    """Replace the dead engines and wait until the new ones have what weights can be had; returns their names."""
    supervisor = fleet.supervisor

    async def work() -> list[str]:
        dead = [seat.name for seat in fleet.roster.among([EngineState.DEAD])]
        supervisor._replace(float("inf"))
        await supervisor.started(LIMIT)
        supervisor._sync_late()
        if supervisor._tasks:
            await asyncio.wait(list(supervisor._tasks.values()), timeout=LIMIT)
        return dead

    return fleet._loop.run(work(), 2 * LIMIT)
