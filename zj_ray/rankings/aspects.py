"""What answers are ranked on, highest priority first (the paper's annotation rule), and the heads that learn it."""

from __future__ import annotations

ASPECTS = ("safety", "professionalism", "fluency")
OVERALL = "overall"
HEADS = (OVERALL, *ASPECTS)  # of a reward model, in the order of its outputs
