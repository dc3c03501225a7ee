"""The files that describe clusters: valid for KubeRay and Ray, and in step with this package."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
import ray
import yaml

from zj_ray.cluster.environment import gpu_need
from zj_ray.config.load import load_config
from zj_ray.serving.app import ServedModel, application

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
CRDS = Path(os.environ.get("ZJ_KUBERAY_CRDS") or ROOT.parent / "shared" / "kuberay-crds")
KINDS = {"raycluster": "rayclusters", "rayjob": "rayjobs", "rayservice": "rayservices"}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def _manifest(kind: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / "kuberay" / f"{kind}.yaml").read_text(encoding="utf-8"))


def _cluster_spec(kind: str) -> dict[str, Any]:
    spec = _manifest(kind)["spec"]
    return spec if kind == "raycluster" else spec[{"rayjob": "rayClusterSpec", "rayservice": "rayClusterConfig"}[kind]]


def _strict(schema: Any) -> Any:
    """A CRD schema that refuses unknown fields, which Kubernetes would drop without a word."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    closed = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if closed and "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    return made


@pytest.mark.skipif(not CRDS.is_dir(), reason="no folder with KubeRay's CRDs; name one in ZJ_KUBERAY_CRDS")
def test_a_manifest_is_valid_for_kuberay_and_a_misspelt_field_is_not(kind: str) -> None:
    crd = yaml.load((CRDS / f"ray.io_{KINDS[kind]}.yaml").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)  # 1 MB
    manifest = _manifest(kind)
    assert manifest["kind"] == crd["spec"]["names"]["kind"]
    [version] = [v for v in crd["spec"]["versions"] if manifest["apiVersion"] == f"{crd['spec']['group']}/{v['name']}"]
    schema = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    validator = jsonschema.Draft7Validator(schema)  # jsonschema.validate would check KubeRay's schema too, for seconds
    validator.validate(manifest)
    _cluster_spec_of(manifest, kind)["headGroupSpec"]["rayStartParms"] = {}
    with pytest.raises(jsonschema.ValidationError, match="rayStartParms"):
        validator.validate(manifest)


def _cluster_spec_of(manifest: dict[str, Any], kind: str) -> dict[str, Any]:
    return (
        manifest["spec"]
        if kind == "raycluster"
        else manifest["spec"][{"rayjob": "rayClusterSpec", "rayservice": "rayClusterConfig"}[kind]]
    )


def test_every_pod_runs_one_image_with_the_installed_ray(kind: str) -> None:
    spec = _cluster_spec(kind)
    assert spec["rayVersion"] == ray.__version__
    templates = [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    assert {container["image"] for template in templates for container in template["containers"]} == {"zj-ray:0.1.0"}
    for template in templates:
        mounted = {mount["name"] for container in template["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in template["volumes"]}


def test_the_job_runs_a_config_that_loads_on_enough_gpus() -> None:
    words = shlex.split(_manifest("rayjob")["spec"]["entrypoint"])
    assert words[:2] == ["zj", "run"] and words[2].startswith("/opt/zj/configs/")
    overrides = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    config = load_config(ROOT / words[2].removeprefix("/opt/zj/"), overrides)
    assert gpu_need(config) <= _gpus("rayjob")


def test_the_service_deploys_this_packages_application() -> None:
    [served] = yaml.safe_load(_manifest("rayservice")["spec"]["serveConfigV2"])["applications"]
    assert served["import_path"] == f"{application.__module__}:{application.__name__}"
    assert set(served["args"]) <= {item.name for item in fields(ServedModel)}
    model = ServedModel(**served["args"])
    assert model.replicas * model.gpus <= _gpus("rayservice")
    assert application(served["args"])


def _gpus(kind: str) -> float:
    groups = _cluster_spec(kind)["workerGroupSpecs"]
    return sum(
        g["replicas"] * int(c["resources"]["limits"]["nvidia.com/gpu"])
        for g in groups
        for c in g["template"]["spec"]["containers"]
    )


def test_ray_up_accepts_its_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((CLUSTER / "ray-up.yaml").read_text(encoding="utf-8"))
    validate_config(prepare_config(config))
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**config, "max_workerz": 1}))


def test_the_dockerfile_copies_what_exists() -> None:
    for line in (CLUSTER / "Dockerfile").read_text(encoding="utf-8").splitlines():
        if line.startswith("COPY"):
            for source in [word for word in line.split()[1:-1] if not word.startswith("--")]:
                assert (ROOT / source).exists(), source


def test_the_local_cluster_loses_a_node_and_ends_without_leftovers(monkeypatch: pytest.MonkeyPatch) -> None:
    state, port = Path("/tmp") / f"zjl{os.getpid()}", _free_ports(20)
    settings = {"STATE": state, "PORT": port, "DASHBOARD_PORT": port + 19, "RAY_AUTH_MODE": "disabled"}
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def script(*words: str) -> str:
        done = subprocess.run([CLUSTER / "local.sh", *words], capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def wait_for_nodes(count: int) -> None:
        """In a process of its own: Ray keeps in mind how a process has been authenticated."""
        wait = "while sum(node['Alive'] for node in ray.nodes()) != int(sys.argv[2]): time.sleep(0.2)"
        code = f"import ray, sys, time; ray.init(address=sys.argv[1], log_to_driver=False)\n{wait}"
        command = [sys.executable, "-c", code, f"127.0.0.1:{port}", str(count)]
        subprocess.run(command, capture_output=True, timeout=120, check=True)

    try:
        assert str(port) in script("up", "2")
        wait_for_nodes(2)
        script("kill", "1")
        wait_for_nodes(1)
    finally:
        script("down")
    left = [
        process.info["cmdline"]
        for process in psutil.process_iter(["cmdline"])
        if any(str(state) in word for word in process.info["cmdline"] or [])
    ]
    assert left == [] and not state.exists()


def _free_ports(count: int) -> int:
    """The first of so many free ports in a row, outside 10002–19999, which Ray keeps for its workers."""
    for first in range(21000 + os.getpid() % 3000, 30000, count):
        free = True
        for port in range(first, first + count):
            with socket.socket() as probe:
                free = free and probe.connect_ex(("127.0.0.1", port)) != 0
        if free:
            return first
    raise AssertionError("no free ports")
