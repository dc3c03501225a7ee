"""Keys of earlier versions: where each stands now, or what to do in its place.

An old key that a user writes is refused with these words. A run that an earlier version started goes on: its frozen
config is read with the keys at their new places (`load_config(..., frozen=True)`), and a key that it lacks, because the
version had no such choice, with what that version did.
"""

from __future__ import annotations

MOVED = {
    "ppo.turn_tokens": "consultation.turn_tokens",
    "ppo.max_turns": "consultation.max_turns",
    "ppo.temperature": "consultation.temperature",
    "ppo.rollout_timeout": "consultation.timeout",
}
REMOVED = {
    "ppo.top_p": "leave it out: turns are sampled from the whole distribution, as the trainer's log-probs are taken",
    "fleet.http_port": "leave it out; `zj scale RUN --rollouts N` and `zj status RUN` do the same",
}
BEFORE = {"ppo.safety.method": "weight"}
