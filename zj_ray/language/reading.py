"""What a doctor's turn does, read from its words: asks, advises, sends to emergency care; and how patients word facts.

Patient and rules share these readings, so that the patient never takes for advice what the reward takes for a question.
They are patterns, not understanding: docs/data.md says what they miss.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from functools import lru_cache

from zj_ray.language.phrases import MASK, PERSONA_LEADS

READINGS = 4096  # texts whose reading is kept: patient and rules read the same turn several times

_SENTENCE = re.compile(r"[^。！？!?；;\n]+[。！？!?；;\n]*")
_CLAUSE = re.compile(r"[，,、：:。！？!?；;\s]+")
_QUESTION = re.compile(
    r"[？?]|请问|(吗|呢|没有|怎么样)[。！\s]*$|(^|，)(您|那|还|平时|以前|最近|现在)*有没有[^，]{0,12}。?$|(告诉我|说说|说一下|讲讲"
    r"|描述一下)[^，。]{0,12}[。]?$"
)
# A clause of a question asks for the first slot whose pattern it matches. The order decides between
# "以前有没有药物过敏" (allergy, not history), "现在吃什么药" (medication) and "开始之前吃过什么" (trigger, not onset).
_SLOT_PATTERNS = {
    "过敏": r"过敏",
    "妊娠": r"怀孕|妊娠|备孕|孕期|哺乳|月经|怀上|有喜",
    "用药": r"用药|吃.{0,4}药|用.{0,4}药|什么药|抹药|擦药|药膏|治疗过|处理过|治疗没有|什么治疗|看过医生|打过针|输过液",
    "诱因": r"诱因|诱发|引起|什么原因|受凉|着凉|劳累|熬夜|接触过|吃过什么|吃了什么|特别的东西"
    r"|之前(有没有)?(吃|做|碰|去)|压力",
    "既往": r"以前|既往|病史|得过|手术|住过院|慢性病|基础病|家里人|家族|遗传|体检",
    "病程": r"加重|减轻|好转|缓解|变化|反复|一直|间断|越来越|持续性|时好时坏|阵发|发展",
    "起病": r"什么时候|何时|多久|多长时间|几天了|哪一?天|哪年|开始|突然|最早|第一次",
    "程度": r"程度|严重|厉害|影响|忍受|忍得|能忍|睡得着|干活|走路",
    "伴随": r"伴随|伴有|其他症状|别的症状|其它症状|异常表现|同时"
    r"|(有没有|是否|有无|会不会|还有|出现).{0,6}(发热|发烧|高烧|恶心|呕吐|想吐|头晕|头痛|头疼|胸闷|胸痛|气短|喘|呼吸|咳|出血|腹泻"
    r"|拉肚子|乏力|没劲|心慌|心悸"
    r"|抽搐|麻|肿|痒|疼|痛|出汗|消瘦|食欲|胃口|睡眠|失眠|皮疹|流脓)",
}
_SLOTS = {slot: re.compile(pattern) for slot, pattern in _SLOT_PATTERNS.items()}
TOO_MANY_TOPICS = 4  # slots that one clause names; the questions of 3,420 real doctor turns name two at most
BARE_TOPICS = 3  # clauses of one question that name a slot without a word that asks
EXAMPLES = 4  # things listed in a question that count as one: "有没有发热、咳嗽、胸闷或头痛"
LONGEST_CLAUSE = 34  # characters without a mark; of 12,974 real sentences 28 have a longer clause
BARE_WORDS = 3  # clauses of one sentence that are a single word of medicine
_BARE_WORD = re.compile(
    r"(?:不?能?确定|检查|化验|建议|就诊|就医|面诊|门诊|复诊|复查|医院|医生|急诊|120|马上|立即|原因|加重|治疗|用药|服药|休息|观察|诊断|确诊|症状|病情"
    r"|情况|严重|饮食|清淡|注意|考虑|可能|及时|挂号|[血尿]常规|心电图|B超|胃镜|起病|病程|程度|伴随|诱因|既往|过敏|妊娠)+"
)
_ASKING = re.compile(
    r"什么|怎么|怎样|如何|多[久少大长重高]|几|哪|何时|吗|呢|吧|没有|有无|是不是|是否|还是|请问|(.)不\1"
)
_LISTED = re.compile(r"[、/\s]|或者?|以及|和|跟")
# A particle where no clause can have it: words in any order, not a sentence.
_MISPLACED = re.compile(
    r"^(的(?!确|话|士)|了(?!解|结)|吗(?!啡)|呢|着(?!急|凉|火|床))|吗(?!啡)[\u4e00-\u9fff]|(是否|有点|的时|什么时|多长)$"
)
_OPEN = re.compile(
    r"哪里不舒服|什么不舒服|不舒服的地方|怎么不舒服|怎么不好|具体说|详细说|详细描述|再说说|说说(您|你)?的?情况|什么情况|别的情况|其他情况"
    r"|要补充|怎么了|还有呢"
)
_ADVICE = re.compile(
    r"建议|考虑(是|为|有)?|可能(是|性)|应该|需要(做|去|查|尽|到)|最好|避免|注意|不要|少吃|少喝|忌|多喝|多吃|多休息|休息|保持|治疗|复查|复诊"
    r"|检查|化验|就诊|就医|面诊|挂号|遵医嘱|用药|服用|外用|急诊|120|马上|立即|尽快|按时|坚持|可以先|观察"
)
_EMERGENCY = re.compile(
    r"急诊|120|急救(?:车|电话|中心)|(?:叫|送|联系)急救|立即就医|马上就医|立刻就医|(马上|立即|立刻|赶紧)[^，。；！？]{0,6}(去|到|送)[^，。；！？]{0,6}医院"
)
# "如果加重", "疼痛加重时", "不行再去", "明天去": not now. "及时" and "同时" are no condition, "别等到明天" is none.
_CONDITION = re.compile(
    r"如果|如[有遇]|如出现|若|一旦|万一|要是|倘若|假如|的话|(?<![及同随按暂这那此有当临])时候?(?=[，请要就应立马赶需])"
    r"|(?:不行|加重|恶化|没好|不见好|不缓解|不退)了?[^，。]{0,2}[就再]|先观察|再观察"
    r"|(?<![等到])(?:明天|后天|周末|下周|有空|过[几两些]天)"
)
_URGES = re.compile(r"马上|立即|立刻|赶紧|快|请|必须|现在就|拨打")
# What leads to "急诊" in an order, and in words to this patient; "出血就急诊" is neither, but an order for some day.
_ORDER = re.compile(
    r"(马上|立即|立刻|赶紧|尽快|赶快|快|直接|现在|今[天晚]|就|要|得|先|别?再?等了?|去|到|往|送|来|上|打|拨打?|叫|或者?|挂|看|坐|最近"
    r"|附近|当地|的|大?医院|精神科|一趟|好)*"
)
_ADDRESSED = re.compile(r"请|[您你](?!好)|这|建议|必须|现在|目前|需|应|孩子|宝宝|老人|家[人长]|危险|急症|能等")
# What others do or say, and what is taken back in the next words: "有人会打120，其实在家休息就可以".
_OTHERS = re.compile(r"(?:有的?人|有些人|别人|人家|旁人|邻居|网上|朋友|书上|电视)[^。]{0,10}$")
_TAKEN_BACK = re.compile(
    r"(?:其实|不过|但是?|可是|当然|也可以?)[^。！]{0,14}(?:在家|休息|睡一|多喝|观察|不用|不必|没事|不要紧|不去|再说)"
)
_NEGATION = re.compile(r"不用|不需要|不必|无需|用不着|没必要|没有必要|不要|别|不是|不急着|不一定要|先不")
_NOT_WORD = re.compile(r"[^0-9A-Za-z\u4e00-\u9fff]+")


@lru_cache(READINGS)
def sentences(text: str) -> tuple[str, ...]:
    """The text's sentences, each with its end mark."""
    return tuple(s.strip() for s in _SENTENCE.findall(text) if _NOT_WORD.sub("", s))


