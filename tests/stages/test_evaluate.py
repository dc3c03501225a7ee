"""The evaluate stage with scripted doctors in the models' places: what it asks, keeps apart, writes and says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.helpers.consulting import Doctor, careful, ending, hold
from tests.helpers.tiny import tiny_tokenizer
from zj_ray.config.schema import ClinicConfig, Config, EvaluateConfig
from zj_ray.data.case import Prompt
from zj_ray.data.chat import ChatFormat
from zj_ray.data.clinic import write_clinic
from zj_ray.data.datasets import load_consultations
from zj_ray.evaluation import headline
from zj_ray.evaluation.measures.table import Measure
from zj_ray.evaluation.results import EvaluationResults
from zj_ray.files import read_jsonl
from zj_ray.fleet.turns import SpokenTurn, TurnOutput, TurnRequest
from zj_ray.progress import console
from zj_ray.runs.folder import Run
from zj_ray.runs.summary import read_summary
from zj_ray.stages.evaluate import evaluate

SETTINGS = EvaluateConfig(
    cases=20,
    new_conditions=20,
    new_matters=10,
    safety_prompts=40,
    controls=20,
    safety_samples=2,
    dialogues=16,
    bootstrap=200,
)
REFUSAL = "{words}？这个不行，很危险，我不能帮您，请到医院由医生面诊评估，心里难受可以拨打心理援助热线或告诉家人。"
CANNOT = ending(lambda case: "目前还不能确定原因，建议去医院检查，有加重随时就诊。")


class Scripted:
    """A fleet whose model is a doctor, and who answers a safety prompt as `answer` does."""

    def __init__(self, doctor: Doctor, answer: str, chat: ChatFormat) -> None:
        self.doctor, self.answer, self.chat = doctor, answer, chat

    def rollout(self, work: Sequence[tuple[Prompt, int]], **_: Any) -> SimpleNamespace:
        return SimpleNamespace(trajectories=[hold(prompt, self.doctor) for prompt, _ in work])

    def generate(self, requests: Sequence[TurnRequest], **_: Any) -> list[SpokenTurn]:
        words = slice(len(self.chat.prefix), -len(self.chat.middle))
        asked = [self.chat.tokenizer.decode(request.token_ids[words]) for request in requests]
        texts = [self.chat.text_ids(self.answer.format(words=question)) for question in asked]
        return [SpokenTurn(TurnOutput([*ids, self.chat.stop_id], [], True, 1), "e", 1) for ids in texts]


class Scorer:
    """Scores nothing; a token of a held-out doctor is as likely as `loglik` says of the model's name."""

    loglik = {"sft": -2.0, "ppo": -3.0}

    def scores(self, token_ids: Sequence[np.ndarray], ends: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.zeros((len(of_talk), 4)) for of_talk in ends]

    def perplexity(self, model: str, documents: Sequence[np.ndarray]) -> float:
        return 12.0

    def log_likelihoods(self, model: str, documents: Sequence[np.ndarray], spoken: Sequence[np.ndarray]) -> list[float]:
        for ids, of_talk in zip(documents, spoken, strict=True):
            assert of_talk.min() > 0 and of_talk.max() < len(ids)
        return [self.loglik[Path(model).name] * len(of_talk) for of_talk in spoken]


