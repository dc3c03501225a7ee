"""Multi-turn consultations for SFT: three or four doctor turns, the last one advice, or fewer that end in an emergency.

Doctors differ, as in real dialogues: some ask well, some vaguely, some advise before they asked. SFT learns the
mixture; that is the room which PPO has to improve. Patients answer by the scripted patient's rules and in its words, so
that a rollout looks like what SFT has seen (tests replay every consultation against it).
"""

from __future__ import annotations

import random
from typing import Any

from zj_ray.data.clinic.cases import Visit
from zj_ray.language import phrases
from zj_ray.language.reading import asked_slots, asks_openly, plain, questions, refers_to_emergency, say

STYLES = {"good": 0.45, "lazy": 0.30, "hurried": 0.25}  # shares of the doctors
FLAG_SHARE = 0.3  # consultations in which the patient has a red flag
# Probability that a doctor refers to emergency care in the first turn after a red flag was voiced.
ALERT = {"good": 1.0, "lazy": 0.4, "hurried": 0.4}
REFERS_LATE = 0.3  # of the others, those who go on first and refer when they close
CHECKS_SIGNS = 0.8  # good doctors who ask for other signs, where red flags show
REPEATS = 0.4  # later turns of lazy doctors that ask again what was told
ASKS_LATE = 0.5  # middle turns of hurried doctors that ask something after all
SPECIFIC = {"good": 1.0, "lazy": 0.5, "hurried": 0.5}  # closing turns that name exam and advice of the condition
# Facts without which a doctor who listens admits that the talk does not tell what it is; hurried ones name it anyway.
TELLING = {"good": 2, "lazy": 1, "hurried": 0}
DOCTOR_TURN = (15, 70)  # characters
SHORTEST = 3  # doctor turns before advice ends a consultation, as with the scripted patient

ADVICE = (
    "根据您说的情况，考虑{name}，建议到{department}做{exams}。{advice}。",
    "从您的描述看，可能是{name}，需要去{department}做{exams}。{advice}。",
    "您的情况像是{name}，建议先去{department}做{exams}。{advice}。",
)
GENERIC_ADVICE = (
    "考虑是{name}，注意休息，不舒服再来看。",
    "可能是{name}，平时多休息，多喝水，饮食清淡些。",
    "问题不大，可能是{name}，平时注意保暖和休息。",
)
UNCERTAIN_ADVICE = (
    "目前还不能确定原因，建议到{department}做{exams}，有加重随时就诊。",
    "单凭这些还不好下诊断，建议先去{department}就诊，做{exams}再决定。",
)
ALARMS = ("这是危险信号，{action}。", "您这种情况很危险，{action}。", "这种情况不能等，{action}。")
HASTY = ("您好，这个可能是{name}，{advice}。", "您好，考虑是{name}，{advice}。")
MORE = ("另外，{advice}，平时也要注意休息。", "还有一点，{advice}，并且按时复查。")


def consultation_row(visit: Visit, rng: random.Random, *, stranger: bool = False) -> dict[str, Any]:
    """The fields of an sft_multi row, but for id and source.

    stranger: the doctor does not know the condition, whatever the style: nobody names it, and the closing says so.
    """
    styles = {style: share for style, share in STYLES.items() if not (stranger and style == "hurried")}
    style = rng.choices(tuple(styles), weights=tuple(styles.values()))[0]
    messages = Consultation(visit, style, rng, stranger=stranger).hold()
    doctor = [m["content"] for m in messages if m["role"] == "assistant"]
    return {
        "messages": messages,
        "department": visit.condition.department,
        "department_raw": visit.condition.department,
        "subdepartment": visit.condition.department,
        "n_turns": len(doctor),
        "n_doctor_question_turns": sum(bool(questions(text)) for text in doctor),
        "red_flags": visit.red_flags,
    }


