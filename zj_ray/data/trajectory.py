"""The token-level record of one consultation: tokens in, tokens out, nothing is ever tokenised twice.

`token_ids` is the whole consultation as the engines saw and produced it. `loss_mask` is true exactly where the policy
generated a token (its stop token included); the patient's words and the template's text between turns are masked out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from zj_ray.data.messages import Message


@dataclass
class Turn:
    """One doctor turn. Token positions are into the trajectory's `token_ids`."""

    start: int  # first generated token
    end: int  # one past the last generated token
    text: str
    weight_version: int
    engine: str
    finished: bool  # the policy stopped by itself, it was not cut at the token limit
    new_facts: tuple[int, ...] = ()  # indices of the case's facts that this turn's question gained
    repeated: bool = False  # it asked what the patient had already told
    flagged: bool = False  # the patient had voiced a red flag before this turn
    questions: int = 0  # questions that the turn asks
    attempts: int = 1


@dataclass
class Trajectory:
    """One consultation, as it grows turn by turn."""

    prompt_id: str
    sample: int
    seed: int
    messages: list[Message] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    loss_mask: list[bool] = field(default_factory=list)
    behaviour_logprobs: list[float] = field(default_factory=list)  # 0.0 where loss_mask is false
    turns: list[Turn] = field(default_factory=list)

    def append_context(self, token_ids: list[int]) -> None:
        """Append tokens that the policy reads but did not write."""
        self.token_ids += token_ids
        self.loss_mask += [False] * len(token_ids)
        self.behaviour_logprobs += [0.0] * len(token_ids)

    def append_generated(self, token_ids: list[int], logprobs: list[float]) -> tuple[int, int]:
        """Append tokens that the policy wrote, with the engine's log-probs; returns their start and end positions."""
        start = len(self.token_ids)
        self.token_ids += token_ids
        self.loss_mask += [True] * len(token_ids)
        self.behaviour_logprobs += logprobs
        return start, len(self.token_ids)
