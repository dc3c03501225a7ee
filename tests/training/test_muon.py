"""Muon: orthogonal updates inside the layers, AdamW elsewhere, and a state that survives saving."""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from zj_ray.training.muon import Muon, orthogonalise


def _model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    size = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
    }
    return LlamaForCausalLM(LlamaConfig(vocab_size=80, max_position_embeddings=32, tie_word_embeddings=True, **size))


def _step(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, seed: int) -> float:
    tokens = torch.randint(0, 80, (4, 16), generator=torch.Generator().manual_seed(seed))
    loss = model(input_ids=tokens, labels=tokens).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def test_the_update_is_orthogonal_and_keeps_the_singular_vectors() -> None:
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(1))
    for ours in (orthogonalise(matrix), orthogonalise(matrix.mT).mT, orthogonalise(1000 * matrix)):
        assert ours.shape == matrix.shape
        values = torch.linalg.svdvals(ours)
        assert float(values.min()) > 0.6 and float(values.max()) < 1.3
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        aligned = u.mT @ ours @ v.mT
        assert torch.allclose(aligned, torch.diag(aligned.diagonal()), atol=1e-3)


def test_only_matrices_inside_the_layers_are_moved_by_muon_and_the_rest_exactly_as_adamw_would() -> None:
    model = _model()
    optimizer = Muon(model, lr=1e-2, weight_decay=0.01, betas=(0.9, 0.95))
    names = {id(p): name for name, p in model.named_parameters()}
    by_muon = {names[id(p)] for p in optimizer.param_groups[0]["params"]}
    assert by_muon == {n for n, p in model.named_parameters() if "layers" in n and p.ndim == 2} and len(by_muon) == 14
    rest = [p for p in model.parameters() if names[id(p)] not in by_muon]
    before = {names[id(p)]: p.detach().clone() for p in model.parameters()}
    twin = copy.deepcopy(model)
    plain = torch.optim.AdamW(
        [p for n, p in twin.named_parameters() if n not in by_muon], lr=1e-2, weight_decay=0.01, betas=(0.9, 0.95)
    )
    _step(model, optimizer, seed=2)
    _step(twin, plain, seed=2)
    for ours in rest:
        assert torch.equal(ours, dict(twin.named_parameters())[names[id(ours)]])
    for name, p in model.named_parameters():
        if name in by_muon:  # the first update's size is AdamW's: about the learning rate in each entry
            moved = (p.detach() - before[name] * (1 - 1e-4)).square().mean().sqrt()
            assert 0.5e-3 < float(moved) < 3e-3, name


def test_a_loaded_state_goes_on_bit_for_bit() -> None:
    model = _model()
    optimizer = Muon(model, lr=1e-2, weight_decay=0.0, betas=(0.9, 0.95))
    losses = [_step(model, optimizer, seed=3) for _ in range(5)]
    assert losses[-1] < losses[0] - 0.3
    twin = copy.deepcopy(model)
    resumed = Muon(twin, lr=1e-2, weight_decay=0.0, betas=(0.9, 0.95))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    _step(model, optimizer, seed=4)
    _step(twin, resumed, seed=4)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_frozen_parameter_stays() -> None:
    model = _model()
    frozen = model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    before = frozen.detach().clone()
    _step(model, Muon(model, lr=1e-2, weight_decay=0.1, betas=(0.9, 0.95)), seed=5)
    assert torch.equal(frozen, before)
    assert isinstance(frozen, nn.Parameter)
