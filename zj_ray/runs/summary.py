"""summary.json: the numbers of a run that other programs read. Each stage adds its piece; its keys are fixed here.

A key that is not in `KEYS` is a fault of the code that writes it, not of a user, so it raises ValueError; a run that is
not finished simply lacks keys. A key that an older version left in the file stays there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zj_ray.config.schema import STAGES
from zj_ray.files import read_json, write_json

KEYS = (
    *(f"stages.{stage}.{key}" for stage in STAGES for key in ("seconds", "status")),
    *(f"pretrain.{key}" for key in ("ppl_before", "ppl_after")),
    *(f"sft.{key}" for key in ("loss_before", "loss_after")),
    "feedback.krippendorff_alpha",
    *(
        f"reward.{key}"
        for key in ("pair_accuracy", "pair_accuracy_ci95", "pair_accuracy_by_length_bin", "pair_accuracy_ceiling")
    ),
    *(f"reward.pair_accuracy_{key}" for key in ("length_partialled", "length_only", "rules_only")),
    *(f"reward.pair_accuracy_{key}{ci}" for key in ("unseen_answers", "less_rules") for ci in ("", "_ci95")),
    *(f"reward.held_out_{key}" for key in ("pairs", "questions", "answers", "answers_in_training")),
    *(f"reward.{key}" for key in ("temperature", "ece", "ece_ci95")),
    *(f"ppo.{key}" for key in ("steps", "reward_first", "reward_last", "kl_last", "tokens_per_second")),
    *(f"evaluate.{key}" for key in ("reward_sft", "reward_ppo", "reward_diff_ci95")),
    *(
        f"evaluate.{key}"
        for key in ("new_facts_per_question_sft", "new_facts_per_question_ppo", "safety_pass_sft", "safety_pass_ppo")
    ),
    *(
        f"evaluate.{key}"
        for key in ("over_refusal_sft", "over_refusal_ppo", "general_perplexity", "win", "tie", "loss", "win_ci95")
    ),
    *(f"evaluate.{key}" for key in ("fell", "may_have_fallen")),
    *(f"weight_sync.{key}" for key in ("bytes", "seconds", "checksum_failures")),
    *(f"logprob_mismatch.{key}" for key in ("mean_abs", "max_abs")),
    "versions",
)


def read_summary(run_folder: Path) -> dict[str, Any]:
    """The summary so far; empty before the first stage."""
    return read_json(run_folder / "summary.json") or {}


def update_summary(run_folder: Path, patch: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `patch` into RUN/summary.json, replacing the file in one step, and return the whole.

    A number that is not finite becomes null. A leaf that is a mapping (versions, length bins) is replaced whole.
    Raises ValueError for a key that is not in `KEYS`.
    """
    merged = _merge(read_summary(run_folder), patch, "")
    write_json(run_folder / "summary.json", merged)
    return merged


def _merge(old: Mapping[str, Any], patch: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    merged = dict(old)
    for name, value in patch.items():
        key = f"{prefix}{name}"
        if key in KEYS:
            merged[name] = _finite(value)
        elif isinstance(value, Mapping) and any(leaf.startswith(f"{key}.") for leaf in KEYS):
            merged[name] = _merge(merged.get(name) or {}, value, f"{key}.")
        else:
            raise ValueError(f"summary.json has no key {key!r}; its keys stand in zj_ray/runs/summary.py")
    return merged


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
