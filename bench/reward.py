"""What the reward model is worth, beside length and rules on the same held-out pairs.

`python -m bench.reward [--run RUNS/demo] [--variants]`. *clinic*: the SFT model and the simulated rankings of a
finished run. *real* (where ZJ_REAL_DATA names a data folder): its `ranking` and `preference` files, a tiny model
pre-trained on its texts, its valid/ held out. `--variants` trains every loss and label instead of the configured one
alone. Everything is done by the stages themselves, in a folder of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zj_ray.config.load import load_config
from zj_ray.config.schema import Config
from zj_ray.evaluation.reward_model import caption
from zj_ray.evaluation.reward_model import rows as scorer_rows
from zj_ray.pipeline import run

MEMBERS = ("reward model", "first member")
CONFIGS = Path(__file__).parents[1] / "configs"
VARIANTS: dict[str, dict[str, Any]] = {
    "Bradley–Terry, majority": {},
    "Bradley–Terry, weighted votes": {"noise_weighting": True},
    "Bradley–Terry, margin 1": {"margin": 1.0},
    "Plackett–Luce": {"loss": "plackett_luce"},
    "Plackett–Luce, weighted": {"loss": "plackett_luce", "noise_weighting": True},
    "ensemble of 3": {"ensemble": 3},
}


def clinic(finished: Path, runs: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The reward stage alone, on what `finished` has made before it."""
    config = load_config(finished / "config.yaml", frozen=True)
    config = replace(config, name="clinic", stages=("reward",), reward=replace(config.reward, **changes))
    for part in ("data", "base", "tokenizer", "pretrain", "sft", "feedback"):
        if not (runs / "clinic" / part).exists():
            unneeded = shutil.ignore_patterns("checkpoints", "ray_train")
            shutil.copytree(finished / part, runs / "clinic" / part, ignore=unneeded)
    return _train(config, runs)


def real(data: str, runs: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Pre-training, the file's rankings and the reward stage; the model pre-trained first serves all variants."""
    learning = ["reward.init=pretrain", "reward.epochs=2", "reward.max_steps=450", "reward.save_every=75"]
    stages = ["name=real", "stages=[pretrain,feedback,reward]", f"data.root={data}"]
    config = load_config(CONFIGS / "laptop-real.yaml", [*stages, *learning])
    return _train(replace(config, reward=replace(config.reward, **changes)), runs)


def _train(config: Config, runs: Path) -> dict[str, Any]:
    folder = runs / config.name
    shutil.rmtree(folder / "reward", ignore_errors=True)
    folder = run(config, runs=runs, allowed=("reward",))
    manifest = json.loads((folder / "reward" / "manifest.json").read_text(encoding="utf-8"))
    return manifest | json.loads((folder / "reward" / "accuracy.json").read_text(encoding="utf-8"))


def rows(name: str, result: Mapping[str, Any], *, baselines: bool) -> list[str]:
    """Markdown: the model's rows and, with `baselines`, those of length, rules, aspects and the ceiling."""
    lines = []
    for scorer, figures in scorer_rows(result).items():
        if not baselines and not scorer.startswith(MEMBERS):
            continue
        low, high = figures["ci95"]
        label = name if scorer == "reward model" else f"{name}: {scorer}" if scorer.startswith(MEMBERS) else scorer
        interval = f"{low:.3f}–{high:.3f}"
        lines.append(f"| {label} | {figures['accuracy']:.3f} | {interval} | {figures['length_partialled']:.3f} |")
    return lines


def report(title: str, results: Mapping[str, dict[str, Any]]) -> None:
    first = next(iter(results.values()))
    print(f"\n### {title}: {first['held_out_pairs']} held-out pairs\n")
    print("| scorer | accuracy | 95 % | length partialled out |\n| --- | --- | --- | --- |")
    for number, (name, result) in enumerate(results.items()):
        print("\n".join(rows(name, result, baselines=number == 0)))
    for name, result in results.items():
        errors, tokens = result["calibration"], result["tokens"]
        print(f"\n{name}: {caption(result)}")
        print(f"\n{name}: step {result['kept']} of {result['steps']} kept; {result['seconds']:.0f} s; ", end="")
        print(f"ECE {errors['ece_before']:.3f} → {errors['ece']:.3f} at T = {errors['temperature']:.2f}; ", end="")
        print(f"{tokens['shared']:,} tokens a pass instead of {tokens['unshared']:,}; ", end="")
        print(f"disagreement {result['disagreement']}")
    for division, parts in first["scorers"]["reward model"]["by"].items():
        print(f"\n| {division} | pairs | reward model | length only | rules only |\n| --- | --- | --- | --- | --- |")
        for part, figures in parts.items():
            baselines = [first["scorers"][name]["by"][division][part] for name in ("length only", "rules only")]
            accuracies = " | ".join(f"{scorer['accuracy'] or 0:.3f}" for scorer in (figures, *baselines))
            print(f"| {part} | {figures['pairs']} | {accuracies} |")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="folder of a finished run with simulated rankings")
    parser.add_argument("--variants", action="store_true", help="every loss and label, not the configured one alone")
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=list(VARIANTS), help="of the variants")
    options = parser.parse_args(arguments)
    variants = {name: VARIANTS[name] for name in options.only} if options.variants else {"as configured": {}}
    with tempfile.TemporaryDirectory(prefix="zj-reward-") as temporary:
        if options.run is not None:
            report(
                "clinic", {name: clinic(options.run, Path(temporary), changes) for name, changes in variants.items()}
            )
        if data := os.environ.get("ZJ_REAL_DATA"):
            report("real", {name: real(data, Path(temporary), changes) for name, changes in variants.items()})


if __name__ == "__main__":
    main()
