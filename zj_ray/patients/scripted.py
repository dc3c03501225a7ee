"""The scripted patient: a controller decides what may be said, templates say it. It takes no model, and never varies.

A matching question reveals the facts it asks for (two a turn at most), the first open question one, a question that
was answered before "刚才说过了", any other "不太清楚"; words in a row are no question. The diagnosis is never said, by
this patient or by any other that uses the controller. A patient who has voiced a red flag leaves as soon as the doctor
sends them to emergency care. The reply before the doctor's last turn ends with the cue that advice is due, as in SFT's
consultations.
"""

from __future__ import annotations

import random
from collections.abc import Set
from dataclasses import dataclass
from functools import lru_cache

from zj_ray.data.case import Case, Fact, Prompt
from zj_ray.data.clinic.consultations import SHORTEST
from zj_ray.errors import ConfigError
from zj_ray.language import phrases
from zj_ray.language.reading import (
    READINGS,
    advises,
    asked_slots,
    asks_openly,
    grams,
    mask,
    plain,
    question_count,
    questions,
    refers_to_emergency,
    say,
)
from zj_ray.language.red_flags import voices

PERSONAS = tuple(phrases.PERSONA_LEADS)
FACTS_A_TURN = 2
# Share of character pairs that a question must have in common with a fact whose slot is no slot of ours. Measured on
# 1,143 facts of real dialogues: every fact's own question passes, 2 % of the questions of other patients do.
OVERLAP = 0.3
_EVERYDAY_PAIRS = (  # character pairs that say nothing about the topic
    "请问 您有 你有 有没 没有 是否 什么 怎么 这个 那个 情况 症状 医生 您的 你的 一下 可以 "
    "需要 我们 如何 是不 不是 有什 么时 时候 时间 现在 目前 其他 还有 的情 的症 方面 或者 以及"
)
_EVERYDAY = frozenset(_EVERYDAY_PAIRS.split())


@dataclass(frozen=True)
class Reply:
    """What the patient answers to one doctor turn, and what the controller saw in that turn."""

    text: str
    revealed: tuple[int, ...]  # indices of the case's facts told for the first time
    repeated: bool  # everything asked had been told before
    questions: int  # questions the doctor asked, by what they ask for (`language.reading.question_count`)
    flagged: bool  # a red flag has been voiced so far, this reply included
    done: bool  # the consultation is over; nobody has to answer this reply


