"""FedPCA, whose devices keep a dual and whose server mirrors it: both sides die, and neither is a round ahead of the other."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.deaths import everybody_dies
from tests.support.normal_records import ENTRY, options

from edgehold.attacks.testbed import Federation
from edgehold.client.data.anomaly import make_task
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
    info = everybody_dies(bed, name, plan(name), point, deaths)
    assert (info.state, info.error, info.rounds_done) == ("finished", "", 6)
    tasks = {client: make_task(**options(tmp_path, i)) for i, client in enumerate(CLIENTS)}
    expected = engine.run(*parse_plan(plan(name), registry.method), tasks, make_task(**options(tmp_path, -1)))
    assert info.model_digest == expected.digest
