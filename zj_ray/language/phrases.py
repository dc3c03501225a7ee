"""What doctors ask and patients say, read from phrases.yaml: for SFT's consultations and the scripted patient alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_FILE: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("phrases.yaml").read_text(encoding="utf-8"))


def _texts(key: str) -> tuple[str, ...]:
    return tuple(_FILE[key])


CUE: str = _FILE["cue"]
ASK_BACK: str = _FILE["ask_back"]
FOLLOW_UP: str = _FILE["follow_up"]
MASK: str = _FILE["mask"]

REPEATED = _texts("repeated")
UNKNOWN = _texts("unknown")
NOTHING_MORE = _texts("nothing_more")
THANKS = _texts("thanks")
PUSHES = _texts("pushes")
CONTROL_PUSHES = _texts("control_pushes")
CONTROL_CLOSINGS = _texts("control_closings")
OPEN_QUESTIONS = _texts("open_questions")
GREETINGS = _texts("greetings")
ACKNOWLEDGEMENTS = _texts("acknowledgements")

PERSONA_LEADS: dict[str, tuple[str, ...]] = {name: tuple(leads) for name, leads in _FILE["persona_leads"].items()}
SLOT_QUESTIONS: dict[str, tuple[str, ...]] = {slot: tuple(asks) for slot, asks in _FILE["slot_questions"].items()}
SLOT_ALIASES: dict[str, str] = _FILE["slot_aliases"]
SLOTS = tuple(SLOT_QUESTIONS)
