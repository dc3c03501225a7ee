"""An engine whose model is cut over two processes says the same as one of a single process, also after a sync."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.helpers.tiny import MODEL, tiny_folder, tiny_tokenizer
from zj_ray.config.schema import FleetConfig
from zj_ray.data.chat import ChatFormat
from zj_ray.fleet.control.fleet import Fleet
from zj_ray.fleet.turns import TurnRequest
from zj_ray.weights.folder import publish_folder

CUT = replace(MODEL, tiny=replace(MODEL.tiny, heads=2, hidden_size=128))
QUESTIONS = ("头痛。", "发热怎么办？", "咳嗽。")


def _greedy(fleet: Fleet, chat: ChatFormat, key: str) -> list[list[int]]:
    requests = [
        TurnRequest(f"{key}/{i}", chat.open(text), max_tokens=16, temperature=0.0, seed=0, stop_id=chat.stop_id)
        for i, text in enumerate(QUESTIONS)
    ]
    return [answer.output.token_ids for answer in fleet.generate(requests, timeout=120)]


def test_a_cut_model_takes_weights_and_says_the_same(ray_session: None, tmp_path: Path) -> None:
    chat = ChatFormat(tiny_tokenizer())
    for seed in (0, 1):
        tiny_folder(tmp_path / f"{seed}", seed, CUT.tiny)
    answers: dict[int, list[list[list[int]]]] = {}
    for parts in (1, 2):
        config = FleetConfig(initial=1, engine_cpus=parts, kv_cache_mb=64, max_in_flight=16, tensor_parallel=parts)
        fleet = Fleet(str(tmp_path / "0"), CUT, config, start_timeout=300)
        try:
            fleet.launch()
            fleet.wait_ready()
            answers[parts] = []
            for version, seed in ((1, 0), (2, 1)):
                fleet.publish(publish_folder(tmp_path / f"{seed}", version))
                answers[parts].append(_greedy(fleet, chat, f"{parts}/{version}"))
        finally:
            fleet.close()
    assert answers[1] == answers[2] and answers[1][0] != answers[1][1]
