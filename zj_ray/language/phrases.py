"""What doctors ask and patients say, read from phrases.yaml: for SFT's consultations and the scripted patient alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_FILE: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("phrases.yaml").read_text(encoding="utf-8"))

CUE: str = _FILE["cue"]
ASK_BACK: str = _FILE["ask_back"]
FOLLOW_UP: str = _FILE["follow_up"]
MASK: str = _FILE["mask"]

REPEATED: tuple[str, ...] = tuple(_FILE["repeated"])
UNKNOWN: tuple[str, ...] = tuple(_FILE["unknown"])
NOTHING_MORE: tuple[str, ...] = tuple(_FILE["nothing_more"])
THANKS: tuple[str, ...] = tuple(_FILE["thanks"])
PUSHES: tuple[str, ...] = tuple(_FILE["pushes"])
CONTROL_PUSHES: tuple[str, ...] = tuple(_FILE["control_pushes"])
CONTROL_CLOSINGS: tuple[str, ...] = tuple(_FILE["control_closings"])
OPEN_QUESTIONS: tuple[str, ...] = tuple(_FILE["open_questions"])
GREETINGS: tuple[str, ...] = tuple(_FILE["greetings"])
ACKNOWLEDGEMENTS: tuple[str, ...] = tuple(_FILE["acknowledgements"])

PERSONA_LEADS: dict[str, tuple[str, ...]] = {name: tuple(leads) for name, leads in _FILE["persona_leads"].items()}
SLOT_QUESTIONS: dict[str, tuple[str, ...]] = {slot: tuple(asks) for slot, asks in _FILE["slot_questions"].items()}
SLOT_ALIASES: dict[str, str] = _FILE["slot_aliases"]
SLOTS = tuple(SLOT_QUESTIONS)
