"""The chat template as token pieces, so that a consultation can grow turn by turn without re-tokenising its history.

Training, rollouts and evaluation all encode through `ChatFormat`: prefix, user text, middle, doctor text, stop token,
suffix … Each piece is tokenised by itself, hence the tokens of a turn never depend on what comes after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from zj_ray.data.messages import Message
from zj_ray.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBES = ("@@u1@@", "@@a1@@", "@@u2@@")


@dataclass(frozen=True)
class Encoded:
    """One conversation as tokens; the mask is true on the doctor's words and stop tokens."""

    token_ids: list[int]
    loss_mask: list[bool]


class ChatFormat:
    """A tokenizer's chat template, taken apart once. stop_id: the token that ends a doctor turn."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises DataError for a template that can't be taken apart."""
        self.tokenizer = tokenizer
        user, answer, follow_up = _PROBES
        text = self._render([Message("user", user), Message("assistant", answer), Message("user", follow_up)])
        if any(text.count(probe) != 1 for probe in _PROBES):
            remedy = "set a template that renders every message once"
            raise DataError("the chat template drops or repeats messages", remedy=remedy)
        prefix, rest = text.split(user)
        middle, rest = rest.split(answer)
        between, last = rest.split(follow_up)
        if last != middle:
            raise DataError(
                "the chat template renders a doctor turn differently in the history and as the next answer",
                remedy="use a template whose generation prompt equals what it writes before an assistant message",
            )
        self.prefix = self.text_ids(prefix)
        self.middle = self.text_ids(middle)
        between_ids = self.text_ids(between)
        if not between_ids:
            raise DataError(
                "the chat template has no token that ends a doctor turn",
                remedy="end assistant messages with the eos token",
            )
        self.stop_id = between_ids[0]
        self.between = between_ids[1:]

    def _render(self, messages: Sequence[Message]) -> str:
        """The template's text up to where the doctor speaks next."""
        rows = [message.as_dict() for message in messages]
        return cast(str, self.tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True))

    def text_ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))  # the caller minds the length

    def open(self, user_text: str, system: str | None = None) -> list[int]:
        """Tokens from the start to where the doctor speaks first."""
        if system is None:
            return self.prefix + self.text_ids(user_text) + self.middle
        return self.text_ids(self._render([Message("system", system), Message("user", user_text)]))

    def follow_up(self, user_text: str, *, stopped: bool) -> list[int]:
        """Tokens between a doctor turn and the next; a turn cut at its limit (`stopped` false) is closed here."""
        closing = [] if stopped else [self.stop_id]
        return closing + self.between + self.text_ids(user_text) + self.middle

    def prompt(self, messages: Sequence[Message], limit: int | None = None) -> list[int]:
        """A context that the doctor is to answer.

        Over `limit` tokens the oldest whole turns go, never the last question. Raises DataError when the last question
        alone is longer than `limit`.
        """
        system, talk = _split_system(messages)
        for first in range(0, len(talk), 2):
            ids = self._prompt_ids(talk[first:], system)
            if limit is None or len(ids) <= limit:
                return ids
        raise DataError(
            f"the last question alone takes {len(ids)} tokens, {limit} are allowed",
            remedy="raise model.max_length or shorten it",
        )

    def _prompt_ids(self, talk: Sequence[Message], system: str | None) -> list[int]:
        ids = self.open(talk[0].content, system)
        for answer, question in zip(talk[1::2], talk[2::2], strict=True):
            ids += self.text_ids(answer.content) + self.follow_up(question.content, stopped=False)
        return ids

    def conversation(self, messages: Sequence[Message], limit: int | None = None) -> Encoded:
        """A whole conversation for SFT, the loss on every doctor turn; over `limit` tokens the oldest turns go."""
        system, talk = _split_system(messages)
        for first in range(0, len(talk), 2):
            encoded = self._conversation_ids(talk[first:], system)
            if limit is None or len(encoded.token_ids) <= limit:
                return encoded
        assert limit is not None  # even the last turn alone is too long: keep its question's end and its answer's start
        return Encoded(encoded.token_ids[:limit], encoded.loss_mask[:limit])

    def _conversation_ids(self, talk: Sequence[Message], system: str | None) -> Encoded:
        token_ids: list[int] = []
        mask: list[bool] = []
        for i in range(0, len(talk), 2):
            question, answer = talk[i].content, talk[i + 1].content
            context = self.open(question, system) if i == 0 else self.between + self.text_ids(question) + self.middle
            words = [*self.text_ids(answer), self.stop_id]
            token_ids += context + words
            mask += [False] * len(context) + [True] * len(words)
        return Encoded(token_ids, mask)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a doctor turn, without its stop token."""
        words = list(token_ids[:-1]) if token_ids and token_ids[-1] == self.stop_id else list(token_ids)
        return str(self.tokenizer.decode(words, skip_special_tokens=False)).strip()


def _split_system(messages: Sequence[Message]) -> tuple[str | None, Sequence[Message]]:
    if messages and messages[0].role == "system":
        return messages[0].content, messages[1:]
    return None, messages
