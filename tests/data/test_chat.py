from __future__ import annotations

import pytest

from tests.helpers.tiny import TEXTS, tiny_tokenizer
from zj_ray.data.chat import ChatFormat
from zj_ray.data.messages import Message, parse_messages
from zj_ray.errors import DataError

TALK = (
    Message("user", "我头痛。"),
    Message("assistant", "多久了？"),
    Message("user", "三天。"),
    Message("assistant", "建议检查。"),
)


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat(tiny_tokenizer())


def test_pieces_equal_what_the_template_renders(chat: ChatFormat) -> None:
    rows = [m.as_dict() for m in TALK]
    assert chat.conversation(TALK).token_ids == chat.tokenizer.apply_chat_template(rows)["input_ids"]
    assert (
        chat.prompt(TALK[:3]) == chat.tokenizer.apply_chat_template(rows[:3], add_generation_prompt=True)["input_ids"]
    )


def test_a_consultation_grown_turn_by_turn_has_the_tokens_of_the_whole(chat: ChatFormat) -> None:
    ids = chat.open("我头痛。") + chat.text_ids("多久了？") + [chat.stop_id] + chat.follow_up("三天。", stopped=True)
    assert ids == chat.prompt(TALK[:3])
    cut = chat.open("我头痛。") + chat.text_ids("多久了？") + chat.follow_up("三天。", stopped=False)
    assert cut == ids


def test_loss_is_on_every_doctor_token_and_its_stop_token_only(chat: ChatFormat) -> None:
    encoded = chat.conversation(TALK)
    tokens = [t for t, on in zip(encoded.token_ids, encoded.loss_mask, strict=True) if on]
    assert tokens == [*chat.text_ids("多久了？"), chat.stop_id, *chat.text_ids("建议检查。"), chat.stop_id]


def test_left_truncation_keeps_whole_turns_and_the_last_question(chat: ChatFormat) -> None:
    last_only = chat.prompt(TALK[2:3])
    assert chat.prompt(TALK[:3], limit=len(chat.prompt(TALK[:3])) - 1) == last_only
    limit = len(chat.conversation(TALK).token_ids) - 1
    assert chat.conversation(TALK, limit=limit).token_ids == chat.conversation(TALK[2:]).token_ids
    with pytest.raises(DataError, match="last question alone"):
        chat.prompt(TALK[:3], limit=len(last_only) - 1)


def test_decoding_gives_back_the_text_without_the_stop_token(chat: ChatFormat) -> None:
    assert chat.decode([*chat.text_ids("建议检查。"), chat.stop_id]) == "建议检查。"


def test_a_template_that_drops_messages_is_rejected() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    with pytest.raises(DataError, match="drops or repeats"):
        ChatFormat(tokenizer)


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([], "non-empty"),
        ([{"role": "assistant", "content": "a"}], "'user' must speak"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "'assistant' must speak"),
        ([{"role": "user", "content": " "}], "is empty"),
        ([{"role": "doctor", "content": "a"}], "unknown role"),
        ([{"role": "user"}], "'role' and 'content'"),
    ],
)
def test_bad_conversations_name_the_line_and_the_fault(rows: list, fault: str) -> None:
    with pytest.raises(DataError, match=fault) as caught:
        parse_messages(rows, where="file.jsonl:7", last="user")
    assert str(caught.value).startswith("file.jsonl:7: ")


def test_every_character_that_the_texts_use_twice_is_one_token() -> None:
    tokenizer = tiny_tokenizer()
    characters = {c for text in TEXTS for c in text}
    assert len(characters) > 40
    assert all(len(tokenizer.encode(c, add_special_tokens=False)) == 1 for c in characters)
    assert tokenizer.decode(tokenizer.encode("龘🩺 never seen", add_special_tokens=False)) == "龘🩺 never seen"
