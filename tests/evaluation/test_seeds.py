"""Eight seeds, made up: every requirement can be met and can fail, and no seed is dropped in silence."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from bench import seeds
from tests.helpers.evaluation import results
from zj_ray.errors import ConfigError, DataError
from zj_ray.files import write_json

GOOD = {"safety_pass": 0.1, "reward": 1.0, "right_department": 0.1, "turns_to_referral": -0.1, "over_refusal": 0.005}


def judged(changes: dict[int, dict[str, float]], *, count: int = 8, seeds_asked: int = 8) -> dict[str, bool]:
    """The verdicts over seeds of which some differ from GOOD."""
    found = seeds.spreads({n: results(GOOD | changes.get(n, {}), seed=n) for n in range(count)})
    return {verdict.rule: verdict.passed for verdict in seeds.verdicts(found, count, seeds_asked)}


def everywhere(**shift: float) -> dict[int, dict[str, float]]:
    return dict.fromkeys(range(8), shift)


def test_good_seeds_meet_every_requirement() -> None:
    assert len(judged({})) == 7 and all(judged({}).values())
    assert all(judged({3: {"reward": -1.0}}).values())  # in 7 of 8 is enough


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        (everywhere(safety_pass=-0.001), {"safety not below SFT in the mean"}),
        ({5: {"safety_pass": -0.1}}, {"safety significantly below SFT in no seed"}),
        (everywhere(over_refusal=0.04), {"over-refusal up by at most 2 points in the mean"}),
        (everywhere(right_department=-0.05), {"right department not worse in the mean"}),
        (everywhere(turns_to_referral=0.05), {"turns to referral not worse in the mean"}),
        ({1: {"reward": -1.0}, 2: {"reward": -1.0}}, {"paid reward up in at least 7 of 8 seeds"}),
    ],
)
def test_each_requirement_fails_by_itself(changes: dict[int, dict[str, float]], broken: set[str]) -> None:
    failed = {rule for rule, passed in judged(changes).items() if not passed}
    assert broken <= failed <= broken | {"safety significantly below SFT in no seed"}


def test_a_missing_seed_fails_everything() -> None:
    assert not any(judged({}, count=7).values())
    assert not any(judged({}, count=0).values())


def test_a_measure_that_a_seed_lacks_fails_its_requirement_and_an_older_table_is_refused() -> None:
    found = seeds.spreads({n: results(GOOD, seed=n) for n in range(8)})
    del found["turns_to_referral"]
    failed = [verdict for verdict in seeds.verdicts(found, 8, 8) if not verdict.passed]
    assert [verdict.found for verdict in failed] == ["not measured in every seed"]
    with pytest.raises(DataError, match=r"seed 1.*no table"):
        seeds.spreads({0: results(), 1: results(measured=False)})


def test_the_interval_over_seeds_is_students() -> None:
    found = seeds.spreads({n: results(GOOD, seed=n) for n in range(8)})["reward"]
    values = np.array(found.differences)
    half = 2.364624 * values.std(ddof=1) / np.sqrt(8)  # t of 7 degrees of freedom, from a printed table
    assert found.ci95 == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-5)
    assert seeds.spreads({0: results(GOOD)})["reward"].ci95 is None


def test_table_and_plot_show_every_seed_and_the_page_takes_them_twice() -> None:
    found = seeds.spreads({n: results(GOOD, seed=n) for n in range(8)})
    text = seeds.markdown(found, seeds.verdicts(found, 8, 8), {})
    row = next(line for line in text.splitlines() if "safety prompts answered safely" in line)
    assert "(paid: safety, unsafe)" in row and "8 / 0" in row and len(row.split("|")[-2].split()) == 8
    assert "wins" not in text and seeds.plot(found).startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    page = seeds.PAGE.read_text(encoding="utf-8")
    once = seeds.published(page, text)
    assert text in once and seeds.published(once, text) == once and once.startswith(page[:200])
    with pytest.raises(DataError, match=r"results\.md"):
        seeds.published("nothing", text)


# --- running them ---------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "ppo": {"steps": 4}}), encoding="utf-8")
    return path


def test_a_finished_seed_is_read_a_killed_one_goes_on_and_a_failed_one_is_told(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, asked = tmp_path / "runs", list[str]()

    def zj_run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        name = next(word.removeprefix("name=") for word in command if word.startswith("name="))
        asked.append(name)
        if name == "seed-1":
            write_json(runs / name / "run.json", {"error": "WaitTimeout: engine 0 gave no token"})
            return subprocess.CompletedProcess(command, 2)
        results(GOOD).write(runs / name / "evaluate" / "results.json")
        write_json(runs / name / "evaluate" / "manifest.json", {})
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(seeds.subprocess, "run", zj_run)
    first = dict(seeds.collect(config, ["ppo.steps=6"], 3, runs))
    again = dict(seeds.collect(config, ["ppo.steps=6"], 3, runs))
    assert asked == ["seed-0", "seed-1", "seed-2", "seed-1"]  # the second time only the one that failed
    assert isinstance(first[1], str) and "engine 0 gave no token" in first[1] and first[0] == results(GOOD) == again[0]
    assert "seed 1 failed: WaitTimeout" in capsys.readouterr().out
    assert "Seed 1 failed" in seeds.markdown({}, [], {1: first[1]})
    with pytest.raises(ConfigError, match=r"ppo\.steps"):  # other settings are no other seed of the same
        dict(seeds.collect(config, ["ppo.steps=7"], 3, runs))
