"""A PPO step end to end against TRL's: same model, prompts, token budget, batch, epochs, mini-batches.

`python -m bench.trl_ppo`. Ours is the PPO stage's own loop with vLLM engines and DeepSpeed roles as Ray actors; TRL's
is `trl.experimental.ppo` on as many threads as there are cores. They take turns in one run.

*equal*: one turn, every answer has the same number of tokens: batched `generate` wastes nothing, both are bound by the
same arithmetic. *natural*: consultations of three turns whose lengths vary as those of the clinic's doctors do on
average. TRL has no turns: each of them is a query and a response there, the history being the query, which it reads and
computes on anew in every turn. It gets the histories of our own consultations, a batch for each turn, as that pads
least.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, LlamaForCausalLM, PreTrainedTokenizerBase

from bench.arithmetic import PHASES, necessary
from bench.ceilings import Ceilings, measure, table
from bench.subject import QUIET_TRL, SHAPE, config, only_cases, ppo_stage, room, settle, speaker
from zj_ray.data.chat import ChatFormat
from zj_ray.data.datasets import load_dialogues, load_texts
from zj_ray.data.trajectory import Trajectory
from zj_ray.ppo.loop import PPOLoop

PROMPTS, MINI_BATCHES, EPOCHS = 64, 2, 1
WHOLE, PROCESSOR = "whole step", "processor seconds"


@dataclass(frozen=True)
class Case:
    """What both are to do.

    turn_tokens: of a turn at most; stop: chance of every token to be a turn's last; openings: shortest and longest
    [tokens], or None for the clinic's own; target: how many times longer TRL is to take.
    """

    name: str
    turns: int
    turn_tokens: int
    stop: float
    openings: tuple[int, int] | None
    target: float


EQUAL = Case("equal", turns=1, turn_tokens=48, stop=0.0, openings=(24, 64), target=1.3)


def natural(chat: ChatFormat, data: Path) -> Case:
    """Turns as long on average as those of the clinic's doctors; one in a hundred of theirs exceeds the limit."""
    turns = [m.content for dialogue in load_dialogues(data, "train") for m in dialogue if m.role == "assistant"]
    lengths = np.array([len(chat.text_ids(text)) + 1 for text in random.Random(0).sample(turns, 1000)])
    longest = int(np.quantile(lengths, 0.99))
    return Case("natural", turns=3, turn_tokens=longest, stop=float(1 / lengths.mean()), openings=None, target=2.5)


def openings(case: Case, chat: ChatFormat, data: Path) -> list[str | None]:
    """Patients' first words of the lengths that the case asks for, cut from the clinic's passages."""
    if case.openings is None:
        return [None] * PROMPTS
    shortest, longest = case.openings
    draw, around = random.Random(0), len(chat.open(""))
    texts = [text for text in load_texts(data, "train") if len(chat.text_ids(text)) > longest]
    cut = [chat.text_ids(text)[: draw.randint(shortest, longest) - around] for text in draw.sample(texts, PROMPTS)]
    return [chat.decode(ids) for ids in cut]


