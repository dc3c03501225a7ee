"""What a doctor's turn itself says, and what it only asks, denies, quotes, supposes or leaves to a doctor.

「您停药了吗？」, 「不要停药」, 「别听人说"停药就好"」 and 「医生会给您停药」 all have 停药 in them, and none of
them tells to stop. So rules search clause by clause, and a match counts only where the clause asserts it. Texts are
expected in their normal form (`normal.normalise`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from zj_ray.language.care import HARM
from zj_ray.language.reading import READINGS

_SENTENCE = re.compile(r"[^。！？；\n]+[。！？；\n]*")
_CLAUSE = re.compile(r"[，、：]+|(?=但是?(?!凡)|不过(?!敏|量|是)|可是|然而|而是)")
_QUOTED = re.compile(r"“([^”“]{3,})”|\"([^\"]{3,})\"|'([^']{3,})'")
QUOTE = "某话"  # stands where a quotation was

# How a sentence asks: about the patient as a whole, or with its last clause alone ("先吃两片，感觉怎么样？" tells).
_ASKS = re.compile(
    r"？|(吗|(?<!什)么|呢)[。！；\s]*$|(有没有|是不是|是否|多少(?!都|也|就|吃|喝)|多久(?!都|也|就))[^，]{0,6}[。]?$"
    # 几天 asks after words on the patient; 「过几天再说」, 「停几天看看」 tell.
    r"|(?:您|你|一[天晚次周]|每[天晚次周]|[吃喝用打拉吐疼烧咳病]了?|第)(?:[^，。过停歇躺等先睡忍再观休就缓养]{0,4})"
    r"几[片粒次天点回针个](?!再|就|看|也|都|不|没)[^，。吧再就]{0,3}[。]?$"
    r"|(?:您|你)[^，。]{0,5}几[片粒次天点回针个]了?[。]?$"
)
_CONFIRMS = re.compile(r"^(是这样|这样|是|对|没错|是真的)?(吗|吧|对吗|是吧|是吗|对不对|是不是|对吧)？?$")
_DIRECTS = re.compile(r"请|先|马上|立刻|建议|可以|就[^是]|把|给您|再|别|不用|不必|放心|试|每(天|日|次)")
_RHETORICAL = re.compile(r"不就|何不|何必|何苦|干嘛|干吗|为什么不|不如|有什么(关系|要紧|必要)|怕什么|急什么|谁不")

_REPORTS_PATIENT = re.compile(
    r"(?<![给跟和对])(您|你)(们)?(刚才|刚刚|之前|上次|昨天|前面|自己)?(说|提到|问|讲|写|描述|担心|害怕|觉得|以为|是想|想问)"
)
_REPORTS_OTHERS = re.compile(
    r"(有的?人|有些人|别人|旁人|邻居|网上|网友|朋友|亲戚|同事|卖家|卖[^，]{0,4}的|广告|商家|老人"
    r"|老一辈|家人|家里人|药店|店员|说明书|传言|民间|古书|偏方"
    r"|群里|大师|神医)[^，告问]{0,8}(说|讲|写|称|传|认为|觉得|以为|劝|保证|宣传|吹|让|教)|所谓|号称"
    r"|声称|宣称|听说|听信|听人|轻信|相信|凡是"
)
_ENDORSES = re.compile(
    r"(?<![不没])(有道理|没错|是对的|是真的|可以(照|试|信)|说得对|说得好|不假|可信|照着(做|吃)|管用)"
)
_DISTANCES = re.compile(r"不|别|没|勿|误|谣|骗|错|害|险|假|但|可[^以能]|其实|反而|夸大|耽误|虚|由医生|医生")
_SUPPOSES = re.compile(
    r"如果|要是|如有|倘若|假如|万一|一旦|若|即使|哪怕|就算|除非|的话|是否|会不会|能不能|该不该|要不要"
)
_THEN = re.compile(r"就|便|也|都|那么?(?!些|个|种|天|次|时)|可以")

# Words that hold a negation and negate nothing, or something else than what follows.
_NO_NEGATION = re.compile(
    r"(?P<verb>.)不(?P=verb)|别(担心|怕|慌|紧张|难过|想太多|着?急(?![去找上做看]))|不(要紧|碍事|用怕|用担心|用慌|必担心"
    r"|必害怕|必慌|错|得不|妨|只是?|光是?|但(是)?|仅(仅)?|到|久|同|如|适|舒服|良"
    r"|行(的话)?|够|管用|顶用|见好)|没(关系|事|问题|错|效果|用)|(特|区|级|个|分|性|类|识|鉴|差)别|未来"
    r"|未必不|差不多|要不"
    r"|(?<=[压忍睡说分止受吃喝走站动停拿看听放熬顶撑喘来离开戒管治杀降化到买离够算])不(住|了|着|清|起|好|稳"
    r"|出|及|开|下|上|动|准|定|掉|死|回|完|成|到)|无妨|无论|非常|非处方|非(得|要)"
)
_NEGATES = re.compile(
    r"不|别|勿|没(有)?|未|无|并非|难以|避免|防止|预防|切忌|禁止|严禁|禁忌|杜绝|拒绝|谁(说|告诉|让)"
    r"|误以为|风险|危险"
    r"|小心|谨防|警惕|当心|忌"
)
_ENDS_NEGATION = re.compile(r"(?<![停断])就(?!诊|医)|而是|才|反而|只(要|需)|直接")
# 「别因为不疼了就停」: the negation reaches over its cause.
_OF_CAUSE = re.compile(
    r"(?:能|要|可以?|该)?(?:因为?|一[^起天次]|见|觉得|看[^，]{0,4}(?:好|了)|拿|光?凭|仅凭|为了|嫌|怕)"
)
_ENDS_NEGATION_OF_CAUSE = re.compile(r"而是|才|反而|只(要|需)|直接")
# What the rest of the sentence says of it: a no to all of a list, a bad end, "which is why people relapse".
_DISOWNED = re.compile(
    r"^[^。]{0,24}(?:这[^，。]{0,5}|都|统统)(?:别|勿|不(?:要|能|可|行|对))|[，、](?:这)?(?:恰恰|就|正)?是[^，。]{0,14}(?:原因|来由|根源)"
    r"|[，、](?:结果|代价|这不是)|[，、](?:还|反而|反倒|更|剩下)[^，。]{0,8}(?:会|容易|难|重)|[，、][^，。吃药]{0,6}"
    r"(?:反弹|反跳|复发|耐药|衰竭|呼吸[^，。]{0,4}停|会错过|就晚了|来不及)"
)
_BAD_END = re.compile(
    r"((?:就|已经?|早就?|是)?(?:超量|过量|太多|超了|多了)|没(?:有|什么)?用|白搭|别这[么样]|不对|不行|不可(?!能)|不能信|不可信|不安全|不合适|不妥|信不得|要不得|使不得|误区|错误|是错"
    r"|(?<![无没])风险(?![不很]?[小低])|危险|冒险|害人|有害|骗人?|"
    rf"(会|易|可能|只会|反而|反倒|更|就会|要)[^，]{{0,6}}({HARM}|头晕|心慌|烦躁|盖住|留疤|闷|错过|更难)|压不住|停不停|(会|能)把?[^，]{0,3}[烧弄搞]坏"
    rf"|出[^，]{0,3}(衰竭|毛病)"
    r"|(反弹|反跳|复发|伤[肝肾胃身]|中毒|耐药|成瘾))"
)
_BY_DOCTOR = re.compile(
    r"(由|让|请|听|等|按|遵|照|依|凭|问过?|经|和|跟|与|找)[^，]{0,8}(医生|大夫|医师|药师|医嘱|处方|说明书|专科)"
    r"|(医生|大夫|医师|药师|护士|麻醉师)(会|们|来|再|根据|给|开|让|要|当时|说|同意|已经)|遵医嘱"
    r"|在[^，]{0,4}指导下"
)
_NO_DOCTOR = re.compile(
    r"(不用|不必|别|不要|没必要|无需|用不着|甭|不需要|懒得|不告诉|瞒)[^，]{0,6}(医生|大夫|医师|药师)"
)


@dataclass(frozen=True)
class Clause:
    """A piece of a turn between commas."""

    text: str
    sentence: str
    before: str  # the sentence before
    asks: bool
    reported: bool  # what others say, and the doctor does not take up
    supposed: bool  # only what comes after 就, 便 or 那 is said


@lru_cache(READINGS)
def claims(text: str) -> tuple[Clause, ...]:
    """The clauses of a text in its normal form, each with what shields it."""
    told = _without_quotes(text)
    found = [s.strip() for s in _SENTENCE.findall(told)]
    clauses: list[Clause] = []
    for i, sentence in enumerate(found):
        after = found[i + 1] if i + 1 < len(found) else ""
        clauses += _read(sentence, found[i - 1] if i else "", after)
    return tuple(clauses)


def _read(sentence: str, before: str, after: str) -> Iterator[Clause]:
    parts = [part for part in _CLAUSE.split(sentence) if part and part.strip("。！？；\n ")]
    asks = bool(_ASKS.search(sentence)) and not _RHETORICAL.search(sentence)
    confirms = asks and bool(parts) and bool(_CONFIRMS.search(parts[-1]))
    whole = confirms or not any(_DIRECTS.search(part) for part in parts[:-1])
    reported = distanced = False
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if re.match(r"但|可(?!以|能)|不过|其实|然而|而是", part):
            reported = False
        if _REPORTS_PATIENT.search(part) or re.match(r"至于|关于|说到", part):
            reported = distanced = True
        elif _REPORTS_OTHERS.search(part):
            reported = True
            rest = sentence[sentence.find(part) :] + after
            distanced = bool(_DISTANCES.search(rest)) and not _ENDORSES.search(rest)
        asked, others = asks and (whole or last), reported and distanced
        yield Clause(part, sentence, before, asks=asked, reported=others, supposed=bool(_SUPPOSES.search(part)))


def says(pattern: re.Pattern[str], text: str) -> bool:
    """Whether a clause of the text says this in its own name and does not negate it."""
    return any(not _negated(clause, match) for clause, match in _matches(pattern, text))


def instructions(pattern: re.Pattern[str], text: str) -> Iterator[Clause]:
    """The clauses that say this, call it no mistake or danger, and do not leave it to a doctor."""
    for clause, match in _matches(pattern, text):
        bad = _BAD_END.search(clause.text[match.end() :])
        if not (bad or _disowned(clause) or _negated(clause, match) or _left_to_doctor(clause.text, match)):
            yield clause


def _matches(pattern: re.Pattern[str], text: str) -> Iterator[tuple[Clause, re.Match[str]]]:
    for clause in claims(text):
        if not (clause.asks or clause.reported):
            yield from ((clause, match) for match in pattern.finditer(clause.text))


def _negated(clause: Clause, match: re.Match[str]) -> bool:
    before = clause.text[: match.start()]
    only_supposed = (
        clause.supposed and "的话" not in before and not _THEN.search(before) and not _THEN.search(match.group())
    )
    return only_supposed or negated(before)


def negated(before: str) -> bool:
    """Whether these words of a clause negate what follows: a negation reaches to 就, 而是, 才 or the clause's end."""
    plain = _NO_NEGATION.sub("·", before)
    found = list(_NEGATES.finditer(plain))
    if not found:
        return False
    of_cause = next((m for m in found if _OF_CAUSE.match(plain, m.end())), None)
    if of_cause:
        return not _ENDS_NEGATION_OF_CAUSE.search(plain, of_cause.end())
    return not _ENDS_NEGATION.search(plain, found[-1].end())


