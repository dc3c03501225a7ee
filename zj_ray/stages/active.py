"""How far the ensemble of reward models disagrees about items that nobody has ranked: those teach it most (`feedback.label.active`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zj_ray.evaluation.reward_model import disagreements
from zj_ray.rankings.tables import Item
from zj_ray.roles.group import RoleGroup
from zj_ray.roles.placement import Places
from zj_ray.roles.reward import RewardRank
from zj_ray.stages.context import StageContext
from zj_ray.stages.reward import ranking_examples, unranked
from zj_ray.training.packing import plan_rows
from zj_ray.training.supervised.examples import Examples
from zj_ray.training.zero_engine import EngineSpec


def rate(context: StageContext, items: Sequence[Item]) -> dict[str, float]:
    """{item id: disagreement} by the reward models that the run has; empty where it has but one."""
    members = [context.model("reward"), *sorted((context.run.folder / "reward").glob("member-*/model"))]
    if len(members) == 1 or not items:
        return {}
    labelled = [unranked(item) for item in items]
    examples = ranking_examples(labelled, context.chat(), context.config.model.max_length)
    return disagreements(labelled, np.array([_scores(context, model, examples) for model in members]))


def _scores(context: StageContext, model: Path, examples: Examples) -> np.ndarray:
    """`[answers, heads]`, by the role that scores consultations in PPO."""
    config, role, timeout = context.config, context.config.ppo.reward, context.config.ppo.role_timeout
    places = Places({"reward": role})
    group = RoleGroup("reward", RewardRank, role, places, timeout, config.model, config.seed, timeout)
    try:
        places.wait(config.ray.start_timeout)
        spec = EngineSpec(None, 1.0, role.zero_stage, offload=role.offload, dtype=config.model.dtype)
        group.wait(group.start(str(model), spec), what="load its model")
        rows = plan_rows([len(ids) for ids in examples.token_ids], group.size, config.ppo.micro_batch_tokens)
        asked = group.call("scores", examples.token_ids, examples.positions, rows)
        return np.concatenate(group.merge(asked, len(examples), what="score new answers"))
    finally:
        group.close()
        places.close()
