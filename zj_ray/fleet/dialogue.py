"""One consultation: doctor (the policy, on some engine) and patient in turns, recorded as tokens.

A finished turn is committed: when the engine of the next turn is lost, the consultation goes on elsewhere from here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import xxhash

from zj_ray.data.case import Prompt
from zj_ray.data.chat import ChatFormat
from zj_ray.data.messages import Message
from zj_ray.data.trajectory import Trajectory, Turn
from zj_ray.fleet.engine import TurnOutput, TurnRequest
from zj_ray.patients.scripted import PERSONAS, ScriptedPatient


@dataclass(frozen=True)
class DialogueSettings:
    """max_length: tokens of the whole consultation; turn_tokens: of one doctor turn."""

    max_turns: int
    turn_tokens: int
    max_length: int
    temperature: float


@dataclass(frozen=True)
class Answered:
    """A turn's tokens, where they came from and how often it was tried."""

    output: TurnOutput
    engine: str
    attempts: int


Ask = Callable[[TurnRequest, str | None], Awaitable[Answered]]


def stable_seed(*parts: object) -> int:
    """The same 31-bit seed for the same work, on any machine and in any order of events."""
    return xxhash.xxh32_intdigest("/".join(map(str, parts)).encode()) & 0x7FFFFFFF


async def consult(
    prompt: Prompt, sample: int, key: str, seed: int, chat: ChatFormat, settings: DialogueSettings, ask: Ask
) -> Trajectory:
    """Hold one consultation to its end: the patient is done, the turns are used up, or no room is left for another turn.

    seed: of the step. All samples of a prompt meet the same patient, so that what they earn can be compared.
    """
    patient, patient_seed, seed = ScriptedPatient(), stable_seed(seed, prompt.id), stable_seed(seed, prompt.id, sample)
    persona = PERSONAS[stable_seed(patient_seed, "persona") % len(PERSONAS)]
    opening = patient.reset(prompt, persona=persona, seed=patient_seed, max_turns=settings.max_turns)
    record = Trajectory(prompt.id, sample, seed, messages=[Message("user", opening)])
    record.append_context(chat.open(opening))
    flagged, engine = patient.flagged, None
    for turn in range(settings.max_turns):
        if len(record.token_ids) + settings.turn_tokens > settings.max_length:
            break
        request = TurnRequest(
            f"{key}/{prompt.id}/{sample}/{turn}",
            list(record.token_ids),
            settings.turn_tokens,
            settings.temperature,
            stable_seed(seed, turn),
            chat.stop_id,
        )
        answered = await ask(request, engine)
        engine = answered.engine
        text = chat.decode(answered.output.token_ids)
        start, end = record.append_generated(answered.output.token_ids, answered.output.logprobs)
        reply = patient.step(text)
        record.messages.append(Message("assistant", text))
        record.turns.append(
            Turn(
                start=start,
                end=end,
                text=text,
                weight_version=answered.output.version,
                engine=engine,
                finished=answered.output.finished,
                new_facts=reply.revealed,
                repeated=reply.repeated,
                flagged=flagged,
                questions=reply.questions,
                attempts=answered.attempts,
            )
        )
        flagged = reply.flagged
        if reply.done or turn == settings.max_turns - 1:
            break
        record.messages.append(Message("user", reply.text))
        record.append_context(chat.follow_up(reply.text, stopped=answered.output.finished))
    return record