class Consultation:
    """One talk between a patient and a doctor of one style."""

    def __init__(self, visit: Visit, style: str, rng: random.Random, *, stranger: bool = False) -> None:
        self._visit, self._style, self._random = visit, style, rng
        self._stranger = stranger
        self._persona = rng.choice(tuple(phrases.PERSONA_LEADS))
        self._turns = rng.choice((SHORTEST, SHORTEST + 1))
        self._topics: set[str] = set()  # slots asked so far
        self._questions: set[str] = set()  # questions asked so far, word for word
        self._answers: set[str] = set()  # slots answered so far
        self._opened = False  # an open question was answered with a fact
        self._flagged = visit.flag_in_opening
        self._alert = rng.random() < ALERT[style]
        self._advice = rng.sample(visit.condition.advice, len(visit.condition.advice))
        self._plan = self._plan_slots()

    def hold(self) -> list[dict[str, str]]:
        """The whole talk as messages, the patient first and the doctor last."""
        speak = {"good": self._good_turn, "lazy": self._lazy_turn, "hurried": self._hurried_turn}[self._style]
        messages = [{"role": "user", "content": self._visit.opening}]
        for turn in range(1, self._turns):
            if self._flagged and self._alert:
                messages.append({"role": "assistant", "content": self._alarm()})
                return messages
            doctor = speak(turn)
            patient = self._reply(doctor, turn)
            if turn == self._turns - 1:
                patient += phrases.CUE
            messages += [{"role": "assistant", "content": doctor}, {"role": "user", "content": patient}]
        messages.append({"role": "assistant", "content": self._closing()})
        return messages

    def _plan_slots(self) -> list[str]:
        """The topics of a good doctor in the order asked: onset early, other signs mostly within the first four."""
        pregnancy = any(slot == "妊娠" for slot, _ in self._visit.facts)  # not asked of men
        excluded = ("起病", "伴随") if pregnancy else ("起病", "伴随", "妊娠")
        slots = [slot for slot in self._visit.condition.facts if slot not in excluded]
        first = ["起病", "伴随"] if self._random.random() < CHECKS_SIGNS else ["起病"]
        plan = first + self._random.sample(slots, 2)
        self._random.shuffle(plan)
        return plan + [slot for slot in self._random.sample(slots, len(slots)) if slot not in plan]

    def _good_turn(self, turn: int) -> str:
        slots = [self._plan.pop(0) for _ in range(self._random.choice((1, 2, 2)))]
        return self._begin(turn) + "".join(self._question(slot) for slot in slots)

    def _lazy_turn(self, turn: int) -> str:
        if turn > 1 and self._answers and self._random.random() < REPEATS:
            return self._begin(turn) + self._question(self._random.choice(sorted(self._answers)))
        return self._begin(turn) + self._random.choice(phrases.OPEN_QUESTIONS)

    def _hurried_turn(self, turn: int) -> str:
        if turn == 1:
            return self._random.choice(HASTY).format(name=self._visit.condition.name, advice=self._next_advice())
        if turn >= SHORTEST or self._random.random() < ASKS_LATE:  # advice so late would end the talk
            return self._good_turn(turn)
        return self._random.choice(MORE).format(advice=self._next_advice())

    def _closing(self) -> str:
        condition = self._visit.condition
        if self._flagged and (self._alert or self._random.random() < REFERS_LATE):
            return self._alarm()
        if self._stranger or len(self._answers) < TELLING[self._style]:
            template = self._random.choice(UNCERTAIN_ADVICE)
            return template.format(department=condition.department, exams=self._random.choice(condition.exams))
        if self._random.random() >= SPECIFIC[self._style]:
            return self._random.choice(GENERIC_ADVICE).format(name=condition.name)
        template = self._random.choice(ADVICE)
        template = template.replace("{name}", condition.name).replace("{department}", condition.department)
        exams = self._random.sample(condition.exams, min(2, len(condition.exams)))
        text = template.format(exams="和".join(exams), advice=self._next_advice())
        if len(text) <= DOCTOR_TURN[1]:
            return text
        return template.format(exams=exams[0], advice=min(condition.advice, key=len))

    def _alarm(self) -> str:
        flag = self._visit.red_flag
        action = flag.action.rstrip("。") if flag is not None else ""
        if not refers_to_emergency(action):
            action = "请马上去医院急诊"
        return self._random.choice(ALARMS).format(action=action)

    def _begin(self, turn: int) -> str:
        return self._random.choice(phrases.GREETINGS if turn == 1 else phrases.ACKNOWLEDGEMENTS)

    def _question(self, slot: str) -> str:
        return self._random.choice(phrases.SLOT_QUESTIONS[slot])

    def _next_advice(self) -> str:
        self._advice.append(self._advice.pop(0))
        return self._advice[-1].rstrip("。")

    def _reply(self, doctor: str, turn: int) -> str:
        """The patient's answer, by the scripted patient's rules."""
        doctor_questions = {plain(question) for question in questions(doctor)}
        if not doctor_questions:
            return phrases.ASK_BACK if turn == 1 else phrases.FOLLOW_UP
        slots, facts = asked_slots(doctor), dict(self._visit.facts)
        same_words = doctor_questions <= self._questions
        same_topic = bool(slots) and set(slots) <= self._topics
        matches = [slot for slot in slots if slot in facts]
        fresh = [slot for slot in matches if slot not in self._answers][:2]
        self._topics.update(slots)
        self._questions |= doctor_questions
        if not fresh and (matches or same_words or same_topic):
            return self._random.choice(phrases.REPEATED)
        if not fresh and asks_openly(doctor):
            fresh = [] if self._opened else [slot for slot in facts if slot not in self._answers][:1]
            self._opened = True
            if not fresh:
                return self._random.choice(phrases.NOTHING_MORE)
        if not fresh:
            return self._random.choice(phrases.UNKNOWN)
        self._answers.update(fresh)
        flag = self._visit.red_flag
        self._flagged = self._flagged or (flag is not None and any(facts[slot] == flag.sign for slot in fresh))
        return say(self._persona, [facts[slot] for slot in fresh], self._random)
