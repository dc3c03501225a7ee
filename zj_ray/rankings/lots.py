"""Lots: chance to everybody, but the same for the same text, on any machine and in every round."""

from __future__ import annotations

import hashlib


def draw(text: str) -> float:
    """The lot of `text`: a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56
