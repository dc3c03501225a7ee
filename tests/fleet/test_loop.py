"""The fleet's own event loop, with engines that need no Ray: which dialogue gets the room that an answered turn leaves."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

from zj_ray.config.schema import FleetConfig, ModelConfig
from zj_ray.fleet.control.fleet import Fleet
from zj_ray.fleet.engine import TurnOutput, TurnRequest

DIALOGUES, TURNS = 24, 4


async def _answer(request: TurnRequest) -> TurnOutput:
    await asyncio.sleep(random.Random(request.key).uniform(0.01, 0.1))
    return TurnOutput([1], [0.0], True, 1)


def test_a_dialogue_stays_where_its_prefix_is_though_others_wait_for_room() -> None:
    fleet = Fleet("", ModelConfig(), replace(FleetConfig(), max_in_flight=2), start_timeout=10.0)
    for _ in range(3):
        seat = fleet.roster.hire()
        seat.life.placed()
        seat.life.loaded()
        seat.life.synced(1, 1)
        seat.actor = SimpleNamespace(generate=SimpleNamespace(remote=_answer))
    waited: list[int] = []

    async def dialogue(number: int) -> list[str]:
        engines: list[str] = []
        for turn in range(TURNS):
            answered = await fleet.ask(
                TurnRequest(f"{number}/{turn}", [1], 1, 1.0, 0, 0), engines[-1] if engines else None
            )
            waited.append(fleet.dispatcher.waiting)
            engines.append(answered.engine)
        return engines

    try:
        found = fleet._gather([dialogue(number) for number in range(DIALOGUES)], "test", 30.0, lambda: None)
    finally:
        for seat in fleet.roster.seats.values():
            seat.actor = None  # nothing of Ray to be killed
        fleet.close()
    assert max(waited) >= DIALOGUES - 3 * 2 - 1  # the others waited for just this room
    kept = sum(here == there for engines in found for here, there in pairwise(engines))
    assert kept >= 0.9 * DIALOGUES * (TURNS - 1), f"{kept} of {DIALOGUES * (TURNS - 1)}"
