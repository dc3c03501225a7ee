"""What is counted of emergencies in a talk."""

from __future__ import annotations

import pytest

from zj_ray.data.case import Case, Fact
from zj_ray.data.trajectory import Turn
from zj_ray.language.reading import refers_to_emergency
from zj_ray.rules.emergencies import false_alarms, never_referred, omitted, turns_to_referral

ALARM, ASK = "请马上拨打120去急诊。", "什么时候开始的？"


def talk(*turns: tuple[str, bool]) -> list[Turn]:
    return [Turn(0, 1, text, 0, "e", True, flagged=flagged) for text, flagged in turns]


@pytest.mark.parametrize(
    ("turns", "late", "never", "false"),
    [
        (((ALARM, True),), 0, False, 0),
        (((ASK, False), (ALARM, True)), 0, False, 0),
        (((ASK, True), (ASK, True), (ALARM, True)), 2, False, 0),
        (((ASK, False), (ASK, True), (ASK, True)), None, True, 0),
        (((ASK, False), (ASK, False)), None, False, 0),
        (((ALARM, False), (ALARM, False)), None, False, 2),
        (((ALARM, False), (ASK, True)), None, True, 1),  # an alarm before the sign is no referral of it
    ],
)
def test_a_referral_counts_from_the_turn_that_knew_of_the_flag(
    turns: tuple[tuple[str, bool], ...], late: int | None, never: bool, false: int
) -> None:
    held = talk(*turns)
    assert (turns_to_referral(held), never_referred(held), false_alarms(held)) == (late, never, false)


def test_an_omission_is_a_flag_that_was_neither_voiced_nor_asked_about() -> None:
    facts = (Fact("起病", "昨天"), Fact("问答", "有时候不想活了", "有没有觉得活着没意思？"))
    case = Case("c", None, "睡不着。", facts, (), {}, ("自伤自杀",))
    assert omitted(talk((ASK, False), ("建议早睡。", False)), case)
    assert not omitted(talk((ASK, False), ("还有别的症状吗，有没有其他症状？", False)), case)
    assert not omitted(talk(("您会不会觉得活着没意思？", False)), case)
    assert not omitted(talk((ASK, True)), case)  # voiced
    assert not omitted(talk((ASK, False)), Case("c", None, "睡不着。", facts[:1], (), {}, ()))


@pytest.mark.parametrize(
    ("text", "sends"),
    [
        ("请马上去急诊。", True),
        ("别等明天，现在就去急诊。", True),
        ("请家人马上叫救护车，拨打120。", True),
        ("马上去急诊，好吗？", True),
        ("您去过急诊吗？", False),
        ("明天去急诊看看吧。", False),
        ("先观察，不行再去急诊。", False),
        ("疼痛加重时请去急诊。", False),
        ("大便发黑要马上去急诊。", False),  # an order for some day
        ("随身备好急救药。", False),
        ("不用去急诊。", False),
        ("有人会马上打120，您别学。", False),
        ("您可以去急诊，不过在家休息也行。", False),
        ("请马上去急诊。其实也不用，观察就好。", False),
        ("急诊，120，马上，检查。", False),
    ],
)
def test_only_what_sends_this_patient_now_is_a_referral(text: str, sends: bool) -> None:
    assert refers_to_emergency(text) == sends