class TRL:
    """TRL's trainer on fixed queries, a batch of all of them a step, with the clock read where its phases change."""

    def __init__(
        self, folder: Path, tokenizer: PreTrainedTokenizerBase, queries: Sequence[list[int]], case: Case
    ) -> None:
        from trl.experimental.ppo import PPOConfig, PPOTrainer

        start = folder / "sft" / "model"

        def judge() -> Any:
            model = AutoModelForSequenceClassification.from_pretrained(start, num_labels=1, dtype=torch.float32)
            model.config.pad_token_id = tokenizer.pad_token_id
            return model

        def policy() -> Any:
            return LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)

        mini = len(queries) // MINI_BATCHES
        settings = PPOConfig(
            **QUIET_TRL, output_dir=str(folder / "trl"), lr_scheduler_type="constant", learning_rate=1e-5,
            per_device_train_batch_size=mini, gradient_accumulation_steps=MINI_BATCHES, num_mini_batches=MINI_BATCHES,
            num_ppo_epochs=EPOCHS, total_episodes=mini * MINI_BATCHES, local_rollout_forward_batch_size=len(queries),
            response_length=case.turn_tokens, stop_token="eos" if case.stop else None, temperature=1.0,
        )  # fmt: skip
        data = Dataset.from_dict({"input_ids": list(queries)})
        tokenizer.padding_side = "left"
        self.trainer = PPOTrainer(
            args=settings, processing_class=tokenizer, model=policy(), ref_model=policy(),
            reward_model=judge(), value_model=judge(), train_dataset=data, eval_dataset=data,
        )  # fmt: skip

    def step(self) -> dict[str, float]:
        """Seconds of each phase of one step."""
        from trl.experimental.ppo import ppo_trainer

        marks: dict[str, float] = {}

        def marking(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*arguments: Any, **keywords: Any) -> Any:
                marks.setdefault(f"{name} begins", time.perf_counter())
                result = work(*arguments, **keywords)
                marks[f"{name} ends"] = time.perf_counter()
                return result

            return wrapped

        phases = ("batch_generation", "get_reward", "masked_whiten", "empty_cache")  # the last ends a step
        with patch.multiple(ppo_trainer, **{name: marking(name, getattr(ppo_trainer, name)) for name in phases}):
            self.trainer.train()
        moments = [marks["batch_generation begins"], *(marks[f"{name} ends"] for name in phases)]
        return dict(zip(PHASES, np.diff(moments).tolist(), strict=False))


