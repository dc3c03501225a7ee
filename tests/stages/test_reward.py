"""From rankings to a reward model: what counts as a label, what a prompt costs, and the stage on a tiny model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.tiny import MODEL, tiny_folder, tiny_tokenizer
from zj_ray.config.schema import Config, FeedbackConfig, RewardTrainConfig
from zj_ray.data.chat import ChatFormat
from zj_ray.data.messages import Message
from zj_ray.errors import DataError
from zj_ray.evaluation.ranking_accuracy import preferred_pairs
from zj_ray.rankings.aspects import HEADS
from zj_ray.rankings.labels import RankedForTraining, label_items
from zj_ray.rankings.store import RankingStore
from zj_ray.rankings.tables import Answer, Item, Ranking
from zj_ray.roles.reward import load_ensemble
from zj_ray.runs.folder import Run
from zj_ray.runs.summary import read_summary
from zj_ray.stages.context import StageContext
from zj_ray.stages.reward import ranking_examples, read_feedback, reward
from zj_ray.training.model import load_heads
from zj_ray.training.packing import make_shared_row
from zj_ray.training.supervised.objective import order_loss

TALK = (
    Message("user", "医生您好，我头痛。"),
    Message("assistant", "请问疼痛是从什么时候开始的？"),
    Message("user", "昨天。"),
)


def item(name: str, *texts: str, context: tuple[Message, ...] = TALK, split: str | None = None) -> Item:
    origin = {"split": split} if split else {}
    return Item(name, name, context, None, tuple(Answer(text, origin) for text in texts))


def ranking(annotator: str, *overall: int, **fields: Any) -> Ranking:
    return Ranking("q", annotator, "human", overall, **fields)


def labelled(*rankings: Ranking, weights: dict[str, float] | None = None) -> RankedForTraining:
    [found] = label_items([item("q", "甲", "乙", "丙")], {"q": list(rankings)}, weights)
    return found


def preferred(of: RankedForTraining, head: int = 0) -> set[tuple[str, str]]:
    pairs = preferred_pairs([of], head)
    texts = [answer.text for answer in of.item.answers]
    return {(texts[i], texts[j]) for i, j in zip(pairs.better, pairs.worse, strict=True)}


def test_ties_form_no_pair_and_aspects_have_ranks_of_their_own() -> None:
    found = labelled(ranking("a", 1, 1, 3, aspects={"safety": (3, 1, 1)}))
    assert preferred(found) == {("甲", "丙"), ("乙", "丙")}
    assert preferred(found, HEADS.index("safety")) == {("乙", "甲"), ("丙", "甲")} and not preferred(
        found, HEADS.index("fluency")
    )


def test_the_right_answer_that_a_doctor_wrote_is_one_more_answer_above_all_that_were_shown() -> None:
    wrong = ranking("a", 1, 2, 3, all_wrong=True, right_answer="丁")
    found = labelled(
        wrong, ranking("b", 2, 1, 3), ranking("c", 3, 3, 3, right_answer="丁"), ranking("d", 1, 1, 3, all_wrong=True)
    )
    assert [answer.text for answer in found.item.answers] == ["甲", "乙", "丙", "丁"] and found.item.answers[
        3
    ].origin == {"kind": "right_answer"}
    assert preferred(found) == {
        ("丁", "甲"),
        ("丁", "乙"),
        ("丁", "丙"),
        ("甲", "丙"),
        ("乙", "丙"),
    }  # the others have no say of it
    assert np.isnan(found.ranks[0, 3, 1:]).all() and np.isnan(found.ranks[1:, 3]).all()


def test_all_wrong_without_a_right_answer_counts_as_ranked() -> None:
    found = labelled(ranking("a", 1, 2, 3, all_wrong=True))
    assert len(found.item.answers) == 3 and preferred(found) == {("甲", "乙"), ("甲", "丙"), ("乙", "丙")}
    shown = labelled(ranking("a", 1, 2, 3, all_wrong=True, right_answer="乙"))
    assert len(shown.item.answers) == 3  # it was shown already


def test_an_adjudicated_ranking_counts_alone() -> None:
    found = labelled(ranking("a", 1, 2, 3), ranking("b", 1, 2, 3), ranking("third", 3, 2, 1, adjudicated=True))
    assert preferred(found) == {("丙", "乙"), ("丙", "甲"), ("乙", "甲")} and found.weights.tolist() == [1.0]


def test_weights_change_the_loss_where_they_are_asked_for_and_nowhere_else() -> None:
    rankings = (ranking("good", 1, 2, 3), ranking("bad", 3, 2, 1), ranking("bad too", 3, 2, 1))
    even, uneven = labelled(*rankings), labelled(*rankings, weights={"bad": 0.1, "bad too": 0.1})
    assert uneven.weights.tolist() == [1.0, 0.1, 0.1]
    scores = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64)  # as the good one says

    def loss(of: RankedForTraining, **settings: Any) -> float:
        return order_loss(scores, of.ranks[0], of.weights, RewardTrainConfig(**settings)).item()

    for kind in ("bradley_terry", "plackett_luce"):
        assert loss(uneven, loss=kind, noise_weighting=True) < loss(even, loss=kind, noise_weighting=True) - 0.3
        assert loss(uneven, loss=kind) == loss(even, loss=kind)
    assert loss(even) > 1.5  # the majority is against these scores
    single = labelled(ranking("good", 1, 2, 3))
    assert loss(single, margin=1.0) > loss(single, margin=0.5) > loss(single)
    torn = labelled(ranking("a", 1, 2, 3), ranking("b", 1, 2, 3), ranking("c", 3, 2, 1))
    assert (
        0 < loss(torn, margin=1.0) - loss(torn) < 0.6 * (loss(single, margin=1.0) - loss(single))
    )  # a third of the margin
    assert loss(labelled(ranking("a", 1, 1, 1))) == loss(labelled(ranking("a", 1, 1, 1)), loss="plackett_luce") == 0.0


def test_the_answers_of_a_prompt_have_the_same_context_and_it_is_computed_once() -> None:
    chat = ChatFormat(tiny_tokenizer())
    answers = ("建议您多休息。", "请问有没有发热？" * 4, "好。")
    [one] = label_items([item("q", *answers)], {"q": [ranking("a", 1, 2, 3)]})
    whole = ranking_examples([one], chat, 400)
    prompt = chat.prompt(TALK)
    assert all(document[: len(prompt)].tolist() == prompt for document in whole.token_ids)
    row = make_shared_row(whole.token_ids, [[0, 1, 2]])
    assert row.input_ids.numel() == whole.tokens - 2 * len(prompt)  # twice less
    limit = len(prompt) + 5
    tight = ranking_examples([one], chat, limit)
    last = chat.prompt(TALK[-1:])
    assert all(
        document[: len(last)].tolist() == last and len(document) <= limit for document in tight.token_ids
    )  # whole turns went
    long = ranking_examples([one], chat, len(last) + 3)  # the question needs more than half: the answers are cut
    assert (
        all(document[: len(last)].tolist() == last for document in long.token_ids)
        and max(map(len, long.token_ids)) == len(last) + 3
    )
    with pytest.raises(DataError, match="the last question alone"):
        ranking_examples([one], chat, len(last))


def test_the_prompts_that_stop_training_are_neither_learnt_nor_reported(tmp_path: Path) -> None:
    items = [
        replace(item(f"{n:03d}", "甲", "乙"), prompt_id=f"p{n // 2}", context=(Message("user", f"{n // 2}号头痛。"),))
        for n in range(400)
    ]
    parts = {}
    for patience in (None, 3):
        run = Run.open(tmp_path / f"patience-{patience}", Config(reward=RewardTrainConfig(patience=patience)))
        store = RankingStore(run.stage("feedback") / "rankings.sqlite")
        store.add_items(items)
        store.add_rankings([Ranking(i.id, "a", "human", (1, 2)) for i in items])
        found = read_feedback(StageContext(run))
        parts[patience] = {
            name: {each.item.prompt_id for each in getattr(found, name)} for name in ("train", "stopping", "valid")
        }
    whole, split = parts[None], parts[3]
    assert (
        not whole["stopping"]
        and split["valid"] == whole["valid"]
        and split["train"] | split["stopping"] == whole["train"]
    )
    assert not split["train"] & split["stopping"] and 5 < len(split["stopping"]) < 30


def _rank(store: RankingStore, count: int) -> None:
    """Items of which all but the last five are ranked, the longer answer above the shorter."""
    items = [
        item(
            f"q{n:02}",
            "好。" * (1 + n % 3),
            "建议您多休息，及时到医院检查。" * 2,
            "嗯",
            context=(Message("user", f"我是{n}号病人，头痛。"), *TALK[1:]),
        )
        for n in range(count)
    ]
    store.add_items(items)
    aspects = {name: (2, 1, 3) for name in HEADS[1:]}
    store.add_rankings(
        [Ranking(one.id, name, "human", (2, 1, 3), aspects) for one in items[:-5] for name in ("a", "b")]
    )


def _check_ensemble(run: Run, measured: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Whoever loads the stage's model has both members, and how their scores become the one that was measured."""
    models, ensemble = load_ensemble(run.folder / "reward" / "model", MODEL)
    assert len(models.members) == 2 and ensemble is not None and ensemble.pessimism == 1.0
    assert measured["verbatim"]["answers"] == 3 * measured["questions"] == measured["verbatim"]["in_training"]
    assert abs(manifest["score_mean"]) < 1.0  # of scores in units of their deviation, less a spread


