"""One spelling for one text: full-width, traditional and pulled-apart characters are read as what they look like.

Rules that look for words see nothing in 「停 藥」 or 「吃④片」. Every text that is judged is brought into this form
first; what the user sees is never changed.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache

from opencc import OpenCC

TEXTS = 4096  # texts whose normal form is kept: the gate and the judge read the same turn

_MARKS = str.maketrans(",;:!?()~|", "，；：！？（）～，")
_QUOTES = str.maketrans("「」『』“”〝〞《》", "“”“”“”“”“”")
_CAPITALS = str.maketrans("壹贰叁肆伍陆柒捌玖拾佰仟两", "一二三四五六七八九十百千两")  # numerals as banks write them
# Written apart or with another radical to slip past a filter; what NFKC and OpenCC leave as it is.
_DISGUISES = {
    "仃": "停",
    "口乞": "吃",
    "口曷": "喝",
    "口乍": "咋",
    "氵去": "法",
    "艹约": "药",
    "喫": "吃",
    "藥": "药",
    "葯": "药",
    "💊": "药",
    "💉": "针",
    "🍺": "酒",
    "🍷": "酒",
    "🍶": "酒",
    "🔪": "刀",
    "💀": "死",
    "☠": "死",
    "🏥": "医院",
    "🚑": "救护车",
    "❌": "不",
    "🚫": "不",
    "🙅": "不",
    "✅": "可以",
    "👌": "可以",
    "🛑": "停",
}
# Characters taken apart into a radical that is no character by itself, or seldom, and the rest.
_PARTS = {
    "氵": "去法 酉酒 夜液 先洗 肖消 主注 台治 包泡 夬决 由油 昆混 每海 显湿 斗汁 罙深 曷渴 戋浅 少沙 束漱 余涂",
    "冫": "咸减 令冷 水冰 东冻",
    "艹": "约药 古苦 早草 倍蓓 胡葫 采菜 平苹 术茶",
    "扌": "丁打 非排 卓掉 末抹 安按 柔揉 由抽 妾接 奂换 齐挤 白拍 圭挂 无抚 合拾 察擦 参掺",
    "亻": "亭停 也他 木休 本体 吏使 故做 呆保 昔借 象像 两俩 门们",
    "讠": "人认 兑说 舌话 正证 午许 只识 青请 井讲 羊详 式试",
    "钅": "十针 丐钙 失铁 甲钾 内钠 甬铜 艮银 里锂",
    "疒": "丙病 正症 冬疼 甬痛 炎痰 尤疣 皮疲 艮痕 加痂",
    "饣": "反饭 欠饮 我饿 并饼 包饱",
    "忄": "白怕 亡忙 青情 曼慢 艮恨",
    "纟": "合给 工红 吉结 从纵 且组",
    "辶": "力边 米迷 元远 关送 寸过 斤近",
    "口": "亥咳 觜嘴",
    "火": "尧烧",
    "女": "乃奶",
    "目": "民眠",
    "石": "卒碎",
    "米": "唐糖",
}
_DISGUISES |= {radical + pair[0]: pair[1] for radical, pairs in _PARTS.items() for pair in pairs.split()}
_DISGUISES |= {"肖毒": "消毒", "亭药": "停药", "亭掉": "停掉", "亭了": "停了", "亭用": "停用"}
_DISGUISED = re.compile("|".join(sorted(_DISGUISES, key=len, reverse=True)))
_LOOSE = re.compile(r"(?<=[\u3400-\u9fff]) +(?=[，。！？；、])")
_HAN = r"[\u3400-\u9fff]"
_PULLED_APART = re.compile(rf"(?<={_HAN})[ \-_*·.]+(?={_HAN})|(?<=\d) +(?={_HAN})|(?<={_HAN}) +(?=\d)")
_POINT = re.compile(r"(?<!\d)\.+|\.+(?!\d)")
_BRACKETED_NUMBER = re.compile(r"\(([一二三四五六七八九十\d]{1,2})\)(?=[片粒颗次支包滴丸])")  # ㈣片
_COMMA_IN_NUMBER = re.compile(r"(?<=\d)，(?=\d{3}(?!\d))")


@cache
def _to_simplified() -> OpenCC:
    return OpenCC("t2s")


@lru_cache(TEXTS)
def normalise(text: str) -> str:
    """The text in NFKC, simplified characters, Chinese marks and one kind of quotes.

    Neither characters without a width nor spaces between Chinese characters are left.
    """
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"[^\S\n]", " ", "".join(c for c in text if not _unseen(c)))
    text = _to_simplified().convert(text).translate(_CAPITALS).translate(_QUOTES)
    text = _DISGUISED.sub(lambda match: _DISGUISES[match.group()], text)
    text = _BRACKETED_NUMBER.sub(r"\1", text)
    text = _POINT.sub("。", _PULLED_APART.sub("", text)).translate(_MARKS)
    text = _LOOSE.sub("", text)
    return _COMMA_IN_NUMBER.sub("", text).strip().lower()


def _unseen(char: str) -> bool:
    """Format characters (zero-width, direction, soft hyphen) and marks that hang on nothing in Chinese."""
    return unicodedata.category(char) in ("Cf", "Mn", "Me", "Co") or char in "\u115f\u3164\uffa0"
