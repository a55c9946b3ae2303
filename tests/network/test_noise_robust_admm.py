"""Noise-robust ADMM over mutual TLS, on devices without PyTorch, gives the solution of one process; deaths change nothing."""

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support import small_device, three_devices
from tests.support.deaths import everybody_dies
from tests.support.three_devices import DEVICES

from edgehold.attacks.testbed import Federation
from edgehold.client.data.linear import synthetic
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.server import engine

ENTRY = "edgehold.client.data.linear:synthetic"
DEATHS = {"dev-0": "trained_not_stored:2", "dev-1": "stored_not_sent:2", "dev-2": "receipt_not_recorded:2"}
POINT = "summed:2"


def options(index: int) -> dict[str, Any]:
    return {"device_index": index, "devices": DEVICES, "length": 24}


def plan(name: str, form: str) -> str:
    method = f'name = "noise_robust_admm"\nform = "{form}"\nrho = 50.0\nnoise_up = 0.01\nnoise_down = 0.01'
    return three_devices.plan(name, method).replace('"digits"', '"linear"').replace("rounds = 2", "rounds = 4")


def model(name: str, form: str) -> bytes:
    """Digest of the model of an undisturbed run of that name in one process."""
    devices = {f"dev-{i}": synthetic(**options(i)) for i in range(DEVICES)}
    found = engine.run(*parse_plan(plan(name, form), registry.method), devices, synthetic(**options(-1))).model.whole()
    return hashlib.sha256(found.tobytes()).digest()


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("admm")
    python = small_device.make(folder / "venv")
    with Federation(folder / "bed", tasks={"linear": (ENTRY, options(-1))}) as federation:
        federation.start_server()
        for index in range(DEVICES):
            federation.add_client(f"dev-{index}", {"linear": (ENTRY, options(index))})
            federation.clients[f"dev-{index}"].command[0] = str(python)
            federation.start_client(f"dev-{index}")
        federation.wait_connected(DEVICES)
        yield federation


@pytest.mark.parametrize("form", ["anchored", "rerce", "continual", "dual"])
def test_the_network_gives_the_solution_of_one_process(bed: Federation, form: str) -> None:
    info = bed.run(plan(f"net-{form}", form))
    assert info.state == "finished", info
    assert info.model_digest == model(f"net-{form}", form)
    assert "nmsd_db" in dict(info.latest.facts)


@pytest.mark.slow
def test_the_server_and_every_device_die(bed: Federation) -> None:
    name = "deaths"
    info = everybody_dies(bed, name, plan(name, "anchored"), POINT, DEATHS)
    assert (info.state, info.error, info.rounds_done) == ("finished", "", 4)
    assert info.model_digest == model(name, "anchored")