def test_the_stage_leaves_models_accuracy_and_what_to_rank_next(ray_session: None, tmp_path: Path) -> None:
    training = RewardTrainConfig(
        cpus=0.1,
        epochs=2,
        batch_tokens=1500,
        micro_batch_tokens=600,
        ensemble=2,
        noise_weighting=True,
        stall_timeout=120,
    )
    run = Run.open(tmp_path / "run", Config(model=MODEL, reward=training, feedback=FeedbackConfig(held_out=0.3)))
    tiny_folder(run.stage("sft") / "model")
    shutil.copytree(
        run.folder / "sft" / "model",
        run.folder / "tokenizer",
        ignore=shutil.ignore_patterns("*.safetensors", "config.json"),
    )
    run.finish("sft", {})
    store = RankingStore(run.stage("feedback") / "rankings.sqlite")
    _rank(store, 40)
    store.close()
    manifest = reward(StageContext(run))
    first, second = (
        load_heads(run.folder / "reward" / part, MODEL).heads.weight for part in ("model", "member-2/model")
    )
    assert first.shape == second.shape and not torch.equal(first, second)
    measured = json.loads((run.folder / "reward" / "accuracy.json").read_text(encoding="utf-8"))
    assert list(measured["scorers"]) == ["reward model", "first member", "length only", "rules only"]
    _check_ensemble(run, measured, manifest)
    assert (
        measured["scorers"]["length only"]["accuracy"] == 1.0
        and measured["scorers"]["length only"]["length_partialled"] == 0.5
    )
    assert {name: figures["pairs"] for name, figures in measured["aspects"].items()} == dict.fromkeys(
        HEADS[1:], manifest["held_out_pairs"]
    )
    priorities = json.loads((run.folder / "feedback" / "priorities.json").read_text(encoding="utf-8"))
    assert set(priorities) == {f"q{n}" for n in range(35, 40)} and all(value > 0 for value in priorities.values())
    assert manifest["disagreement"] == measured["disagreement"] > 0 and manifest["score_deviation"] > 0
    assert manifest["tokens"]["shared"] < 0.6 * manifest["tokens"]["unshared"]  # three answers, one prompt
    summary = read_summary(run.folder)["reward"]
    assert (
        summary["pair_accuracy"] == measured["scorers"]["reward model"]["accuracy"]
        and summary["pair_accuracy_length_only"] == 1.0
    )
