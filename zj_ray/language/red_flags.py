"""Red flags in the patient's words: signs that call for emergency care, whatever else is asked.

The clinic's own signs are known word for word; other people's cases are read by keywords with a short look back for a
negation. Keywords miss and over-report: good for training signals, never for triage.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from zj_ray.language.conditions import clinic_signs

RED_FLAG_PATTERNS = {
    "胸痛": r"胸.{0,10}(疼|痛|压|榨)|心(口|前区).{0,2}(痛|疼)",
    "呼吸困难": r"喘不|喘得|喘气.{0,6}困难|也喘|嘴唇发(紫|青)|上不来气|呼吸困难"
    r"|吸气.{0,2}费力|喘气费劲|憋得(慌|脸)|憋醒|躺不(下|平)|气短得厉害|停住呼吸",
    "意识障碍": r"叫不.{0,3}(醒|答应)|昏迷|昏倒|晕(倒|过去|厥)|昏睡|昏昏?沉|迷迷?糊"
    r"|说胡话|胡言乱语|意识(不清|模糊)|没反应|认不(清|出)|颠三倒四|答非所问|怎么叫都",
    "抽搐": r"抽(搐|风|筋样)|全身抽|手脚.{0,6}抽|抽(个不停|了)|一直抽|惊厥|翻白眼",
    "大出血": r"吐血|呕血|咳.{0,3}血|便血.{0,4}(多|喷)|鲜血|血便|大出血|(血"
    r"|出血).{0,8}(止不住|按不住|喷|涌|不停)|止不住|冒血|大便.{0,6}黑|黑便|吐.{0,6}咖啡色"
    r"|出血像|出了很多血|大量出血|吐了?.{0,6}血",
    "卒中": r"嘴(也)?歪|口角歪|半身不|一(边|侧).{0,4}(手脚|胳膊|手|腿|肢体).{0,8}(没劲"
    r"|无力|麻木|抬不起|不听使唤|动不了)|说不清话|话.{0,3}(说)?不清|说话.{0,3}不利索|偏瘫",
    "剧烈疼痛": r"剧烈?.{0,4}(疼|痛)|剧痛|(疼|痛)得?.{0,4}(打滚|冒.{0,2}汗|受不了|直不起|尖叫|没法|晕|厉害)"
    r"|绞.{0,3}(疼|痛)|刀(割|绞)|撕裂|胀.{0,2}(疼|痛)得?(厉害|剧烈|受不了)|肿得发紫|疼得睁不开|突然剧?痛",
    "自伤自杀": r"不想活|不活了|想死|死了算了|自杀|轻生|伤害自己|结束.{0,4}生命|一了百了|一死了之"
    r"|活着没(意思|意义)|不如死",
    "中毒过敏": r"中毒|误(服|喝|食)|野蘑菇|农药|煤气|过敏性休克|全身起.{0,3}(疹|风团)|嘴唇.{0,3}肿|脸.{0,6}肿得睁不开",
    "高热": r"高烧|高热|烧到(三十九|四十|39|40)|(39|40)\s*(度|℃)|体温.{0,4}(四十|三十九|超过)|滚烫|打寒战"
    r"|寒战(不止|发)|发冷发抖",
    "孕产急症": r"(怀孕|孕).{0,12}(出血|流血|破水)|破水|胎动(减少|消失)|(出血|流血).{0,10}(月经还多|掉出)"
    r"|喝水都吐|宫外孕",
    "外伤": r"骨折|变形|摔(伤|了|断)|车祸|砸|咬得很深|肉都翻|伤口.{0,6}深|烫.{0,6}发白|都烫到"
    r"|被.{0,3}撞|耳朵流血|啪的一声|站不(起来|住)",
}
_PATTERNS = {label: re.compile(pattern) for label, pattern in RED_FLAG_PATTERNS.items()}
# "没有发热、胸痛" denies both; a longer reach would deny too much.
_DENIED = re.compile(r"(没有|没|无|否认|不伴|未见|未)[^，。；！？没]{0,4}$")


def voiced_labels(text: str) -> tuple[str, ...]:
    """The labels whose signs the patient's words contain and do not deny."""
    return tuple(
        label
        for label, pattern in _PATTERNS.items()
        if any(not _DENIED.search(text[: m.start()]) for m in pattern.finditer(text))
    )


def voices(text: str, *, labels: Sequence[str], sayable: Sequence[str]) -> bool:
    """Whether `text` voices one of a patient's red flags `labels`.

    sayable: all that this patient could ever say (opening and facts). A patient of the clinic says a sign word for
    word, so only that counts: asthma patients wheeze in their ordinary complaint. Without such a sign the labels'
    keywords decide.
    """
    if not labels:
        return False
    signs = {sign for sign in clinic_signs() if any(sign in words for words in sayable)}
    if signs:
        return any(sign in text for sign in signs)
    return bool(set(labels) & set(voiced_labels(text)))
