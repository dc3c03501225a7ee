"""PPO over whole consultations (`ppo/loop.py`): starts its roles and engines, and builds roles that die anew."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from zj_ray.errors import RoleLost
from zj_ray.ppo.loop import PPOLoop
from zj_ray.progress import progress
from zj_ray.roles.roles import Models, Roles
from zj_ray.runs.summary import update_summary
from zj_ray.stages.context import StageContext

logger = logging.getLogger(__name__)


def ppo(context: StageContext) -> dict[str, Any]:
    """Leaves `ppo/model`, `rollouts.jsonl`, `metrics.jsonl` and checkpoints, from which lost roles are built anew."""
    folder, restarts = context.run.stage("ppo"), context.config.ppo.role_restarts
    with progress("ppo", context.config.ppo.steps) as bar:
        for left in reversed(range(restarts + 1)):
            try:
                with started(context) as loop:
                    loop.train(bar)
                    loop.roles.export_policy(folder / "model")
                    summary = loop.record.summary(loop.fleet.checksum_failures)
                break
            except RoleLost as lost:
                if left == 0:
                    raise
                again = "the roles are built anew from the last checkpoint"
                logger.warning("%s; %s (%d more times at most)", lost, again, left - 1)
    shutil.copytree(context.run.folder / "tokenizer", folder / "model", dirs_exist_ok=True)
    update_summary(context.run.folder, summary)
    return summary


@contextmanager
def started(context: StageContext) -> Iterator[PPOLoop]:
    """The loop with its roles and engines, which start up side by side unless they share GPUs."""
    config = context.config
    policy = context.earlier_model("ppo") if config.ppo.init == "earlier" else None
    roles = Roles(
        config.ppo,
        config.model,
        seed=config.seed,
        temperature=config.consultation.temperature,
        start_timeout=config.ray.start_timeout,
        fleet=config.fleet,
    )
    shared = roles.places.of_engines
    if shared:
        context.release_fleet()  # those of an earlier stage sit elsewhere
    try:
        fleet = context.launch_fleet(context.model("sft"), shared)
        if shared:
            fleet.wait_ready()  # vLLM takes what others allocate on its GPU while it measures for its own need
        roles.start(Models(reference=context.model("sft"), reward=context.model("reward"), policy=policy))
        fleet = context.fleet(context.model("sft"))
        loop = PPOLoop(context.run, context.versions, context.chat(), roles, fleet)
        with loop.rollouts, closing(loop.saving):
            yield loop
    finally:
        if shared:
            context.release_fleet()  # they go with their places
        roles.close()
