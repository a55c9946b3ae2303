"""The whole command: from one file to models and report, on plain processes and, where the machine can, on namespaces."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from edgehold.attacks.demo.folders import HOMES
from edgehold.attacks.multinode import containers, ground, network
from edgehold.attacks.multinode.backend import SKIP
from edgehold.attacks.multinode.config import load
from edgehold.attacks.testbed import eventually
from edgehold.core.onnx_run import Graph

DEPLOY = Path(__file__).parents[2] / "deploy"
BED = (DEPLOY / "testbed.toml").read_text()
WHY_NOT = network.why_not(shaped=True)
needs_namespaces = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


def no_containers() -> str:
    """Why containers cannot be tested: images are built by deploy/images/build, not by tests."""
    if reason := containers.why_not():
        return reason
    images, now = load(DEPLOY / "testbed.toml").images, containers.revision(DEPLOY)
    old = [name for name in map(images.name, ("server", "device")) if containers.stale(name, now)]
    return f"{' and '.join(old)} of revision {now} are not built (deploy/images/build)" if old else ""


WHY_NO_CONTAINERS = no_containers()
needs_containers = pytest.mark.skipif(bool(WHY_NO_CONTAINERS), reason=WHY_NO_CONTAINERS)

SMALL = ("--honest", "4", "--liars", "1", "--rounds", "2")


def module(name: str, *words: str) -> list[str]:
    return [sys.executable, "-m", f"edgehold.attacks.multinode.{name}", *words]


@dataclass(frozen=True)
class Done:
    pid: int
    returncode: int
    stderr: str


def play(folder: Path, *words: str, file: str = BED) -> Done:
    bed = folder / "bed.toml"
    bed.write_text(file)
    command = module("app", str(bed), "--out", str(folder / "out"), *SMALL, *words)

    where = {**os.environ, "EDGEHOLD_DEPLOY": str(DEPLOY)}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=where
    ) as child:
        _, said = child.communicate()
    return Done(child.pid, child.returncode, said)


def runs(folder: Path) -> dict[str, dict[str, Any]]:
    report = json.loads((folder / "out" / "report.json").read_text())
    return {run["name"]: run for run in report["runs"]}


def shaped(link: str, partition: str = "") -> str:
    """The shipped file with another link."""
    head, _, _ = BED.partition("[link]")
    return f"{head}[link]\n{link}\n{partition}"


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all three runs were played on plain processes."""
    folder = tmp_path_factory.mktemp("bed")
    done = play(folder, "--backend", "process")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_one_command_ends_with_models_and_a_report(processes: Path) -> None:
    found, out = runs(processes), processes / "out"
    assert list(found) == ["clean", "attacked", "defended"]
    assert found["clean"]["accuracy"] > 0.93
    # Two classes: 0.5 is chance, and a flipped head is wrong where the honest one is right.
    assert found["attacked"]["accuracy"] < 0.3
    assert found["defended"]["accuracy"] > found["clean"]["accuracy"] - 0.05
    for name, run in found.items():
        assert run["clients_admitted"] == [5, 5]
        weights = b"".join(values.astype("<f4").tobytes() for values in load_file(out / run["model"]).values())
        assert run["weights_sha256"] == hashlib.sha256(weights).hexdigest()
        assert name in (out / "report.txt").read_text()
        exported = run["exported"]
        manifest = (out / name / "manifest.json").read_bytes()
        assert exported["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
        assert (exported["deployed_on"], exported["records"], exported["same_decision"]) == ("dev-0", 1000, 1.0)
        assert exported["max_abs"] < 1e-9, "the head and its features are computed in float64"
        said = json.loads(manifest)
        assert (said["run"], said["round"], said["weights_sha256"]) == (name, 2, run["weights_sha256"])
        graph = Graph((out / name / "model.onnx").read_bytes(), name)
        assert graph(np.zeros((3, 2))).shape[0] == 3
    assert len({run["weights_sha256"] for run in found.values()}) == 3
    verdict = json.loads((out / "report.json").read_text())["verdict"]
    assert verdict["won"] is True
    assert verdict["taken"] == [pytest.approx(found["clean"]["accuracy"] - found["attacked"]["accuracy"])]
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (out / "logs").iterdir()} == {"server.log", *(f"dev-{i}.log" for i in range(5))}
    assert not (out / HOMES).exists(), "keys and journals are left"


@pytest.mark.slow
def test_processes_have_no_links_to_shape(tmp_path: Path) -> None:
    done = play(tmp_path, "--backend", "process", file=shaped("delay_ms = 5.0"))
    assert done.returncode == SKIP
    assert "no" in done.stderr
    assert "netns or compose" in done.stderr


def test_what_is_wrong_in_the_file_is_one_line(tmp_path: Path) -> None:
    done = play(tmp_path, file=BED.replace("honest = 8", "honset = 8"))
    assert done.returncode == 1
    assert 'did you mean "honest"' in done.stderr
    assert len(done.stderr.splitlines()) == 1


