"""Bristle: the server and every device die in the middle of a run, and come to the heads of one process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.deaths import everybody_dies

from edgehold.attacks.testbed import Federation
from edgehold.client.data import frozen
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.server import engine

ENTRY = "edgehold.client.data.frozen:make_task"
CLIENTS = ("dev-0", "dev-1", "dev-2")
# In rounds in which there is something to read, and a local state to lose.
RUNS = {
    "summed:2": {"dev-0": "letters_read:2", "dev-1": "stored_not_sent:2", "dev-2": "uploaded_no_receipt:3"},
    "commit_journaled:2": {"dev-0": "trained_not_stored:3", "dev-1": "receipt_not_recorded:2", "dev-2": "recorded:2"},
}


def options(index: int) -> dict[str, Any]:
    return {"device_index": index, "devices": len(CLIENTS), "width": 64}


def plan(name: str) -> str:
    return (
        f'[run]\nname = "{name}"\nrounds = 4\ntask = "digits"\nseed = 5\n'
        "[cohort]\nsize = 3\nquorum = 3\nover_select = 1.0\n[evaluation]\nevery = 0\n"
        '[method]\nname = "bristle"\nbudget = 1\nsteps = 3\n'
    )


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with Federation(tmp_path_factory.mktemp("heads"), tasks={"digits": (ENTRY, options(-1))}) as federation:
        federation.start_server()
        for index, client in enumerate(CLIENTS):
            federation.add_client(client, {"digits": (ENTRY, options(index))})
            federation.start_client(client)
        federation.wait_connected(3)
        yield federation


def model(name: str) -> bytes:
    """Digest of the model of an undisturbed run of that name in one process."""
    devices = {client: frozen.make_task(**options(index)) for index, client in enumerate(CLIENTS)}
    return engine.run(*parse_plan(plan(name), registry.method), devices, frozen.make_task(**options(-1))).digest


@pytest.mark.slow
@pytest.mark.parametrize("point", RUNS)
def test_the_server_and_every_device_die(bed: Federation, point: str, tmp_path: Path) -> None:
    name = f"heads-{point.partition(':')[0].replace('_', '-')}"
    info = everybody_dies(bed, name, plan(name), point, RUNS[point])
    assert (info.state, info.error, info.rounds_done) == ("finished", "", 4)
    assert info.model_digest == model(name)
