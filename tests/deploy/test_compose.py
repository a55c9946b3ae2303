"""The Compose file: nobody is root, nobody may do or write what he need not, and every device is alone with the server."""

import shutil
import subprocess
import tomllib
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgehold.attacks.multinode import compose, containers
from edgehold.attacks.multinode.config import RUNS, load
from edgehold.client.config import ClientConfig
from edgehold.client.policy import Policy
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.server.config import ServerConfig

DEPLOY = Path(__file__).parents[2] / "deploy"
BED = load(DEPLOY / "testbed.toml")
DOCUMENT = compose.document(BED, "testbed", "../monitoring")
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]
DEVICES = {name: one for name, one in SERVICES.items() if name.endswith(BED.clients)}


def test_the_shipped_file_is_what_the_shipped_testbed_gives() -> None:
    """When it is not: deploy/testbed --backend compose --render says how."""
    assert (DEPLOY / "compose" / "compose.yaml").read_text() == compose.render(BED, "testbed", "../monitoring")


def test_the_text_says_what_the_document_says() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    assert yaml.safe_load(compose.render(BED, "testbed", "../monitoring")) == DOCUMENT


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_closed(name: str) -> None:
    one = SERVICES[name]
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert "cap_add" not in one
    assert "privileged" not in one
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert int(one["user"].partition(":")[0]) > 0
    image = one["image"].partition(":-")[2].rstrip("}")
    tag = image.rpartition(":")[2]
    assert image.count(":") == 1
    assert tag[0].isdigit() or tag[0] == "v", f"{image} is not pinned to a version"
    # What is mounted from the host cannot be written.
    mounted = [volume.split(":") for volume in one["volumes"]]
    assert all(parts[-1] == "ro" for parts in mounted if parts[0].startswith((".", "/")))


def test_each_device_is_alone_with_the_server() -> None:
    networks = {name: set(one["networks"]) for name, one in SERVICES.items() if "networks" in one}
    assert all(len(networks[name]) == 1 for name in DEVICES)
    for one, other in combinations(DEVICES, 2):
        twins = {one, other} == {compose.twin(one), one} or {one, other} == {compose.twin(other), other}
        assert twins or not networks[one] & networks[other]
    for name in DEVICES:
        (only,) = networks[name]
        assert only in networks["server"]
        assert DOCUMENT["networks"][only]["internal"] is True
    addresses = [address["ipv4_address"] for one in SERVICES.values() for address in _addresses(one)]
    # Twins have one address between them, for they are one device.
    assert len(addresses) - len(set(addresses)) == len(BED.liars)


def _addresses(service: dict[str, Any]) -> list[dict[str, str]]:
    return list(service["networks"].values()) if isinstance(service.get("networks"), dict) else []


def test_a_device_that_may_lie_is_one_volume_and_two_services() -> None:
    for client in BED.liars:
        honest, lying = SERVICES[client], SERVICES[compose.twin(client)]
        assert (honest["profiles"], lying["profiles"]) == (["clean"], ["attack"])
        assert honest["volumes"][0] == lying["volumes"][0] == f"{client}:/var/lib/edgehold"
    assert not any("profiles" in SERVICES[client] for client in BED.clients[: BED.testbed.honest])
    assert SERVICES["prometheus"]["profiles"] == SERVICES["grafana"]["profiles"] == ["monitoring"]


def test_bundles_are_secrets_in_files_and_of_their_device_alone() -> None:
    for client in BED.clients:
        assert SERVICES[client]["secrets"] == [f"{client}.bundle"]
        assert DOCUMENT["secrets"][f"{client}.bundle"] == {"file": f"./secrets/{client}.bundle"}


def test_what_is_mounted_is_legal(tmp_path: Path) -> None:
    compose.write(BED, tmp_path, "testbed", "../monitoring")
    server = msgspec.convert(tomllib.loads((tmp_path / "config/server/server.toml").read_text()), ServerConfig)
    assert server.server.metrics_listen.startswith("127.0.0.1:")
    for run in RUNS:
        parse_plan((tmp_path / f"config/server/plans/{run}.toml").read_text(), registry.method)
    for name in DEVICES:
        config = msgspec.convert(tomllib.loads((tmp_path / f"config/{name}/client.toml").read_text()), ClientConfig)
        assert (config.adversary is not None) == (name not in BED.clients)
        msgspec.convert(tomllib.loads((tmp_path / f"config/{name}/policy.toml").read_text()), Policy)
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0


@pytest.mark.skipif(shutil.which("docker") is None, reason="docker is not installed")
def test_docker_compose_takes_it(tmp_path: Path) -> None:
    # Needs no engine: the file is only read.
    version = subprocess.run(["docker", "compose", "version"], capture_output=True)
    if version.returncode:
        pytest.skip("docker has no compose plugin")
    file = compose.write(BED, tmp_path, "testbed", "../monitoring")
    command = ["docker", "--host", "unix:///nonexistent", "compose", "--file", str(file)]
    profiles = ["--profile", "clean", "--profile", "attack", "--profile", "monitoring"]
    done = subprocess.run([*command, *profiles, "config", "--services"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == set(SERVICES)
    alone = subprocess.run([*command, "config", "--services"], capture_output=True, text=True, check=True)
    assert set(alone.stdout.split()) == {"server", *BED.clients[:8]}


@pytest.mark.parametrize(
    ("label", "now", "again"),
    [
        ("abc1234", "abc1234", False),
        ("abc1234", "def5678", True),
        ("abc1234-dirty", "abc1234-dirty", True),
        ("unknown", "unknown", False),
        (None, "abc1234", True),
    ],
)
def test_an_image_of_other_code_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str | None, now: str, again: bool
) -> None:
    # A docker that only knows one image's label, or no image.
    (tmp_path / "docker").write_text(f"#!/bin/sh\n{'exit 1' if label is None else f'echo {label}'}\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert containers.stale("edgehold/server:0.1.0", now) is again


def test_a_folder_outside_a_clone_has_no_revision(tmp_path: Path) -> None:
    assert containers.revision(tmp_path) == "unknown"


def test_where_no_engine_answers_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\necho Cannot connect to the daemon >&2\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert "a Docker engine is needed" in containers.why_not()
    assert "Cannot connect to the daemon" in containers.why_not()
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert containers.why_not() == "docker is not installed"
