"""LoRA: the same numbers with adapters as with merged weights, at every ZeRO stage, and the base is never touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

from tests.helpers.ranks import run_ranks, wait_until_saved
from tests.helpers.tiny import MODEL, tiny_folder
from zj_ray.config.schema import LoraConfig
from zj_ray.errors import ConfigError
from zj_ray.training.lora import adapter_config, adapter_weights, adapters_off, add_lora, plain_weights, save_plain
from zj_ray.training.model import ScalarHeads, TokenLogprobs, load_causal_lm, load_heads, new_heads
from zj_ray.training.zero_engine import EngineSpec, TrainEngine
from zj_ray.weights.adapter import save_adapter

LORA = LoraConfig(rank=4, alpha=8)
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])


def _logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def _learnt(folder: Path) -> nn.Module:
    """A model whose adapters say something."""
    model = load_causal_lm(folder, MODEL)
    add_lora(model, LORA, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(std=0.3, generator=generator)
    return model


def test_new_adapters_change_nothing_and_freeze_everything_else(tmp_path: Path) -> None:
    model = load_causal_lm(tiny_folder(tmp_path), MODEL)
    before = _logits(model)
    add_lora(model, LORA, seed=0)
    assert torch.equal(_logits(model), before)
    assert all((".lora_" in name) is parameter.requires_grad for name, parameter in model.named_parameters())


def test_merged_weights_and_the_adapters_alone_are_the_same_model(tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base")
    model = _learnt(base)
    expected, untouched = _logits(model), _logits(load_causal_lm(base, MODEL))
    assert (expected - untouched).abs().max() > 0.1
    save_plain(model, {name: make() for name, _, make in plain_weights(model)}, tmp_path / "merged")
    adapters = {name: make() for name, _, make in adapter_weights(model)}
    save_adapter(tmp_path / "adapter", adapter_config(model), adapters)
    size = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    assert size < (tmp_path / "merged" / "model.safetensors").stat().st_size / 2
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(_logits(merged), expected, atol=1e-5, rtol=0)
    with_adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "adapter"))
    torch.testing.assert_close(_logits(with_adapter), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(_logits(model), expected, atol=0, rtol=0)  # merging left no trace


def test_with_its_adapters_off_a_model_is_its_own_reference(tmp_path: Path) -> None:
    base = tiny_folder(tmp_path)
    model = _learnt(base)
    expected = _logits(model)
    with adapters_off(model):
        assert torch.equal(_logits(model), _logits(load_causal_lm(base, MODEL)))
    assert torch.equal(_logits(model), expected)
    assert all(p.requires_grad == (".lora_" in name) for name, p in model.named_parameters())


def test_a_layer_that_does_not_exist_is_named_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        add_lora(load_causal_lm(tiny_folder(tmp_path), MODEL), LoraConfig(rank=4, targets=("query",)), seed=0)
    assert "lora.targets" in caught.value.where and "q_proj" in caught.value.remedy


def _train(engine: TrainEngine, loss_of: Callable[[nn.Module], Tensor], steps: int) -> None:
    for _ in range(steps):
        assert engine.train_batch([0], lambda module, _: loss_of(module), 1.0 * engine.world).applied


def _cases(rank: int, world: int, cases: list[tuple[str, int]], root: Path) -> None:
    for kind, stage in cases:
        _case(kind, stage, world, root)


def _case(kind: str, stage: int, world: int, root: Path) -> None:
    positions, index = torch.arange(IDS.shape[1])[None], torch.arange(1, IDS.shape[1])
    model: TokenLogprobs | ScalarHeads
    model = (
        TokenLogprobs(load_causal_lm(root / "base", MODEL)) if kind == "policy" else load_heads(root / "heads", MODEL)
    )
    add_lora(model.backbone, LORA, seed=3)
    engine = TrainEngine(model, EngineSpec(1e-2, 1.0, stage))

    def loss_of(module: nn.Module) -> Tensor:
        output = module(IDS, positions, index)
        return -output[0].sum() if kind == "policy" else (output - 1.0).square().sum()

    def frozen() -> list[Tensor]:
        base = [(name, [p], p.detach) for name, p in engine.module.named_parameters() if not p.requires_grad]
        return [tensor.clone() for _, tensor in engine.gather(base)]

    untouched = frozen()
    _train(engine, loss_of, 1)
    if kind == "policy":
        with adapters_off(model.backbone), torch.no_grad():
            loss_of(engine.engine)  # a reference pass between two steps: the training that follows must not notice
    engine.save_checkpoint(root / f"{kind}-checkpoint-{stage}")
    _train(engine, loss_of, 1)
    wait_until_saved(engine)
    engine.load_checkpoint(root / f"{kind}-checkpoint-{stage}")  # the step after the checkpoint never was
    _train(engine, loss_of, 2)
    assert all(torch.equal(before, now) for before, now in zip(untouched, frozen(), strict=True))
    engine.save_model(root / f"{kind}-{stage}-{world}" / "model")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What real ranks left: a policy at three ZeRO stages, and a reward model."""
    folder = tmp_path_factory.mktemp("lora")
    new_heads(tiny_folder(folder / "base"), 4, MODEL, seed=0).save(folder / "heads")
    run_ranks(1, _cases, [("policy", 0), ("heads", 2)], folder)
    run_ranks(2, _cases, [("policy", 2), ("policy", 3)], folder)
    return folder


def _three_steps_of_torch(folder: Path) -> nn.Module:
    torch.manual_seed(3)
    model = TokenLogprobs(load_causal_lm(folder, MODEL))
    add_lora(model.backbone, LORA, seed=3)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0, betas=(0.9, 0.95)
    )
    for _ in range(3):
        optimizer.zero_grad()
        (-model(IDS, torch.arange(IDS.shape[1])[None], torch.arange(1, IDS.shape[1]))[0].sum()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.lm


@pytest.mark.parametrize(("stage", "world"), [(0, 1), (2, 2), (3, 2)])
def test_adapters_train_as_in_plain_torch_also_when_resumed_and_are_exported_merged_and_alone(
    trained: Path, stage: int, world: int
) -> None:
    base = trained / "base"
    expected = _logits(_three_steps_of_torch(base))
    assert (expected - _logits(load_causal_lm(base, MODEL))).abs().max() > 0.1
    exported = trained / f"policy-{stage}-{world}"
    torch.testing.assert_close(_logits(load_causal_lm(exported / "model", MODEL)), expected, atol=1e-4, rtol=0)
    with_adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(exported / "adapter"))
    torch.testing.assert_close(_logits(with_adapter), expected, atol=1e-4, rtol=0)
    files = [path for path in (trained / f"policy-checkpoint-{stage}").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    # The frozen base is not saved again.
    assert stage == 3 or size < 0.7 * (base / "model.safetensors").stat().st_size * world


def test_a_reward_model_with_adapters_is_saved_whole_and_its_heads_learn(trained: Path) -> None:
    before, after = load_heads(trained / "heads", MODEL), load_heads(trained / "heads-2-1" / "model", MODEL)
    assert not torch.equal(before.heads.weight, after.heads.weight)
    adapter = str(trained / "heads-2-1" / "adapter")
    with_adapter = PeftModel.from_pretrained(AutoModel.from_pretrained(trained / "heads"), adapter)
    expected = with_adapter(input_ids=IDS).last_hidden_state
    torch.testing.assert_close(after.trunk(input_ids=IDS).last_hidden_state, expected, atol=1e-5, rtol=0)
    assert (expected - before.trunk(input_ids=IDS).last_hidden_state).abs().max() > 1e-2
