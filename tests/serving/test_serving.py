"""Serving: which model is served, and a real endpoint (Ray Serve and vLLM) that answers, streams, refuses clearly."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from zj_ray.cluster.ports import free_port, listen
from zj_ray.config.schema import Config, ModelConfig, RayConfig, ServeConfig
from zj_ray.errors import CheckpointError, WaitTimeout, ZjError
from zj_ray.runs.folder import Run
from zj_ray.serving.chat import converse_with
from zj_ray.serving.client import ask, converse
from zj_ray.serving.serve import ANSWER_SECONDS, Endpoint, _answer, prove, served_model, serving
from zj_ray.stages import serve as stage
from zj_ray.stages.context import StageContext

LENGTH = 256


def _finish(run: Run, stage: str, *, with_model: bool = True) -> None:
    if with_model:
        (run.stage(stage) / "model").mkdir()
        (run.stage(stage) / "model" / "config.json").write_text("{}")
    run.finish(stage, {})


def test_ppo_is_served_if_finished_and_sft_otherwise(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "a", Config())
    with pytest.raises(CheckpointError, match="neither ppo nor sft is finished"):
        served_model(run)
    _finish(run, "sft")
    (run.stage("ppo") / "model").mkdir()
    assert served_model(run) == run.folder / "sft" / "model", "a PPO stage without manifest is not finished"
    (run.stage("ppo") / "model").rmdir()
    _finish(run, "ppo")
    assert served_model(run) == run.folder / "ppo" / "model"


def test_a_finished_stage_whose_model_is_gone_is_named(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "a", Config())
    _finish(run, "sft", with_model=False)
    with pytest.raises(CheckpointError, match="stage sft is finished, but its model is gone"):
        served_model(run)


def test_a_taken_port_is_refused_and_port_0_is_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ZjError, match="can't listen on 127.0.0.1"):
        listen("127.0.0.1", taken.getsockname()[1], where="serve.port")
    with listen("127.0.0.1", 0, where="serve.port") as free:
        socket.create_connection(free.getsockname(), timeout=5).close()  # who is told the port is not refused


def test_a_controller_that_never_answers_is_not_waited_for() -> None:
    began, never = time.monotonic(), threading.Event()
    with pytest.raises(WaitTimeout, match="serve: Ray Serve's controller does not answer"):
        _answer(lambda: never.wait(60), began + ANSWER_SECONDS + 0.5)
    assert ANSWER_SECONDS <= time.monotonic() - began < 30
    never.set()
    with pytest.raises(ZeroDivisionError):  # what the call raises comes through
        _answer(lambda: 1 // 0, time.monotonic())
    assert _answer(lambda: "here", time.monotonic()) == "here"


def test_asking_where_nobody_serves_is_a_clear_error() -> None:
    with pytest.raises(ZjError, match="no endpoint answers here .* zj serve"):
        ask(f"http://127.0.0.1:{free_port()}", "zhongjing", "你好", timeout=5)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A tiny random Llama behind a real endpoint."""
    import ray

    from zj_ray.cluster.connect import connect

    folder = tmp_path_factory.mktemp("serving")
    _tiny_model(folder / "model")
    config = ServeConfig(port=0, start_timeout=400)
    assert not ray.is_initialized()
    with connect(RayConfig(local_cpus=2, object_store_mb=100), log_folder=folder) as cluster:
        with serving(folder / "model", config, ModelConfig(max_length=LENGTH), name="tiny") as endpoint:
            print(f"Ray started in {cluster.start_seconds:.1f} s, the endpoint in {endpoint.start_seconds:.1f} s")
            yield endpoint
        assert cluster.started_here
    assert not ray.is_initialized()


def test_the_endpoint_answers_a_question(endpoint: Endpoint) -> None:
    assert ask(endpoint.url, "tiny", "你好", timeout=60)
    assert prove(endpoint, ServeConfig())
    assert os.path.basename(endpoint.url) in endpoint.curl("你好")


