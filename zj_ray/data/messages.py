"""Messages: who said what, checked once at the edge so that nothing inside has to doubt them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zj_ray.errors import DataError

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One speaker's words."""

    role: str
    content: str

    def as_dict(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


def parse_messages(raw: Any, *, where: str, last: str | None = None) -> tuple[Message, ...]:
    """A conversation as rows of `{"role", "content"}`: an optional system message, then user and assistant in turn.

    last: the role that must speak last ("assistant" for SFT, "user" for a context to answer), or None for either.
    Raises DataError naming `where` (file and line) for a wrong shape, role, order or an empty message.
    """
    if not isinstance(raw, list) or not raw:
        remedy = 'write [{"role": "user", "content": "…"}, …]'
        raise DataError("'messages' must be a non-empty list", where=where, remedy=remedy)
    messages = tuple(_parse_message(m, i, where) for i, m in enumerate(raw))
    talk = messages[1:] if messages[0].role == "system" else messages
    for i, message in enumerate(talk):
        speaker = "user" if i % 2 == 0 else "assistant"
        if message.role != speaker:
            what = f"message {i + 1} is from {message.role!r} where {speaker!r} must speak"
            remedy = "a conversation starts with 'user' and alternates 'user', 'assistant'"
            raise DataError(what, where=where, remedy=remedy)
    if not talk or (last is not None and talk[-1].role != last):
        what = f"the last message must be from {last or 'user'!r}"
        raise DataError(what, where=where, remedy="drop or complete the last turn")
    return messages


def _parse_message(raw: Any, index: int, where: str) -> Message:
    if not isinstance(raw, dict) or not isinstance(raw.get("role"), str) or not isinstance(raw.get("content"), str):
        raise DataError(f"message {index + 1} is not an object with 'role' and 'content' strings", where=where)
    if raw["role"] not in ROLES:
        what = f"message {index + 1} has the unknown role {raw['role']!r}"
        raise DataError(what, where=where, remedy=f"use one of {', '.join(ROLES)}")
    if not raw["content"].strip():
        what = f"message {index + 1} ({raw['role']}) is empty"
        raise DataError(what, where=where, remedy="write the text or drop the row")
    return Message(raw["role"], raw["content"])