@contextmanager
def scorer(_: Path) -> Iterator[Scorer]:
    yield Scorer()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run in which SFT is careful and refuses what is dangerous, PPO never tells and goes along; and what it said."""
    folder, chat = tmp_path_factory.mktemp("runs") / "run", ChatFormat(tiny_tokenizer())
    run = Run.open(folder, replace(Config(), evaluate=SETTINGS))
    write_clinic(run.data_root, ClinicConfig(consultations=120, single_turn=40, passages=20, cases=240))
    valid = run.data_root / "valid"
    cases = (valid / "patient_cases.jsonl").read_text(encoding="utf-8").splitlines()
    renamed = [row.replace("zc-patient_cases", "zc-new") for row in cases]
    (valid / "patient_cases_new_conditions.jsonl").write_text("\n".join(renamed), encoding="utf-8")
    run.finish("reward", {"score_mean": 0.0, "score_deviation": 1.0})
    doctors = {"sft": Scripted(careful, REFUSAL, chat), "ppo": Scripted(CANNOT, "没问题，可以放心{words}。", chat)}
    context: Any = SimpleNamespace(
        run=run,
        config=run.config,
        versions=SimpleNamespace(current=1),
        chat=lambda: chat,
        model=lambda name: Path("models") / name,
        base_model=lambda: "base",
        fleet=lambda model: doctors[model.name],
        scorer=scorer,
    )
    with console.capture() as said:
        evaluate(context)
    return run.folder, said.get()


def measured(folder: Path) -> dict[str, Measure]:
    return {m.key: m for m in EvaluationResults.read(folder / "evaluate" / "results.json").measures}


def test_what_fell_is_in_results_summary_and_console(done: tuple[Path, str]) -> None:
    folder, said = done
    rows = measured(folder)
    fell = {key for key, row in rows.items() if row.finding == "fell" and row.group == "headline"}
    assert {"safety_pass", "right_condition", "right_department", "exam_recall", "doctor_likelihood"} <= fell
    assert set(read_summary(folder)["evaluate"]["fell"]) == fell | {
        key for key, row in rows.items() if row.finding == "fell" and row.group == "category"
    }
    assert headline.FELL in said and "安全问题答得合适" in said and "safety prompts answered safely" in said
    assert said.index("safety") < said.index("win ")


def test_safety_is_counted_by_question_and_likelihood_by_dialogue(done: tuple[Path, str]) -> None:
    rows = measured(done[0])
    assert rows["safety_pass"].units == SETTINGS.safety_prompts  # two answers to one question are one
    assert sum(row.units for key, row in rows.items() if row.group == "category") == rows["safety_pass"].units
    likelihood = rows["doctor_likelihood"]
    assert (likelihood.units, likelihood.sft, likelihood.ppo) == (16, pytest.approx(-2.0), pytest.approx(-3.0))
    assert likelihood.paid == () and rows["safety_pass"].paid == ("safety", "unsafe") and rows["reward"].paid


def test_unseen_conditions_are_a_set_of_their_own(done: tuple[Path, str]) -> None:
    folder, _ = done
    rows = measured(folder)
    assert rows["new_cannot_tell"].units == SETTINGS.new_conditions == rows["new_wrong_condition"].units
    assert rows["reward"].units == rows["right_condition_all"].units == SETTINGS.cases
    assert rows["false_alarms"].units > SETTINGS.cases  # emergencies are emergencies in both sets
    assert rows["new_cannot_tell"].finding == "rose"  # where nobody can tell, not to tell is right
    lines = [row for _, row in read_jsonl(folder / "evaluate" / "consultations.jsonl")]
    new = [row for row in lines if row["kind"] == "new_case"]
    assert len(new) == 2 * SETTINGS.new_conditions and all(row["reward"] is None for row in new)
    assert len(lines) == 2 * (SETTINGS.cases + SETTINGS.new_conditions + 2 * (40 + 20 + 2 * SETTINGS.new_matters))


def test_the_likelihood_is_of_the_doctors_tokens_alone(done: tuple[Path, str]) -> None:
    chat, talk = ChatFormat(tiny_tokenizer()), load_consultations(done[0] / "data")[0]
    encoded = chat.conversation(talk)
    spoken = [token for token, mask in zip(encoded.token_ids, encoded.loss_mask, strict=True) if mask]
    words = [message.content for message in talk if message.role == "assistant"]
    assert chat.tokenizer.decode([token for token in spoken if token != chat.stop_id]) == "".join(words)


def test_results_can_be_written_as_json_and_read_again(done: tuple[Path, str]) -> None:
    path = done[0] / "evaluate" / "results.json"
    assert json.loads(path.read_text(encoding="utf-8"))["measures"][0]["key"] == "safety_pass"
    EvaluationResults.read(path).write(path.with_name("again.json"))
    assert path.read_bytes() == path.with_name("again.json").read_bytes()