def test_the_stage_asks_the_configured_question_and_leaves_the_answer(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the endpoint that is here: Ray Serve takes one of a run at a time, and another takes a minute."""
    run = Run.open(tmp_path / "run", Config(serve=ServeConfig(port=0, question="我头痛，怎么办？")))
    _finish(run, "ppo")
    monkeypatch.setattr(stage, "serving", lambda *_, **__: nullcontext(endpoint))
    manifest = stage.serve(StageContext(run))
    assert manifest["question"] == "我头痛，怎么办？" and manifest["answer"].strip()
    assert manifest["endpoint"]["url"] == endpoint.url


def test_a_streamed_answer_equals_the_whole_one(endpoint: Endpoint) -> None:
    request = {"model": "tiny", "messages": [{"role": "user", "content": "头痛"}], "max_tokens": 12, "temperature": 0}
    _, whole = _post(endpoint, request)
    status, events = _post(endpoint, {**request, "stream": True})
    lines = [line.removeprefix("data: ") for line in events.splitlines() if line.startswith("data: ")]
    assert status == 200 and lines[-1] == "[DONE]" and len(lines) > 3
    pieces = [choice["delta"].get("content") or "" for line in lines[:-1] for choice in json.loads(line)["choices"]]
    assert "".join(pieces) == json.loads(whole)["choices"][0]["message"]["content"]


def test_an_answer_without_max_tokens_fills_at_most_half_the_context(endpoint: Endpoint) -> None:
    _, body = _post(endpoint, {"model": "tiny", "messages": [{"role": "user", "content": "头痛"}], "ignore_eos": True})
    assert json.loads(body)["usage"]["completion_tokens"] == LENGTH // 2


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"model": "other"}, 404, "does not exist"),
        ({"messages": "你好"}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "痛" * 3 * LENGTH}]}, 400, "context length"),
        ({"temperature": -1}, 400, "temperature"),
    ],
)
def test_a_bad_request_is_answered_with_json_that_says_why(
    endpoint: Endpoint, change: dict, status: int, words: str
) -> None:
    got, body = _post(endpoint, {"model": "tiny", "messages": [{"role": "user", "content": "你好"}], **change})
    assert got == status and words in json.loads(body)["error"]["message"]
    if "model" in change:
        with pytest.raises(ZjError, match=r"refused the request \(404\).*does not exist"):
            ask(endpoint.url, change["model"], "你好", timeout=30)


def test_the_chat_page_is_served_at_the_root(endpoint: Endpoint) -> None:
    with urllib.request.urlopen(endpoint.url, timeout=30) as page:
        assert "仲景问诊" in page.read().decode()


def test_a_second_endpoint_on_the_same_cluster_is_refused(endpoint: Endpoint, tmp_path: Path) -> None:
    with pytest.raises(ZjError, match="Ray Serve already runs"), serving(tmp_path, ServeConfig(port=0), ModelConfig()):
        pass
    assert ask(endpoint.url, "tiny", "你好", timeout=60), "the first one is still there"


def test_the_terminal_chat_keeps_the_history_until_reset(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths: list[int] = []

    def counting(url: str, model: str, messages: list, timeout: float) -> Iterator[str]:
        lengths.append(len(messages))
        yield "".join(converse(url, model, messages, timeout)) or "…"

    words = iter(["你好", "头痛", "/reset", "", "咳嗽", "/quit", "never said"])
    monkeypatch.setattr("zj_ray.serving.chat.converse", counting)
    monkeypatch.setattr("zj_ray.progress.console.input", lambda *_, **__: next(words))
    converse_with(endpoint)
    assert lengths == [1, 3, 1] and "重新开始" in capsys.readouterr().out


def _post(endpoint: Endpoint, body: dict) -> tuple[int, str]:
    request = urllib.request.Request(
        f"{endpoint.url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def _tiny_model(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<|user|>", "<|assistant|>", "<|system|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["医生你好"], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
    turns = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<eos>{% endfor %}"
    wrapped.chat_template = turns + "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    shape = dict(
        vocab_size=300,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    config = LlamaConfig(**shape, max_position_embeddings=LENGTH, eos_token_id=1, pad_token_id=0)
    LlamaForCausalLM(config).save_pretrained(folder)