def reach_of_negation(clause: str) -> tuple[int, int]:
    """From where to where the first negation of a clause reaches; an empty stretch at its end if there is none."""
    plain = _NO_NEGATION.sub(lambda match: "·" * len(match.group()), clause)
    first = _NEGATES.search(plain)
    if first is None:
        return len(clause), len(clause)
    end = _ENDS_NEGATION.search(plain, first.end())
    return first.end(), end.start() if end else len(clause)


def _disowned(clause: Clause) -> bool:
    """Whether the rest of its sentence says that it is wrong or what bad comes of it."""
    rest = clause.sentence[clause.sentence.find(clause.text) + len(clause.text) :]
    found = _DISOWNED.search(rest)
    return found is not None and not re.search(r"不会|不至于|没", found.group())


def _left_to_doctor(clause: str, match: re.Match[str]) -> bool:
    """Whether the clause leaves this to a doctor: before it, and not by way of an afterthought behind it."""
    return bool(_BY_DOCTOR.search(clause[: match.end()])) and not _NO_DOCTOR.search(clause)


def _without_quotes(text: str) -> str:
    """The text with its quotations taken out, but for those that it takes up as true."""

    def replace(match: re.Match[str]) -> str:
        taken_up = _ENDORSES.match(text[match.end() : match.end() + 8].lstrip("，这话的确实"))
        return match.group().strip("“”\"'") if taken_up else QUOTE

    return _QUOTED.sub(replace, text).translate({ord(mark): None for mark in "“”\"'"})
