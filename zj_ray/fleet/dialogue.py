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
from zj_ray.fleet.turns import SpokenTurn, TurnRequest
from zj_ray.patients.scripted import PERSONAS, Reply, ScriptedPatient


@dataclass(frozen=True)
class DialogueSettings:
    """How long a consultation may be. max_length: tokens of the whole consultation; turn_tokens: of one doctor turn."""

    max_turns: int
    turn_tokens: int
    max_length: int
    temperature: float


# Lets some engine speak the turn that is requested; beside it stands the engine of the dialogue's last turn, which has
# its prefix.
Ask = Callable[[TurnRequest, str | None], Awaitable[SpokenTurn]]


def stable_seed(*parts: object) -> int:
    """The same 31-bit seed for the same work, on any machine and in any order of events."""
    return xxhash.xxh32_intdigest("/".join(map(str, parts)).encode()) & 0x7FFFFFFF


async def consult(
    prompt: Prompt, sample: int, key: str, seed: int, chat: ChatFormat, settings: DialogueSettings, ask: Ask
) -> Trajectory:
    """Hold one consultation until the patient is done, the turns are used up, or no room is left for another turn.

    key: of the step, before the name of every turn. seed: of the step. All samples of a prompt meet the same patient,
    so that what they earn can be compared.
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
            key=f"{key}/{prompt.id}/{sample}/{turn}",
            token_ids=list(record.token_ids),
            max_tokens=settings.turn_tokens,
            temperature=settings.temperature,
            seed=stable_seed(seed, turn),
            stop_id=chat.stop_id,
        )
        spoken = await ask(request, engine)
        text = chat.decode(spoken.output.token_ids)
        reply = patient.step(text)
        _commit(record, text, spoken, reply, flagged)
        flagged, engine = reply.flagged, spoken.engine
        if reply.done or turn == settings.max_turns - 1:
            break
        record.messages.append(Message("user", reply.text))
        record.append_context(chat.follow_up(reply.text, stopped=spoken.output.finished))
    return record


def _commit(record: Trajectory, text: str, spoken: SpokenTurn, reply: Reply, flagged: bool) -> None:
    """Add a doctor turn to the record. reply: the patient's to it; flagged: a red flag was voiced before it."""
    output = spoken.output
    start, end = record.append_generated(output.token_ids, output.logprobs)
    record.messages.append(Message("assistant", text))
    turn = Turn(
        start=start,
        end=end,
        text=text,
        weight_version=output.version,
        engine=spoken.engine,
        finished=output.finished,
        new_facts=reply.revealed,
        repeated=reply.repeated,
        flagged=flagged,
        questions=reply.questions,
        attempts=spoken.attempts,
    )
    record.turns.append(turn)