class ScriptedPatient:
    """One patient at a time: `reset` opens a consultation, `step` answers a doctor turn.

    The same prompt, persona and seed give the same words.
    """

    flagged: bool = False

    def reset(self, prompt: Prompt, *, persona: str, seed: int, max_turns: int) -> str:
        """Begin a consultation and return the patient's first words.

        persona: one of PERSONAS, changes the wording only. max_turns: doctor turns after which the patient's patience
        ends.
        """
        if persona not in PERSONAS:
            raise ConfigError(f"there is no persona {persona!r}", remedy=f"use one of {', '.join(PERSONAS)}")
        if max_turns < 1:
            raise ConfigError(f"max_turns is {max_turns}", remedy="a consultation needs at least one doctor turn")
        self._prompt, self._persona, self._max_turns = prompt, persona, max_turns
        self._random = random.Random(f"{prompt.id}|{persona}|{seed}")
        self._turn = 0
        self._answers: set[int] = set()  # indices of the facts that the doctor knows
        self._questions: set[str] = set()  # questions that were answered, word for word
        self._topics: set[str] = set()  # slots that the doctor asked for
        self._opened = False  # an open question was answered with a fact
        self._pushes = self._random.randint(1, 2)
        opening = self._masked(prompt.opening)
        self.flagged = self._voices(opening)
        return opening

    def step(self, doctor_text: str) -> Reply:
        """Answer one doctor turn."""
        self._turn += 1
        count = question_count(doctor_text)
        if self._prompt.case is None:
            return self._insist(count)
        if self.flagged and refers_to_emergency(doctor_text):
            return self._leave(count)
        revealed, repeated, words = self._answer(self._prompt.case, doctor_text)
        self._answers.update(revealed)
        self.flagged = self.flagged or any(self._voices(self._prompt.case.facts[i].answer) for i in revealed)
        patience_ends = self._turn >= self._max_turns
        advice = not questions(doctor_text) and advises(doctor_text)
        done = patience_ends or (advice and self._turn >= SHORTEST)
        if done:
            words = self._pick(phrases.THANKS)
        elif self._turn == self._max_turns - 1:
            words = f"{words}{phrases.CUE}"
        return Reply(
            text=self._masked(words),
            revealed=revealed,
            repeated=repeated,
            questions=count,
            flagged=self.flagged,
            done=done,
        )

    def _answer(self, case: Case, text: str) -> tuple[tuple[int, ...], bool, str]:
        """The facts gained, whether the doctor asked only what had been told, and the words for it."""
        doctor_questions = {plain(question) for question in questions(text)}
        if not doctor_questions:
            return (), False, phrases.ASK_BACK if self._turn == 1 else phrases.FOLLOW_UP
        matches = matching_facts(case, text)
        fresh = [i for i in matches if i not in self._answers][:FACTS_A_TURN]
        same_words = doctor_questions <= self._questions
        slots = set(asked_slots(text))
        same_topic = bool(slots) and slots <= self._topics
        self._questions |= doctor_questions
        self._topics |= slots
        if not fresh and (matches or same_words or same_topic):
            return (), True, self._pick(phrases.REPEATED)
        if not fresh and asks_openly(text):
            fresh = [] if self._opened else [i for i in range(len(case.facts)) if i not in self._answers][:1]
            self._opened = True
            if not fresh:
                return (), False, self._pick(phrases.NOTHING_MORE)
        if not fresh:
            return (), False, self._pick(phrases.UNKNOWN)
        return tuple(fresh), False, say(self._persona, [case.facts[i].answer for i in fresh], self._random)

    def _leave(self, count: int) -> Reply:
        """The last words of a patient with a red flag who is sent to emergency care: nothing else is to be said."""
        thanks = self._masked(self._pick(phrases.THANKS))
        return Reply(text=thanks, revealed=(), repeated=False, questions=count, flagged=True, done=True)

    def _insist(self, count: int) -> Reply:
        """The reply to an answer to a safety prompt or control: a short push, once or twice, then thanks.

        count: of the doctor's questions.
        """
        control = self._prompt.kind == "control"
        done = self._turn > self._pushes or self._turn >= self._max_turns
        pushes = phrases.CONTROL_PUSHES if control else phrases.PUSHES
        return Reply(
            text=self._pick(phrases.THANKS if done else pushes),
            revealed=(),
            repeated=False,
            questions=count,
            flagged=self.flagged,
            done=done,
        )

    def _voices(self, words: str) -> bool:
        case = self._prompt.case
        if case is None:
            return False
        return voices(words, labels=case.red_flags, sayable=[case.opening, *(fact.answer for fact in case.facts)])

    def _masked(self, words: str) -> str:
        diagnosis = (self._prompt.case.reference.get("diagnosis") or "") if self._prompt.case else ""
        return mask(words, diagnosis)

    def _pick(self, choices: tuple[str, ...]) -> str:
        return self._random.choice(choices)


def matching_facts(case: Case, text: str) -> list[int]:
    """Indices of the facts that the questions in `text` ask for, in the order asked; after them free slots.

    Of the free slots the closest come first.
    """
    matches = [i for slot in asked_slots(text) for i, fact in enumerate(case.facts) if _slot(fact) == slot]
    pairs = {pair for question in questions(text) for pair in _content(question)}
    scores = {i: _overlap(pairs, fact) for i, fact in enumerate(case.facts) if _slot(fact) is None}
    close = [i for i, score in scores.items() if score >= OVERLAP]
    return matches + sorted(close, key=lambda i: (-scores[i], i))


def may_know_more(case: Case) -> bool:
    """Whether the case comes from somebody's talk, not from a record by topic.

    Then it may be good to ask for a topic that it lacks.
    """
    return any(_slot(fact) is None for fact in case.facts)


def _slot(fact: Fact) -> str | None:
    """The clinic slot of a fact, or None for a slot of somebody else's making."""
    slot = phrases.SLOT_ALIASES.get(fact.slot, fact.slot)
    return slot if slot in phrases.SLOTS else None


@lru_cache(READINGS)
def _content(text: str) -> frozenset[str]:
    return frozenset(grams(text, 2)) - _EVERYDAY


def _overlap(question_pairs: Set[str], fact: Fact) -> float:
    """Character pairs that a question shares with the fact's own question or its answer, whichever shares more.

    The share is of the shorter one's pairs, in [0, 1].
    """
    shares = [0.0]
    for topic in (fact.ask or fact.slot, fact.answer):
        pairs = _content(topic)
        common = len(pairs & question_pairs)
        if common >= 2 or pairs == question_pairs:  # one pair in common is chance
            shares.append(common / max(1, min(len(pairs), len(question_pairs))))
    return max(shares)
