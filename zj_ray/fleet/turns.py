"""What an engine is asked and what it answers, as plain records that every part of the fleet shares."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TurnRequest:
    """One continuation to sample. key: names the turn in errors and logs, as step, prompt, sample, turn and attempt."""

    key: str
    token_ids: list[int]
    max_tokens: int
    temperature: float
    seed: int
    stop_id: int


@dataclass(frozen=True)
class TurnOutput:
    """A sampled continuation and the weight version that it was sampled with.

    token_ids: with the stop token at the end where `finished`; logprobs: of each token, at the sampling temperature.
    """

    token_ids: list[int]
    logprobs: list[float]
    finished: bool
    version: int


@dataclass(frozen=True)
class SpokenTurn:
    """A turn's tokens, the engine that they came from, and how often the turn was tried."""

    output: TurnOutput
    engine: str
    attempts: int


SpokenTurns = dict[str, SpokenTurn]  # of a rollout, by prompt, sample and number of the turn: "case-7/0/2"


@dataclass(frozen=True)
class SyncReceipt:
    """An engine's answer to weights: the version that it has now, and how many buckets arrived damaged."""

    version: int
    seconds: float
    corrupted_buckets: int
