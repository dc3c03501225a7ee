"""A run whose rankings come from doctors waits until they have ranked, says so, and goes on with what they said."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.helpers.labelling import items
from zj_ray.config.schema import Config, FeedbackConfig, LabelConfig
from zj_ray.data.case import Prompt
from zj_ray.errors import PeopleNeeded
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import Ranking
from zj_ray.runs.folder import Run, read_status
from zj_ray.stages import feedback as stage
from zj_ray.stages.feedback import Context, feedback


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run whose four contexts were answered before, so that no engine is needed."""
    config = Config(feedback=FeedbackConfig(source="human", label=LabelConfig(enough=0.75)))
    run = Run.open(tmp_path / "run", config)
    known = items(4)
    store = RankingStore(run.stage("feedback") / "rankings.sqlite")
    store.add_items(known)
    store.close()
    prompts = [Context(item.id, item.context, Prompt(item.prompt_id, "control", "头痛")) for item in known]
    monkeypatch.setattr(stage, "choose_contexts", lambda *_: prompts)
    return SimpleNamespace(run=run, config=config)


def test_a_run_waits_for_doctors_and_goes_on_when_enough_is_ranked(context: Any) -> None:
    store = RankingStore(context.run.folder / "feedback" / "rankings.sqlite")
    for ranked, item in enumerate(items(3)):
        with (
            pytest.raises(PeopleNeeded, match=rf"{4 - ranked} of 4 items wait for doctors.*zj label"),
            context.run.running(),
        ):
            feedback(context)
        assert read_status(context.run.folder)["state"] == "waiting"
        store.add_rankings([Ranking(item.id, "li", "human", (1, 2, 3, 4))])
    manifest = feedback(context)
    assert manifest["items"] == 3 and manifest["agreement"]["simulated"] is False
    assert not (context.run.folder / "feedback" / "utilities.json").exists()  # nobody knows the true values
    assert {r.kind for said in store.all_rankings().values() for r in said} == {"human"}
    store.close()
