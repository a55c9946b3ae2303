"""FedPCA, whose devices keep a dual and whose server mirrors it: both sides die, and neither is a round ahead of the other."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.normal_records import ENTRY, options

from edgehold.attacks.testbed import Federation, eventually
from edgehold.client.data.anomaly import make_task
from edgehold.core.crashpoints import EXIT_CODE, VARIABLE
from edgehold.core.errors import FlError
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.server import engine

CLIENTS = ("dev-0", "dev-1", "dev-2")
# In the first round of the subspace, and in one that starts from duals.
DEATHS = (
    ("receipt_journaled:5", {"dev-0": "trained_not_stored:2", "dev-1": "stored_not_sent:3", "dev-2": "uploaded_no_receipt:3"}),
    ("summed:4", {"dev-0": "receipt_not_recorded:4", "dev-1": "trained_not_stored:4", "dev-2": "upload_started:4"}),
)


def plan(name: str) -> str:
    return (
        f'[run]\nname = "{name}"\nrounds = 6\ntask = "flows"\nseed = 5\n'
        "[cohort]\nsize = 3\nquorum = 3\nover_select = 1.0\n[evaluation]\nevery = 0\n"
        '[method]\nname = "fedpca"\nsubspace_rounds = 4\n'
    )


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("subspaces")
    with Federation(folder / "bed", tasks={"flows": (ENTRY, options(folder, -1))}) as federation:
        federation.start_server()
        for index, client in enumerate(CLIENTS):
            federation.add_client(client, {"flows": (ENTRY, options(folder, index))})
            federation.start_client(client)
        federation.wait_connected(3)
        yield federation


@pytest.mark.slow
@pytest.mark.parametrize(("point", "deaths"), DEATHS, ids=[point.partition(":")[0] for point, _ in DEATHS])
def test_the_server_and_every_device_die(bed: Federation, point: str, deaths: dict[str, str], tmp_path: Path) -> None:
    name = point.partition(":")[0].replace("_", "-")
    bed.daemon.stop(9)
    bed.start_server({VARIABLE: point})
    for client, death in deaths.items():
        bed.clients[client].stop(9)
        bed.start_client(client, {VARIABLE: death})
    bed.wait_connected(3)
    with contextlib.suppress(FlError):
        bed.submit(plan(name))
    fallen: set[str] = set()
    while len(fallen) < 4:  # whoever falls is helped up, until each has fallen once

        def found() -> str:
            down = [client for client in CLIENTS if client not in fallen and not bed.clients[client].alive]
            return next(iter(down), "server" if "server" not in fallen and not bed.daemon.alive else "")

        victim = eventually(found, 60.0, "the next death")
        fallen.add(victim)
        if victim == "server":
            assert bed.daemon.wait() == EXIT_CODE
            bed.start_server()
        else:
            assert bed.clients[victim].wait() == EXIT_CODE
            bed.start_client(victim)
    eventually(lambda: bed.info(name).state in ("finished", "failed"), 60.0, f"the end of {name}")
    info = bed.info(name)
    assert (info.state, info.error, info.rounds_done) == ("finished", "", 6)
    tasks = {client: make_task(**options(tmp_path, i)) for i, client in enumerate(CLIENTS)}
    expected = engine.run(*parse_plan(plan(name), registry.method), tasks, make_task(**options(tmp_path, -1)))
    assert info.model_digest == expected.digest
