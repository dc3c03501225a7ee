"""Plants faults in the algorithms, one at a time, and sees whether some test notices: `python -m tests.mutate`.

Every fault is a small edit of one file: an off-by-one, a dropped mask, a wrong sign, a mean of means. A fault that no
test notices means that the tests don't hold what they promise. The package is copied, mutated and tested in a forked
child, so that the slow imports are paid once.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = (
    "algorithms/test_algorithms.py",
    "algorithms/test_ranking_loss.py",
    "algorithms/test_critic_free.py",
    "algorithms/test_constraint.py",
    "ppo/test_advantages.py",
    "ppo/test_constraint.py",
    "training/test_packing.py",
)


@dataclass(frozen=True)
class Fault:
    """file: below zj_ray/; right: text that stands there exactly once; wrong: what replaces it."""

    name: str
    file: str
    right: str
    wrong: str


GAE, POLICY, VALUE, KL = (
    "algorithms/gae.py",
    "algorithms/policy_loss.py",
    "algorithms/value_loss.py",
    "algorithms/kl.py",
)
WHITEN, IMPORTANCE, FREE = "algorithms/whitening.py", "algorithms/importance.py", "algorithms/critic_free.py"
RANKING, PREFERENCE, MEAN = "algorithms/ranking_loss.py", "algorithms/preference.py", "algorithms/masked.py"
CONSTRAINT, KEPT = "algorithms/constraint.py", "ppo/constraint.py"
STAGE, PACKING, BALANCE = "ppo/advantages.py", "training/packing.py", "algorithms/balance.py"

FAULTS = (
    Fault(
        "values zeroed at the patient's tokens",
        GAE,
        "next_value = torch.where(here, values[t], next_value)",
        "next_value = values[t]",
    ),
    Fault(
        "advantage decays through the patient's tokens",
        GAE,
        "torch.where(here, advantage, next_advantage)",
        "advantage",
    ),
    Fault("λ without γ", GAE, "gamma * lam * next_advantage", "lam * next_advantage"),
    Fault("γ without λ", GAE, "gamma * lam * next_advantage", "gamma * next_advantage"),
    Fault("next value undiscounted", GAE, "gamma * next_value - values", "next_value - values"),
    Fault(
        "value of the next token subtracted", GAE, "gamma * next_value - values[t]", "gamma * values[t] - next_value"
    ),
    Fault("returns are advantages", GAE, "returns = advantages + values", "returns = advantages + 0.0"),
    Fault("first token left out", GAE, "range(len(values) - 1, -1, -1)", "range(len(values) - 1, 0, -1)"),
    Fault("garbage in masked values", GAE, "values = torch.where(mask, values, 0.0)", "values = values + 0.0"),
    Fault(
        "turn reward one token early", GAE, "rewards[row, torch.tensor(ends)]", "rewards[row, torch.tensor(ends) - 1]"
    ),
    Fault(
        "ratio upside down",
        POLICY,
        "ratio = torch.exp(torch.where(mask, logprobs - old",
        "ratio = torch.exp(torch.where(mask, -logprobs + old",
    ),
    Fault(
        "gain instead of loss",
        POLICY,
        "torch.maximum(-advantages * ratio, -advantages",
        "torch.maximum(advantages * ratio, advantages",
    ),
    Fault("clip that never binds", POLICY, "loss = torch.maximum(-adv", "loss = torch.minimum(-adv"),
    Fault(
        "one clip bound for both sides",
        POLICY,
        "clamp(1.0 - clip_low, 1.0 + clip_high)",
        "clamp(1.0 - clip_low, 1.0 + clip_low)",
    ),
    Fault("lower clip ignored", POLICY, "clamp(1.0 - clip_low, 1.0 + clip_high)", "clamp(0.0, 1.0 + clip_high)"),
    Fault("dual clip of good actions", POLICY, "torch.where(advantages < 0,", "torch.where(advantages > 0,"),
    Fault(
        "dual clip as a floor",
        POLICY,
        "torch.minimum(loss, -advantages * dual_clip)",
        "torch.maximum(loss, -advantages * dual_clip)",
    ),
    Fault("policy loss of masked tokens", POLICY, "return torch.where(mask, loss, 0.0)", "return loss"),
    Fault(
        "masked ratios learn",
        POLICY,
        "torch.exp(torch.where(mask, logprobs - old_logprobs, 0.0))",
        "torch.exp(logprobs - old_logprobs)",
    ),
    Fault(
        "one side of the clip counted",
        POLICY,
        "(ratio < 1.0 - clip_low) | (ratio > 1.0 + clip_high)",
        "(ratio > 1.0 + clip_high)",
    ),
    Fault("value clip takes the smaller error", VALUE, "0.5 * torch.maximum", "0.5 * torch.minimum"),
    Fault("value clip around the return", VALUE, "clipped = old_values + (values", "clipped = returns + (values"),
    Fault("value loss doubled", VALUE, "return 0.5 * torch", "return torch"),
    Fault(
        "KL of the wrong sign",
        KL,
        "difference = logprobs - reference_logprobs",
        "difference = reference_logprobs - logprobs",
    ),
    Fault("k2 doubled", KL, "0.5 * difference**2", "difference**2"),
    Fault("k3 without its correction", KL, "torch.expm1(-difference) + difference", "torch.expm1(-difference)"),
    Fault("controller steers away", KL, "observed / self.target - 1.0", "1.0 - observed / self.target"),
    Fault(
        "controller unclipped", KL, "min(max(observed / self.target - 1.0, -0.2), 0.2)", "observed / self.target - 1.0"
    ),
    Fault("whitening leaves the mean", WHITEN, "x - kept.mean()", "x"),
    Fault("whitening counts masked tokens", WHITEN, "kept = x[mask]", "kept = x.flatten()"),
    Fault("whitening by n - 1", WHITEN, "unbiased=False", "unbiased=True"),
    Fault(
        "whitening by row",
        WHITEN,
        "x - kept.mean()",
        "x - torch.where(mask, x, 0.0).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True)",
    ),
    Fault("importance untruncated", IMPORTANCE, ".clamp(max=cap)", ""),
    Fault("importance learns", IMPORTANCE, ".detach()", ""),
    Fault(
        "importance upside down",
        IMPORTANCE,
        "trainer_logprobs - behaviour_logprobs",
        "behaviour_logprobs - trainer_logprobs",
    ),
    Fault(
        "sequence weight of a mean token",
        IMPORTANCE,
        "difference.sum(-1, keepdim=True)",
        "difference.mean(-1, keepdim=True)",
    ),
    Fault("mean over masked tokens too", MEAN, "mask.sum().clamp(min=1)", "mask.numel()"),
    Fault("NaN behind the mask", MEAN, "torch.where(mask, x, 0.0).sum()", "(x * mask).sum()"),
    Fault("own sample in its baseline", FREE, "others = (count - 1).clamp(min=1)", "others = count"),
    Fault(
        "all prompts one group",
        FREE,
        "(prompts[:, None] == prompts).to(totals.dtype)",
        "torch.ones(len(prompts), len(prompts))",
    ),
    Fault("variance for deviation", FREE, "/ count).sqrt()", "/ count)"),
    Fault(
        "the worse answer preferred",
        RANKING,
        "above = scores[:, None] - scores[None, :]",
        "above = scores[None, :] - scores[:, None]",
    ),
    Fault("prompts weigh by their pairs", RANKING, " / (count * (count - 1) / 2)", ""),
    Fault(
        "ties lend their weight to other pairs",
        RANKING,
        "(count * (count - 1) / 2)",
        "(preference > 0).sum().clamp(min=1)",
    ),
    Fault("a margin that helps", RANKING, "above - margin", "above + margin"),
    Fault("half a tie's orders", RANKING, "for i in members])", "for i in members[:1]])"),
    Fault("the chosen stay among the rest", RANKING, "scores[ranks > rank]", "scores[ranks >= rank]"),
    Fault(
        "who was not ranked is last",
        RANKING,
        "told = ~torch.isnan(ranks)",
        "ranks = ranks.nan_to_num(nan=9.0); told = ranks > 0",
    ),
    Fault("half is a majority", PREFERENCE, "votes(ranks) > 0.5", "votes(ranks) >= 0.5"),
    Fault("absent annotators vote", PREFERENCE, "heard = (both * counts).sum(-1)", "heard = counts.sum() + 0 * above"),
    Fault("annotators weigh the same", PREFERENCE, "if weights is None else weights", "if True else weights"),
    Fault(
        "KL rewarded",
        STAGE,
        "rewards = rewards - torch.where(mask, kl_coefficient",
        "rewards = rewards + torch.where(mask, kl_coefficient",
    ),
    Fault("KL paid twice", STAGE, 'if config.kl_in == "reward":', "if True:"),
    Fault("advantages unwhitened", STAGE, "advantages = whiten(raw, mask)", "advantages = raw"),
    Fault("rewards at the first turn's end", STAGE, "[s.rewards for s in scored]", "[s.rewards[::-1] for s in scored]"),
    Fault("an old policy's tokens count as mismatch", STAGE, "[stale == 0]", ""),
    Fault(
        "staleness of the first turn for all",
        "roles/batch.py",
        "version - turn.weight_version",
        "version - t.turns[0].weight_version",
    ),
    Fault("λ below zero", CONSTRAINT, "gain * violation, 0.0)", "gain * violation, -9.0)"),
    Fault("λ rewards cost", CONSTRAINT, "advantages - weight * cost", "advantages + weight * cost"),
    Fault("a large λ makes large steps", CONSTRAINT, " / (1.0 + weight)", ""),
    Fault("kinds drown each other", KEPT, "[KINDS.index(kind) for kind in kinds]", "[0 for _ in kinds]"),
    Fault("one λ for all kinds", KEPT, "[self.multipliers[kind].value", '[self.multipliers["case"].value'),
    Fault("the bound follows the policy", KEPT, "if not learnt:", "if True:"),
    Fault("λ forgotten on resuming", KEPT, "Multiplier(**part)", "Multiplier(1.0, 1.0)"),
    Fault("answers see each other", PACKING, " & ((in_branch == 0) | (in_branch[:, None] == in_branch))", ""),
    Fault("prompts see each other", PACKING, "(in_group[:, None] == in_group) & ", ""),
    Fault("tokens see what comes", PACKING, "seen.tril()", "seen"),
    Fault("answers restart at position 0", PACKING, "first = shared if branch else 0", "first = 0"),
    Fault("rows over capacity", BALANCE, "if left >= lengths[index]", "if left > 0"),
)


def notice(fault: Fault | None) -> str | None:
    """The first test that fails on a copy of the package with `fault` in it, or None.

    Raises ValueError for a fault that no longer fits.
    """
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "zj_ray"
        shutil.copytree(ROOT / "zj_ray", package)  # with its compiled files, which only the fault's own no longer fits
        if fault is not None:
            path = package / fault.file
            text = path.read_text(encoding="utf-8")
            if text.count(fault.right) != 1:
                found = f"{fault.right!r} stands {text.count(fault.right)} times in {fault.file}"
                raise ValueError(f"{fault.name}: {found}: mend the fault")
            path.write_text(text.replace(fault.right, fault.wrong), encoding="utf-8")
            for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
                compiled.unlink()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            os.write(write, _first_failure(folder).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            said = pipe.read().decode()
        os.waitpid(child, 0)
    return said or None


def _first_failure(folder: str) -> str:
    import pytest
    import torch

    torch.set_num_threads(1)
    failures: list[str] = []

    class Watch:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                failures.append(report.nodeid.split("::")[-1])

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            if report.failed:
                failures.append(f"collection of {report.nodeid}")

    sys.path.insert(0, folder)
    sys.dont_write_bytecode = True
    import zj_ray

    assert Path(zj_ray.__file__).is_relative_to(folder), "the copy is not what is tested"
    os.chdir(ROOT)
    _pytest(["-x"], Watch())
    return failures[0] if failures else ""


def _pytest(options: list[str], *plugins: object) -> None:
    import pytest

    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main([*options, "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in TESTS)], plugins=plugins)


def _import_for_all() -> None:
    """What the tests import is imported before the forks; what is ours is forgotten again, for each fork has a copy."""
    _pytest(["--collect-only"])
    ours = ("zj_ray.", "bench.", "tests.")
    for name in [name for name in sys.modules if f"{name}.".startswith(ours) and name != "tests"]:
        del sys.modules[name]
    gc.freeze()


def main() -> int:
    _import_for_all()
    untouched = notice(None)
    if untouched is not None:
        print(f"without any fault {untouched} fails: nothing can be learnt from the rest")
        return 2
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        noticed = list(pool.map(notice, FAULTS))
    for fault, by in zip(FAULTS, noticed, strict=True):
        print(f"{'noticed ' if by else 'MISSED  '} {fault.name:48} {by or fault.file}")
    missed = sum(by is None for by in noticed)
    print(f"{len(FAULTS) - missed} of {len(FAULTS)} faults noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # triton would list what it leaks when modules that were imported twice go
