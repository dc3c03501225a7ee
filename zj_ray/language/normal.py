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
_DISGUISED = re.compile("|".join(_DISGUISES))
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
    return _COMMA_IN_NUMBER.sub("", text).strip().lower()


def _unseen(char: str) -> bool:
    """Format characters (zero-width, direction, soft hyphen) and marks that hang on nothing in Chinese."""
    return unicodedata.category(char) in ("Cf", "Mn", "Me", "Co") or char in "\u115f\u3164\uffa0"
