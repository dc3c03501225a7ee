"""With `model.deterministic` a turn depends on the weights, its tokens and its seed, not on other turns there."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

from tests.helpers.tiny import MODEL, tiny_tokenizer
from zj_ray.config.schema import FleetConfig
from zj_ray.fleet.engine import EngineThread
from zj_ray.fleet.turns import TurnRequest
from zj_ray.fleet.vllm_settings import engine_arguments, engine_environment

FLEET = FleetConfig(kv_cache_mb=64, max_in_flight=1)
WIDE = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "num_hidden_layers": 4,
}
ORDERS = ([*range(12)], [11, 3, 7], [3])  # the same turns among many, among few, alone


def _answers(folder: str) -> list[dict[int, list[float]]]:
    """Log-probs of every turn, in each of the orders."""
    core = EngineThread(engine_arguments(folder, replace(MODEL, deterministic=True), FLEET, 0))
    core.ready.result(300)
    answers = []
    for number, order in enumerate(ORDERS):
        futures = {turn: core.generate(_request(f"{number}/{turn}", turn)) for turn in order}
        answers.append({turn: future.result(120).logprobs for turn, future in futures.items()})
    return answers


def _request(key: str, turn: int) -> TurnRequest:
    draw = random.Random(turn)
    token_ids = [draw.randrange(5, MODEL.tiny.vocab_size) for _ in range(20 + 3 * turn)]
    return TurnRequest(key, token_ids, max_tokens=24, temperature=1.0, seed=turn, stop_id=0)


def test_company_and_past_leave_every_bit_of_a_turn_as_it_is(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    shape = LlamaConfig(
        vocab_size=MODEL.tiny.vocab_size, max_position_embeddings=MODEL.max_length, initializer_range=0.1, **WIDE
    )
    LlamaForCausalLM(shape).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    module, answers = "tests.fleet.test_repeatable_engine", tmp_path / "answers.json"
    command, environment = [sys.executable, "-m", module, tmp_path, answers], os.environ | engine_environment(FLEET)
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-3000:]
    many, few, alone = json.loads(answers.read_text())
    assert alone["3"] == few["3"] == many["3"] and len(set(alone["3"])) > 10
    assert all(few[turn] == many[turn] for turn in few)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(_answers(sys.argv[1])), encoding="utf-8")
    os._exit(0)  # vLLM's thread would keep the process
