from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from tests.helpers.tiny import MODEL, tiny_tokenizer
from zj_ray.data.chat import Encoded
from zj_ray.training.model import ScalarHeads, TokenLogprobs, make_tiny
from zj_ray.training.packing import make_row, make_shared_row, plan_rows, shared_length
from zj_ray.training.supervised.examples import Examples, concatenate_and_chunk, from_encoded

SHAPE = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 96}


def _documents() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(5, 300, n) for n in (7, 23, 4, 15)]


def test_packed_documents_do_not_see_each_other() -> None:
    model = TokenLogprobs(make_tiny(MODEL.tiny, tiny_tokenizer(), MODEL.max_length, 0))
    documents = _documents()
    positions = [np.arange(1, len(d)) for d in documents]
    alone = {}
    for i, document in enumerate(documents):
        row = make_row([document], [0])
        alone[i] = model(row.input_ids, row.position_ids, row.index([positions[i]]))[0]
    row = make_row(documents, [1, 0, 3, 2])
    together = model(row.input_ids, row.position_ids, row.index([positions[m] for m in row.members]))[0]
    torch.testing.assert_close(together, torch.cat([alone[m] for m in row.members]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("key_heads", [1, 2])
def test_packed_documents_learn_as_under_the_block_diagonal_mask(key_heads: int) -> None:
    """The same numbers and gradients as of transformers' own masked row, also where heads share their keys."""
    shape = dict(SHAPE, num_hidden_layers=2, num_attention_heads=2)
    lm = LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=key_heads))
    row = make_row(_documents(), [1, 0, 3, 2])
    index = row.index([np.arange(1, len(_documents()[m])) for m in row.members])
    logits = lm(input_ids=row.input_ids, position_ids=row.position_ids, use_cache=False).logits[0, index - 1]
    expected = torch.log_softmax(logits, -1).gather(1, row.input_ids[0, index][:, None])[:, 0]
    gradients = torch.autograd.grad((expected**2).sum(), list(lm.parameters()))
    logprobs, _ = TokenLogprobs(lm)(row.input_ids, row.position_ids, index)
    assert lm.config._attn_implementation == "zj_packed" or torch.cuda.is_available()
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)
    for ours, theirs in zip(torch.autograd.grad((logprobs**2).sum(), list(lm.parameters())), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_model_with_sliding_windows_keeps_its_own_attention() -> None:
    shape = dict(SHAPE, num_hidden_layers=1, num_attention_heads=1)
    lm = MistralForCausalLM(MistralConfig(**shape, num_key_value_heads=1, sliding_window=8))
    TokenLogprobs(lm)
    assert lm.config._attn_implementation == "sdpa"


def test_scores_of_packed_documents_equal_those_alone() -> None:
    trunk = make_tiny(MODEL.tiny, tiny_tokenizer(), MODEL.max_length, 0).get_decoder()
    model = ScalarHeads(trunk, 4)
    documents = _documents()
    row = make_row(documents, [1, 0, 3, 2])
    ends = [np.array([len(documents[m]) - 1]) for m in row.members]
    together = model(row.input_ids, row.position_ids, row.index(ends))
    for number, m in enumerate(row.members):
        single = make_row([documents[m]], [0])
        alone = model(single.input_ids, single.position_ids, torch.tensor([len(documents[m]) - 1]))
        torch.testing.assert_close(together[number : number + 1], alone)


def test_logprobs_are_those_of_a_plain_forward_pass() -> None:
    lm = make_tiny(MODEL.tiny, tiny_tokenizer(), MODEL.max_length, 0)
    ids = torch.from_numpy(_documents()[1])[None]
    logprobs = torch.log_softmax(lm(input_ids=ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
    ours, _ = TokenLogprobs(lm)(ids, torch.arange(ids.shape[1])[None], torch.arange(1, ids.shape[1]))
    torch.testing.assert_close(ours, logprobs, atol=1e-5, rtol=0)


def test_every_rank_gets_the_same_number_of_rows_and_every_document_is_computed_once() -> None:
    plans = plan_rows([5, 5, 5, 9, 2], ranks=3, capacity=10)
    assert len({len(rows) for rows in plans}) == 1
    assert sorted(i for rows in plans for row in rows for i in row) == [0, 1, 2, 3, 4]
    assert plan_rows([4], ranks=3, capacity=10) == [[[0]], [[]], [[]]]


def test_chunks_hold_every_token_once_with_an_end_after_each_document() -> None:
    blocks = concatenate_and_chunk([[5, 6, 7], [8, 9]], end_id=1, length=4)
    assert [b.tolist() for b in blocks.token_ids] == [[5, 6, 7, 1], [8, 9, 1]]
    assert [p.tolist() for p in blocks.positions] == [[1, 2, 3], [1, 2]]


def test_examples_survive_the_disk_and_those_without_a_doctor_are_left_out(tmp_path) -> None:
    examples = from_encoded([Encoded([1, 2, 3], [False, True, True]), Encoded([4], [False])])
    examples.save(tmp_path / "x.npz")
    loaded = Examples.load(tmp_path / "x.npz")
    assert (
        len(loaded) == 1
        and loaded.token_ids[0].tolist() == [1, 2, 3]
        and loaded.positions[0].tolist() == [1, 2]
        and loaded.groups is None
    )


def test_answers_that_share_their_prompt_score_and_learn_as_if_each_stood_alone() -> None:
    """Two prompts, one of whose answers were truncated differently, so that only a part of it is shared."""
    random = np.random.default_rng(1)
    prompts = [random.integers(5, 300, n) for n in (40, 12)]
    answers = [[random.integers(5, 300, n) for n in lengths] for lengths in ((6, 1, 9, 4), (3, 8))]
    documents = [
        np.concatenate([prompt, answer]) for prompt, group in zip(prompts, answers, strict=True) for answer in group
    ]
    documents.append(np.concatenate([prompts[1][:5], random.integers(5, 300, 4)]))
    groups = [[0, 1, 2, 3], [4, 5, 6]]
    assert [shared_length([documents[m] for m in group]) for group in groups] == [40 + 20, 5 + (7 + 3) + (7 + 8) + 4]
    model = ScalarHeads(make_tiny(MODEL.tiny, tiny_tokenizer(), MODEL.max_length, 0).get_decoder(), 2)
    weights = torch.randn(len(documents), 2, generator=torch.Generator().manual_seed(0))

    row = make_shared_row(documents, groups)
    assert row.input_ids.shape[1] == 60 + 34
    index = row.index([np.array([len(documents[m]) - 1]) for m in row.members])
    together = model(row.input_ids, row.position_ids, index, row.attention)
    shared = torch.autograd.grad((together * weights).sum(), list(model.parameters()))
    alone = [
        model(torch.from_numpy(d)[None], torch.arange(len(d))[None], torch.tensor([len(d) - 1])) for d in documents
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    for ours, theirs in zip(
        shared, torch.autograd.grad((torch.cat(alone) * weights).sum(), list(model.parameters())), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