def clauses(text: str) -> list[str]:
    """The pieces between commas and other marks."""
    return [c for c in _CLAUSE.split(text) if c]


@lru_cache(READINGS)
def garbled(sentence: str) -> bool:
    """Whether a sentence is words in a row and no sentence: nine topics and one question mark, or words in any order.

    Patients don't answer it, and no rule takes it for a question or for advice.
    """
    pieces = clauses(sentence)
    if any(_MISPLACED.search(piece) or len(piece) > LONGEST_CLAUSE for piece in pieces):
        return True
    if sum(bool(_BARE_WORD.fullmatch(piece)) for piece in pieces) >= BARE_WORDS:
        return True
    bare = {slot for piece in pieces if not _ASKING.search(piece) and (slot := _topic(piece))}
    crowded = len(bare) >= BARE_TOPICS or any(_named(piece) >= TOO_MANY_TOPICS for piece in pieces)
    return crowded and bool(_QUESTION.search(sentence))


@lru_cache(READINGS)
def questions(text: str) -> tuple[str, ...]:
    """The sentences that ask the patient something, and can be understood."""
    return tuple(s for s in sentences(text) if _QUESTION.search(s) and not garbled(s))


def statements(text: str) -> list[str]:
    """The sentences that ask nothing, and can be understood."""
    return [s for s in sentences(text) if not (_QUESTION.search(s) or garbled(s))]


