"""Methods that vote, with PyTorch on the devices: both sides die, and the votes of every round count once."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.deaths import everybody_dies

from edgehold.attacks.testbed import Federation
from edgehold.client.data import tasks
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.server import engine

ENTRY = "edgehold.client.data.tasks:make_task"
CLIENTS = ("dev-0", "dev-1", "dev-2")
DEATHS = {"dev-0": "trained_not_stored:2", "dev-1": "stored_not_sent:2", "dev-2": "uploaded_no_receipt:2"}


def options(index: int) -> dict[str, Any]:
    net = {"hidden": [24], "bias": False}
    return {"dataset": "digits", "device_index": index, "devices": len(CLIENTS), "net": net}


def plan(name: str, method: str) -> str:
    return (
        f'[run]\nname = "{name}"\nrounds = 3\ntask = "digits"\nseed = 5\n'
        "[cohort]\nsize = 3\nquorum = 3\nover_select = 1.0\n[evaluation]\nevery = 0\n"
        f'[method]\nname = "{method}"\nlocal_epochs = 1\n'
    )


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("votes")
    with Federation(folder, tasks={"digits": (ENTRY, options(-1))}) as federation:
        federation.start_server()
        for index, client in enumerate(CLIENTS):
            federation.add_client(client, {"digits": (ENTRY, options(index))})
            federation.start_client(client)
        federation.wait_connected(3)
        yield federation


def model(name: str, method: str, folder: Path) -> bytes:
    """Digest of the server's state after an undisturbed run of that name in one process."""
    store = engine.Store(folder / f"{method}.sqlite")
    made = {client: tasks.make_task(**options(i)) for i, client in enumerate(CLIENTS)}
    engine.run(*parse_plan(plan(name, method), registry.method), made, tasks.make_task(**options(-1)), store=store)
    kept = store.kept()
    assert kept is not None
    blob = kept.packed.blobs["model"]
    return hashlib.sha256(blob.read(0, blob.size)).digest()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "point"), [("frl", "receipt_journaled:5"), ("hidenseek", "summed:2")])
def test_the_server_and_every_device_die(bed: Federation, method: str, point: str, tmp_path: Path) -> None:
    name = f"{method}-{point.partition(':')[0].replace('_', '-')}"
    info = everybody_dies(bed, name, plan(name, method), point, DEATHS)
    assert (info.state, info.error, info.rounds_done) == ("finished", "", 3)
    assert info.model_digest == model(name, method, tmp_path)
