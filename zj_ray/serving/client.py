"""A small client for any OpenAI-compatible endpoint: one question, or a conversation token by token.

Every call has a timeout, and every failure is one line that says what the server said.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import openai

from zj_ray.data.messages import Message
from zj_ray.errors import WaitTimeout, ZjError


def ask(url: str, model: str, question: str, timeout: float) -> str:
    """The answer to one question. url: of the server, without /v1; timeout: longest silence of the server [s].

    Raises WaitTimeout for a silent server, ZjError for one that is not there or answers with an error.
    """
    return "".join(converse(url, model, [Message("user", question)], timeout, stream=False))


def converse(
    url: str, model: str, messages: Sequence[Message], timeout: float, *, stream: bool = True
) -> Iterator[str]:
    """The next turn of a conversation, in pieces as the server sends them, or in one piece if not `stream`.

    Raises what `ask` does.
    """
    key = os.environ.get("VLLM_API_KEY", "none")
    client = openai.OpenAI(base_url=url.rstrip("/") + "/v1", api_key=key, timeout=timeout, max_retries=0)
    rows: Any = [message.as_dict() for message in messages]
    try:
        if stream:
            for chunk in client.chat.completions.create(model=model, messages=rows, stream=True):
                if chunk.choices and chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content
        else:
            yield client.chat.completions.create(model=model, messages=rows).choices[0].message.content or ""
    except openai.APITimeoutError as error:
        remedy = "ask again, or look at the server's logs"
        raise WaitTimeout(f"no answer within {timeout:g} s", where=url, remedy=remedy) from error
    except openai.APIConnectionError as error:
        raise ZjError("no endpoint answers here", where=url, remedy="start one with: zj serve RUN") from error
    except openai.APIStatusError as error:
        raise ZjError(f"the endpoint refused the request ({error.status_code}): {_reason(error)}", where=url) from error


def _reason(error: openai.APIStatusError) -> str:
    body = error.body
    return str(body["message"]) if isinstance(body, dict) and "message" in body else str(error)