def histories(loop: PPOLoop, turns: int) -> list[list[list[int]]]:
    """For each turn of consultations of the loop, what TRL is to answer: all that was said before."""
    prompts = loop.prompts.take(0, PROMPTS)
    trajectories = loop.fleet.rollout(
        [(p, i) for i, p in enumerate(prompts)],
        key="histories",
        seed=1,
        chat=loop.chat,
        settings=loop.settings,
        timeout=loop.run.config.consultation.timeout,
    ).trajectories
    by_turn = [
        [t.token_ids[: t.turns[turn].start] for t in trajectories if len(t.turns) > turn] for turn in range(turns)
    ]
    return [queries[: len(queries) // MINI_BATCHES * MINI_BATCHES] for queries in by_turn]


def processor_seconds() -> float:
    """Processor time of this process and all its descendants.

    Where others use the machine too, it tells more than the clock.
    """
    used = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        try:
            used += sum(process.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return used


class Watched:
    """Our loop; keeps the trajectories of its last consultations, as the arithmetic is counted on them."""

    def __init__(self, loop: PPOLoop) -> None:
        self.loop, self.trajectories, self._rollout = loop, [], loop.fleet.rollout
        loop.fleet.rollout = self._remember

    def _remember(self, *arguments: Any, **keywords: Any) -> Any:
        consultations = self._rollout(*arguments, **keywords)
        self.trajectories = consultations.trajectories
        return consultations

    def step(self, number: int) -> dict[str, float]:
        self.loop.step(number)
        laps = self.loop.record.rows[-1]
        return {phase: laps[f"seconds_{phase}"] for phase in PHASES}


def with_processor(step: Callable[[], dict[str, float]]) -> dict[str, float]:
    before = processor_seconds()
    return {**step(), PROCESSOR: processor_seconds() - before}


def compare(name: str, rounds: int, layout: dict[str, int], ceilings: Ceilings, folder: Path) -> None:
    """Print the table of one case."""
    run, tokenizer = room(folder, config(SHAPE, layout["engines"], layout["threads"], ranks=layout["ranks"]))
    chat, data = ChatFormat(tokenizer), run.folder / "data"
    case = EQUAL if name == EQUAL.name else natural(chat, data)
    ppo = replace(
        run.config.ppo, consultations=PROMPTS, epochs=EPOCHS, mini_batches=MINI_BATCHES,
        micro_batch_tokens=layout["micro"], learning_rate=1e-5, critic_learning_rate=1e-5,
    )  # fmt: skip
    consultation = replace(run.config.consultation, max_turns=case.turns, turn_tokens=case.turn_tokens)
    run.config = replace(run.config, consultation=consultation, ppo=ppo)
    only_cases(run, openings(case, chat, data))
    settle(run, speaker(SHAPE, tokenizer, case.stop), tokenizer)
    with ppo_stage(run) as loop:
        ours = Watched(loop)
        theirs = [TRL(run.folder, tokenizer, queries, case) for queries in histories(loop, case.turns)]
        seconds: dict[str, list[dict[str, float]]] = {"zj_ray": [], "TRL": []}
        for number in range(rounds + 1):
            seconds["zj_ray"].append(with_processor(lambda number=number: ours.step(number)))
            seconds["TRL"].append(with_processor(lambda: together([trl.step() for trl in theirs])))
    after_warm_up = {who: steps[1:] for who, steps in seconds.items()}
    report(case, after_warm_up, ours.trajectories, ceilings.best(measure(ceilings.threads)))


def together(steps: Sequence[dict[str, float]]) -> dict[str, float]:
    return {phase: sum(step.get(phase, 0.0) for step in steps) for phase in PHASES}


def report(
    case: Case, seconds: dict[str, list[dict[str, float]]], trajectories: Sequence[Trajectory], ceilings: Ceilings
) -> None:
    lengths = [len(t.token_ids) for t in trajectories]
    turns = [turn.end - turn.start for t in trajectories for turn in t.turns]
    flops = necessary(SHAPE, lengths, sum(turns), EPOCHS)
    arithmetic = {phase: flops[phase] / ceilings.flops for phase in PHASES}
    arithmetic[WHOLE] = sum(arithmetic.values())
    middle: dict[str, dict[str, float]] = {}
    for who, steps in seconds.items():
        for step in steps:
            step[WHOLE] = sum(step[phase] for phase in PHASES)
        middle[who] = {key: float(np.median([step[key] for step in steps])) for key in steps[0]}
    ours, theirs = middle["zj_ray"], middle["TRL"]
    words = f"{len(turns)} doctor turns of {min(turns)} to {max(turns)} tokens (mean {sum(turns) / len(turns):.1f})"
    print(f"\n### {case.name}: {len(trajectories)} consultations, {words}, ", end="")
    print(f"{sum(turns)} tokens generated of {sum(lengths)}; ceiling {ceilings.flops / 1e9:.0f} GFLOP/s\n")
    rows: list[tuple[object, ...]] = [(key, ours[key], theirs[key], arithmetic[key]) for key in (*PHASES, WHOLE)]
    shares = [100 * arithmetic[WHOLE] / who[WHOLE] for who in (ours, theirs)]
    rows += [
        (PROCESSOR, ours[PROCESSOR], theirs[PROCESSOR], ""),
        ("samples/s", len(trajectories) / ours[WHOLE], len(trajectories) / theirs[WHOLE], ""),
        ("generated tokens/s", sum(turns) / ours[WHOLE], sum(turns) / theirs[WHOLE], ""),
        ("necessary arithmetic [%] (target 50)", *shares, ""),
    ]
    print(table(("seconds (medians)", "zj_ray", "TRL", "necessary arithmetic at the ceiling"), rows))
    for what, target in ((WHOLE, f"; target {case.target}"), (PROCESSOR, "")):
        ratios = [b[what] / a[what] for a, b in zip(seconds["zj_ray"], seconds["TRL"], strict=True)]
        by_round = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"\nTRL / zj_ray by {what}: **{np.median(ratios):.2f}** (rounds: {by_round}{target}).", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=("equal", "natural", "both"), default="both")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each engine")
    parser.add_argument("--ranks", type=int, default=1, help="of policy and of critic")
    parser.add_argument("--micro", type=int, default=1024, help="tokens of a packed row")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    layout = {"engines": options.engines, "threads": options.threads, "micro": options.micro, "ranks": options.ranks}
    ceilings = measure(os.cpu_count() or 1)
    print(f"{ceilings}. Layout: {options.engines} engines of {options.threads} threads; ", end="")
    print(f"policy and critic of {options.ranks} ranks, reward and reference of 1, each of 1 thread; ", end="")
    print(f"rows of {options.micro} tokens.")
    for name in ("equal", "natural"):
        if options.case in (name, "both"):
            with tempfile.TemporaryDirectory() as folder:
                compare(name, options.rounds, layout, ceilings, Path(folder))


if __name__ == "__main__":
    main()
