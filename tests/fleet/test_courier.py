"""Turns carried to engines that need no Ray: which dialogue gets the room that an answered turn leaves."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from types import SimpleNamespace

from zj_ray.config.schema import FleetConfig
from zj_ray.fleet.control.courier import Courier
from zj_ray.fleet.control.roster import LOST, Roster
from zj_ray.fleet.turns import TurnOutput, TurnRequest

DIALOGUES, TURNS = 24, 4


async def _answer(request: TurnRequest) -> TurnOutput:
    await asyncio.sleep(random.Random(request.key).uniform(0.01, 0.1))
    return TurnOutput([1], [0.0], True, 1)


def test_a_dialogue_stays_where_its_prefix_is_though_others_wait_for_room() -> None:
    roster = Roster(FleetConfig(max_in_flight=2), lambda *_: None, 10.0, None, lambda _: None)
    courier = Courier(roster)
    for _ in range(3):
        seat = roster.hire()
        seat.life.placed()
        seat.life.loaded()
        seat.life.synced(1, 1)
        seat.actor = SimpleNamespace(generate=SimpleNamespace(remote=_answer))
    waited: list[int] = []

    async def dialogue(number: int) -> list[str]:
        engines: list[str] = []
        for turn in range(TURNS):
            request = TurnRequest(f"{number}/{turn}", [1], max_tokens=1, temperature=1.0, seed=0, stop_id=0)
            spoken = await courier.ask(request, engines[-1] if engines else None)
            waited.append(roster.dispatcher.waiting)
            engines.append(spoken.engine)
        return engines

    async def hold() -> list[list[str]]:
        return await asyncio.wait_for(asyncio.gather(*map(dialogue, range(DIALOGUES))), 30.0)

    held = asyncio.run(hold())
    assert max(waited) >= DIALOGUES - 3 * 2 - 1  # the others waited for just this room
    kept = sum(here == there for engines in held for here, there in pairwise(engines))
    assert kept >= 0.9 * DIALOGUES * (TURNS - 1), f"{kept} of {DIALOGUES * (TURNS - 1)}"


def test_an_engine_that_has_left_is_lost_to_whoever_asks_it_next() -> None:
    roster = Roster(FleetConfig(), lambda *_: None, 10.0, None, lambda _: None)
    seat = roster.hire()
    assert seat.actor is None
    assert asyncio.run(roster.answer(seat, "health", 1.0, what="say how it is")) is LOST
