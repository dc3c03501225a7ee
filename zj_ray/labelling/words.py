"""Every word of the ranking page, as words.yaml has it in Chinese and English."""

from __future__ import annotations

from pathlib import Path

import yaml

LANGUAGES = ("zh", "en")
_WORDS: dict[str, dict[str, str]] = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text(encoding="utf-8"))


def words(language: str) -> dict[str, str]:
    """The text of every name in one language; {} in it takes a number or an annotator's name."""
    return {name: texts[language] for name, texts in _WORDS.items()}
