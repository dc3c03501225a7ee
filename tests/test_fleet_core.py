from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zj_ray.fleet.router import Router
from zj_ray.fleet.states import EngineLife, EngineState, IllegalTransition

EVENTS = ("placed", "loaded", "outdated", "synced_current", "synced_old", "succeeded", "failed", "died", "replaced", "drain", "left")


def _apply(life: EngineLife, event: str) -> None:
    if event.startswith("synced"):
        life.synced(7 if event == "synced_current" else 6, current=7)
    elif event == "failed":
        life.failed("boom", tolerated=1)
    elif event == "died":
        life.died("boom")
    else:
        getattr(life, event)()


@given(st.lists(st.sampled_from(EVENTS), max_size=40))
def test_only_a_confirmed_sync_to_the_current_version_leads_to_serving(events: list[str]) -> None:
    life = EngineLife("e")
    for event in events:
        before = life.state
        try:
            _apply(life, event)
        except IllegalTransition:
            assert life.state is before
        if life.state is EngineState.SERVING and before is not EngineState.SERVING:
            assert event == "synced_current" and life.version == 7


def test_dead_never_serves_without_being_replaced_loaded_and_synced() -> None:
    life = EngineLife("e")
    life.placed()
    life.loaded()
    life.synced(7, 7)
    life.died("killed")
    with pytest.raises(IllegalTransition, match="dead"):
        life.synced(7, 7)
    life.replaced()
    life.placed()
    life.loaded()
    assert life.state is EngineState.STALE and life.restarts == 1 and life.version == -1


def _serving(name: str) -> EngineLife:
    return EngineLife(name, EngineState.SERVING, version=1)


def test_the_router_takes_the_least_loaded_serving_engine_and_keeps_a_dialogue_where_its_prefix_is() -> None:
    router, engines = Router(slack=2), [_serving("a"), _serving("b"), EngineLife("c", EngineState.STALE)]
    assert router.choose(engines) == "a"
    for _ in range(2):
        router.started("b")
    assert router.choose(engines, previous="b") == "b"
    router.started("b")
    assert router.choose(engines, previous="b") == "a"


def test_an_engine_that_failed_this_turn_is_avoided_while_another_serves() -> None:
    router, engines = Router(), [_serving("a"), _serving("b")]
    assert router.choose(engines, previous="a", avoid=frozenset({"a"})) == "b"
    assert router.choose(engines[:1], avoid=frozenset({"a"})) == "a"
    assert router.choose([EngineLife("a", EngineState.SUSPECT)]) is None


def test_a_failing_engine_becomes_suspect_only_after_a_streak() -> None:
    life = _serving("a")
    life.failed("x", tolerated=2)
    life.failed("x", tolerated=2)
    life.succeeded()
    life.failed("x", tolerated=2)
    assert life.state is EngineState.SERVING
    for _ in range(2):
        life.failed("x", tolerated=2)
    assert life.state is EngineState.SUSPECT