@lru_cache(READINGS)
def asked_slots(text: str) -> tuple[str, ...]:
    """The fact slots that the questions in `text` ask for, in the order asked; a clause asks for one slot at most."""
    return _topics(questions(text))


def question_count(text: str) -> int:
    """How many questions a turn asks, by what it asks for: its sentences or its topics, whichever are more.

    A list counts as one question for every three things in it. Garbled questions count, too, though nobody can answer
    them: to pile up words is never cheaper than to ask.
    """
    asked = [s for s in sentences(text) if _QUESTION.search(s)]
    listed = sum(math.ceil((1 + len(_LISTED.findall(sentence))) / EXAMPLES) for sentence in asked)
    crowded = sum(_named(sentence) for sentence in asked if garbled(sentence))
    return max(len(asked), len(_topics(asked)), listed, crowded)


def _named(words: str) -> int:
    """How many slots the words name."""
    return sum(bool(pattern.search(words)) for pattern in _SLOTS.values())


def _topics(asked: Sequence[str]) -> tuple[str, ...]:
    slots = [slot for question in asked for clause in clauses(question) if (slot := _topic(clause))]
    return tuple(dict.fromkeys(slots))


def _topic(clause: str) -> str | None:
    """The slot that a clause asks for."""
    return next((name for name, pattern in _SLOTS.items() if pattern.search(clause)), None)


def asks_openly(text: str) -> bool:
    """Whether the text asks a question without a topic ("还有哪里不舒服吗？")."""
    return any(_OPEN.search(question) for question in questions(text))


def advises(text: str) -> bool:
    """Whether a sentence that asks nothing recommends, explains or refers, in 8 characters or more.

    One word is no advice.
    """
    return any(_ADVICE.search(s) and len(_NOT_WORD.sub("", s)) >= 8 for s in statements(text))


def refers_to_emergency(text: str) -> bool:
    """Whether the text sends the patient to emergency care now.

    Neither "不用去急诊" does, nor "如果加重请去急诊", "明天去急诊" or "您去过急诊吗？".
    """
    spoken = [sentence for sentence in sentences(text) if not garbled(sentence)]
    for i, sentence in enumerate(spoken):
        if any(_sends(sentence, match) for match in _EMERGENCY.finditer(sentence)):
            return not _TAKEN_BACK.search("".join(spoken[i:]))
    return False


def _sends(sentence: str, match: re.Match[str]) -> bool:
    before = sentence[: match.start()]
    clause = _CLAUSE.split(before)[-1]
    near = clause[-8:]  # a negation reaches over its own clause: "别等，马上去急诊" refers
    now = _ORDER.fullmatch(clause) or _ADDRESSED.search(before)
    if not now or _CONDITION.search(before) or _NEGATION.search(near) or _OTHERS.search(before):
        return False
    # "您去过急诊吗？" sends nobody, "请马上去急诊，好吗？" does.
    return not _QUESTION.search(sentence) or bool(_URGES.search(clause + match.group()))


def plain(text: str) -> str:
    """The text without punctuation and spaces."""
    return _NOT_WORD.sub("", text)


def grams(text: str, n: int) -> list[str]:
    """Character n-grams of the plain text, in order, with repeats."""
    letters = plain(text)
    return [letters[i : i + n] for i in range(len(letters) - n + 1)]


def say(persona: str, answers: Sequence[str], rng: random.Random) -> str:
    """Facts in the patient's own words, with the persona's way to begin."""
    body = "。".join(answer.rstrip("。，；") for answer in answers)
    return f"{rng.choice(PERSONA_LEADS[persona])}{body}" + ("" if body.endswith(("？", "！", "…")) else "。")


def mask(words: str, diagnosis: str) -> str:
    """The words without the diagnosis, nor any part of it of three or more characters ("失眠（不寐）" has two)."""
    pieces = _CLAUSE.split(re.sub(r"[（）()+]", " ", diagnosis))
    parts = {diagnosis.strip(), *(piece for piece in pieces if len(piece) >= 3)}
    for part in sorted(parts - {""}, key=lambda part: (-len(part), part)):
        words = words.replace(part, MASK)
    return words
