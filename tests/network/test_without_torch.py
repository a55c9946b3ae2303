"""Devices in an environment without PyTorch take part: what `pip install edgehold[device]` promises."""

from pathlib import Path

import pytest
from tests.support import small_device, three_devices
from tests.support.three_devices import DEVICES

from edgehold.attacks.testbed import Federation

SYNTHETIC = "edgehold.client.data.synthetic:make_task"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interpreter of a small device."""
    return small_device.make(tmp_path_factory.mktemp("device") / "venv")


@pytest.mark.parametrize("package", ["torch", "scipy", "sklearn", "rich", "matplotlib", "onnx"])
def test_heavy_packages_are_not_there(python: Path, package: str) -> None:
    code = f"import importlib.util; print(importlib.util.find_spec({package!r}))"
    assert small_device.said(python, code) == "None"


def test_the_daemon_and_frozen_networks_are_there(python: Path) -> None:
    small_device.said(python, "import edgehold.client.daemon, edgehold.client.worker, onnxruntime, numpy")


def test_small_devices_train_with_a_server_that_has_everything(python: Path, tmp_path: Path) -> None:
    plan = three_devices.plan("small", 'name = "fedavg"').replace('"digits"', '"synthetic"')
    with Federation(tmp_path / "bed", tasks={"synthetic": (SYNTHETIC, {"device_index": -1})}) as bed:
        bed.start_server()
        for index in range(DEVICES):
            bed.add_client(f"dev-{index}", {"synthetic": (SYNTHETIC, {"device_index": index})})
            bed.clients[f"dev-{index}"].command[0] = str(python)
            bed.start_client(f"dev-{index}")
        bed.wait_connected(DEVICES)
        info = bed.run(plan)
        assert info.state == "finished", info
        assert dict(info.latest.facts)["clients_admitted"] == DEVICES