@needs_namespaces
@pytest.mark.slow
def test_the_same_model_comes_out_over_links_that_delay_and_lose_and_break(tmp_path: Path, processes: Path) -> None:
    file = shaped("delay_ms = 20.0\nloss_percent = 1.0", '[[partition]]\nclients = ["dev-1", "dev-2"]\nseconds = 2.0')
    done = play(tmp_path, "--backend", "netns", "--run", "clean", file=file)
    assert done.returncode == 0, done.stderr
    found = runs(tmp_path)["clean"]
    assert [(cut["round"], cut["client"]) for cut in found["cuts"]] == [(1, "dev-1"), (2, "dev-2")]
    assert all(seconds >= 1.9 for seconds in found["round_seconds"]), "a round that waits for nobody was not cut"
    assert found["weights_sha256"] == runs(processes)["clean"]["weights_sha256"]
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert f"eh-{done.pid:x}-" not in left


@needs_containers
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_same_model_comes_out_of_containers(tmp_path: Path, processes: Path) -> None:
    done = play(tmp_path, "--backend", "compose", "--run", "clean")
    assert done.returncode == 0, done.stderr
    assert runs(tmp_path)["clean"]["weights_sha256"] == runs(processes)["clean"]["weights_sha256"]
    left = subprocess.run(
        ["docker", "ps", "--all", "--format", "{{.Names}}"], capture_output=True, text=True, check=True
    ).stdout
    assert f"eh-{done.pid:x}-" not in left


# ---- links alone


def timed(net: network.Network, timeout_s: float) -> float | None:
    """Seconds until `dev-0` is connected to the server; None when it is not in time."""
    code = f"import socket; socket.create_connection(('{net.address('server')}', 9000), {timeout_s}).close()"
    begun = time.monotonic()
    done = subprocess.run([*net.inside("dev-0"), sys.executable, "-S", "-c", timing(code)], capture_output=True, text=True)
    assert time.monotonic() - begun < timeout_s + 20.0
    return float(done.stdout) if done.returncode == 0 else None


def timing(code: str) -> str:
    return f"import time; t = time.monotonic(); {code}; print(time.monotonic() - t)"


@needs_namespaces
def test_chaos_delays_cuts_and_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgehold.attacks.multinode.links import Links

    monkeypatch.chdir(tmp_path)  # socket paths have to be short
    homes = Path(HOMES)
    homes.mkdir()

    def chaos(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(module("chaos", *words, "--bed", "."), capture_output=True, text=True)

    assert "no testbed with links of its own" in chaos("show").stderr
    net = network.Network(f"t{os.getpid():x}"[:6], ("server", "dev-0", "dev-1"))
    links = None
    try:
        net.up(shaped=True)
        links = Links(homes, {node: (net.file(node), net.address(node)) for node in net.nodes}, seed=0)
        ground.note(homes, "netns", ("dev-0", "dev-1"), control=str(links.control.absolute()))
        code = f"import socket; s = socket.create_server(('{net.address('server')}', 9000)); [s.accept() for _ in iter(int, 1)]"
        listener = subprocess.Popen([*net.inside("server"), sys.executable, "-S", "-c", code])
        try:
            eventually(lambda: timed(net, 5.0) is not None, 20.0, "a listener")
            assert chaos("delay", "dev-0", "--ms", "150").returncode == 0
            assert (timed(net, 5.0) or 0.0) >= 0.3, "150 ms there and 150 ms back"
            assert chaos("cut", "dev-1").returncode == 0
            assert timed(net, 5.0) is not None, "another device's cut is none of ours"
            assert chaos("cut", "dev-0").returncode == 0
            assert timed(net, 1.0) is None
            shown = json.loads(chaos("show").stdout)
            assert (shown["dev-0"]["cut"], shown["dev-0"]["link"]["delay_ms"]) == (True, 150.0)
            assert shown["dev-0"]["seen"] > 0
            assert chaos("heal", "dev-0").returncode == 0
            assert timed(net, 5.0) is not None
            assert "dev-0" in chaos("cut", "dev-00").stderr, "the nearest name is suggested"
        finally:
            listener.kill()
            listener.wait()
    finally:
        if links is not None:
            links.close()
        net.down()
    assert not Path(f"/run/netns/{net.switch}").exists()


def test_where_namespaces_are_not_to_be_had_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    tools: Sequence[str] = ("ip", "nsenter", "iptables")
    monkeypatch.setattr("shutil.which", lambda name: f"/sbin/{name}" if name in tools else None)
    assert network.why_not(shaped=True) == "network namespaces need root"
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "ip, nsenter, iptables not installed" in network.why_not(shaped=True)
    assert "iptables" not in network.why_not(shaped=False).partition("(")[0]
