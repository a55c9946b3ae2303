"""FLORAL keeps its game on the device: both sides die, and the dual weights move once per round."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from tests.support.deaths import everybody_dies

from edgehold.attacks.testbed import Federation
from edgehold.client.data import kernel
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.server import engine

ENTRY = "edgehold.client.data.kernel:make_task"
CLIENTS = ("dev-0", "dev-1", "dev-2")
DEATHS = {"dev-0": "trained_not_stored:2", "dev-1": "stored_not_sent:2", "dev-2": "receipt_not_recorded:2"}
PLAN = (
    '[run]\nname = "{name}"\nrounds = {rounds}\ntask = "digits"\nseed = 5\n'
    "[cohort]\nsize = 3\nquorum = 3\nover_select = 1.0\n[evaluation]\nevery = 0\n"
    '[method]\nname = "floral"\nmode = "coupled"\ncount = 40\nplays = 12\n'
)


def options(index: int) -> dict[str, Any]:
    return {"dataset": "digits", "device_index": index, "devices": len(CLIENTS), "count": 40, "limit": 80, "test": "none"}


def model(name: str, rounds: int, folder: Path) -> bytes:
    """Digest of the head after an undisturbed run of that name in one process."""
    store = engine.Store(folder / f"{rounds}.sqlite")
    made = {client: kernel.make_task(**options(i)) for i, client in enumerate(CLIENTS)}
    plan = parse_plan(PLAN.format(name=name, rounds=rounds), registry.method)
    engine.run(*plan, made, kernel.make_task(**options(-1)), store=store)
    kept = store.kept()
    assert kept is not None
    blob = kept.packed.blobs["model"]
    return hashlib.sha256(blob.read(0, blob.size)).digest()


@pytest.mark.slow
@pytest.mark.parametrize("point", ["receipt_journaled:5", "summed:2"])
def test_the_server_and_every_device_die(point: str, tmp_path: Path) -> None:
    name = point.partition(":")[0].replace("_", "-")
    with Federation(tmp_path / "bed", tasks={"digits": (ENTRY, options(-1))}) as bed:
        bed.start_server()
        for index, client in enumerate(CLIENTS):
            bed.add_client(client, {"digits": (ENTRY, options(index))})
        info = everybody_dies(bed, name, PLAN.format(name=name, rounds=3), point, DEATHS)
    assert (info.state, info.error, info.rounds_done) == ("finished", "", 3)
    assert info.model_digest == model(name, 3, tmp_path)
    assert info.model_digest != model(name, 2, tmp_path), "control: every round moves the head"
