"""The command line: it answers at once, teaches its commands, and has one way to fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from zj_ray import progress as progress_module
from zj_ray.cli.main import app
from zj_ray.errors import ZjError

COMMANDS = (
    "doctor",
    "config",
    "run",
    "submit",
    "status",
    "logs",
    "runs",
    "stop",
    "scale",
    "report",
    "export",
    "serve",
    "chat",
    "data",
    "label",
)
runner = CliRunner()


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("name: tested\nppo:\n  steps: 3\n", encoding="utf-8")
    return path


def stub(monkeypatch: pytest.MonkeyPatch, module: str, **functions: object) -> None:
    """Put a module with only these functions in the place of one that would start Ray."""
    fake = types.ModuleType(module)
    for name, function in functions.items():
        setattr(fake, name, function)
    monkeypatch.setitem(sys.modules, module, fake)


def test_help_lists_every_command() -> None:
    answer = runner.invoke(app, ["--help"])
    assert answer.exit_code == 0
    assert all(command in answer.output for command in COMMANDS)


def test_help_says_what_to_type_first_and_groups_the_commands() -> None:
    shown = runner.invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    assert [line.strip() for line in shown.splitlines() if line.strip()][1].startswith("Type first: zj doctor")
    panels = [
        shown.index(f"─ {name} ─") for name in ("Runs", "Data and labelling", "Evaluation and serving", "Cluster")
    ]
    assert panels == sorted(panels)
    assert panels[1] < shown.index(" feedback ") < panels[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    answer = runner.invoke(app, [command, "--help"])
    assert answer.exit_code == 0
    assert "Example:" in answer.output


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, zj_ray.cli.main; heavy = {'torch', 'ray', 'vllm', 'transformers', 'deepspeed'}; "
    code += "print(sorted(heavy & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_help_answers_within_a_second_of_cpu_time() -> None:
    """CPU time, not wall time: a busy machine must not fail this test."""
    before = os.times()
    subprocess.run([sys.executable, "-m", "zj_ray", "--help"], capture_output=True, timeout=60, check=True)
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1.0


def test_a_fault_of_the_user_is_one_line_on_stderr_and_status_2(demo: Path) -> None:
    command = [sys.executable, "-m", "zj_ray", "run", str(demo), "--set", "ppo.stesp=3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "40"})
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: --set ppo.stesp=3: unknown key 'ppo.stesp' — did you mean 'ppo.steps'?\n"


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, demo: Path) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ValueError("ours")

    stub(monkeypatch, "zj_ray.pipeline", run=broken)
    assert isinstance(runner.invoke(app, ["run", str(demo)]).exception, ValueError)


def test_an_error_from_a_ray_worker_is_still_one_line(monkeypatch: pytest.MonkeyPatch, demo: Path) -> None:
    class Remote(ZjError):
        def __str__(self) -> str:
            return "ray::worker\n  Traceback\n  ..."

    def broken(*args: object, **kwargs: object) -> None:
        raise Remote("engine 3 is gone", where="fleet", remedy="raise fleet.turn_timeout")

    stub(monkeypatch, "zj_ray.pipeline", run=broken)
    answer = runner.invoke(app, ["run", str(demo)])
    assert answer.exit_code == 2
    assert answer.stderr == "error: fleet: engine 3 is gone — raise fleet.turn_timeout\n"


def test_ctrl_c_ends_with_status_130_and_says_how_to_go_on(tmp_path: Path, demo: Path) -> None:
    code = (
        "import sys, time, types; m = types.ModuleType('zj_ray.pipeline'); sys.modules['zj_ray.pipeline'] = m\n"
        "m.run = lambda *a, **k: (print('started', flush=True), time.sleep(60))\n"
        "from zj_ray.cli.main import main; sys.argv = ['zj', 'run', sys.argv[1]]; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(demo)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "goes on where this one stopped" in errors and "Traceback" not in errors


def test_run_hands_the_pipeline_what_was_asked(monkeypatch: pytest.MonkeyPatch, demo: Path, tmp_path: Path) -> None:
    calls: list[tuple] = []

    def run(config, *, runs: Path, start_from: str | None, allowed: list[str]) -> Path:  # type: ignore[no-untyped-def]
        calls.append((config.name, config.ppo.steps, runs, start_from, allowed))
        return runs / config.name

    stub(monkeypatch, "zj_ray.pipeline", run=run)
    answer = runner.invoke(
        app,
        [
            "run",
            str(demo),
            "--set",
            "ppo.steps=5",
            "--runs",
            str(tmp_path),
            "--from",
            "ppo",
            "--allow-change",
            "ppo.steps",
        ],
    )
    assert answer.exit_code == 0, answer.output
    assert calls == [("tested", 5, tmp_path, "ppo", ["ppo.steps"])]


def test_from_refuses_a_stage_that_the_run_lacks(demo: Path) -> None:
    answer = runner.invoke(app, ["run", str(demo), "--from", "rewrd"])
    assert answer.exit_code == 2
    assert "--from: 'rewrd' is not a stage" in answer.stderr


def test_dry_run_prints_settings_and_plan_and_starts_nothing(monkeypatch: pytest.MonkeyPatch, demo: Path) -> None:
    def run(*args: object, **kwargs: object) -> None:
        raise AssertionError("a dry run must not start anything")

    stub(monkeypatch, "zj_ray.pipeline", run=run, plan=lambda config: f"plan of {config.name}")
    answer = runner.invoke(app, ["run", str(demo), "--dry-run"])
    assert answer.exit_code == 0, answer.output
    assert "  steps: 3\n" in answer.output and "plan of tested" in answer.output


def test_submit_refuses_a_bad_file_before_it_reaches_the_cluster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def submit(*args: object, **kwargs: object) -> str:
        raise AssertionError("submitted a bad file")

    stub(monkeypatch, "zj_ray.runs.jobs", submit=submit)
    (tmp_path / "bad.yaml").write_text("ppo: {gamma: 2}\n", encoding="utf-8")
    answer = runner.invoke(app, ["submit", str(tmp_path / "bad.yaml"), "--address", "http://head:8265"])
    assert answer.exit_code == 2
    assert "bad.yaml:1" in answer.stderr


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    for command in ("report", "chat", "serve"):
        answer = runner.invoke(app, [command, "nowhere", "--runs", str(tmp_path)])
        assert answer.exit_code == 2, command
        assert "nowhere" in answer.stderr


def test_config_prints_one_section() -> None:
    answer = runner.invoke(app, ["config", "fleet"])
    assert "fleet.initial: int = 2" in answer.output and "ppo." not in answer.output


def test_progress_without_a_terminal_is_a_plain_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = types.SimpleNamespace(now=0.0)
    printed: list[str] = []
    monkeypatch.setattr(
        progress_module,
        "console",
        types.SimpleNamespace(is_terminal=False, print=lambda line, **_: printed.append(line)),
    )
    monkeypatch.setattr(progress_module, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    with progress_module.progress("sft", 8) as bar:
        for step in range(8):
            clock.now += 4
            bar.advance(loss=1 / (step + 1), tokens=10 * step)
    assert printed == [
        "sft: 3/8, 0:12, about 0:20 left  loss 0.3333  tokens 20",
        "sft: 6/8, 0:24, about 0:08 left  loss 0.1667  tokens 50",
        "sft: 8/8, 0:32  loss 0.125  tokens 70",
    ]


def test_progress_shows_its_last_figures_even_when_the_work_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_module, "console", Console(force_terminal=False, highlight=False))
    with pytest.raises(ValueError), progress_module.progress("ppo") as bar:
        bar.advance(3, reward=0.5)
        raise ValueError
    assert "ppo: 3, 0:00  reward 0.5" in capsys.readouterr().out
