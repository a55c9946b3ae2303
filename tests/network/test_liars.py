"""Two real processes that collude behind the server's back give the model that conspirators of one process give."""

from pathlib import Path
from typing import Any

from tests.support import three_devices
from tests.support.three_devices import ENTRY

from edgehold.attacks.byzantine.knowledge import K1
from edgehold.attacks.byzantine.min_max import MinMax
from edgehold.attacks.byzantine.plot import Plot
from edgehold.attacks.testbed import Federation
from edgehold.client.data import tasks
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.server import engine

LIARS = (1, 2)
PLAN = three_devices.plan("liars", 'name = "fedavg"\nrule = "median"\nliars = 1')


def options(index: int) -> dict[str, Any]:
    return three_devices.options(index, net={"hidden": [24]})


def test_colluders_over_the_network_are_conspirators_in_one_process(tmp_path: Path) -> None:
    talk = {
        "attack": "min_max",
        "options": {"direction": "sign"},
        "folder": str(tmp_path / "talk"),
        "colluders": 2,
        "wait_s": 30.0,
    }
    with Federation(tmp_path / "bed", tasks={"digits": (ENTRY, options(-1))}) as bed:
        bed.start_server()
        for index in range(three_devices.DEVICES):
            liar = ("edgehold.attacks.byzantine.device:make", talk) if index in LIARS else None
            bed.add_client(f"dev-{index}", {"digits": (ENTRY, options(index))}, adversary=liar)
            bed.start_client(f"dev-{index}")
        bed.wait_connected(three_devices.DEVICES)
        info = bed.run(PLAN)
        assert info.state == "finished", info
    devices = {f"dev-{i}": tasks.make_task(**options(i)) for i in range(three_devices.DEVICES)}
    plot = Plot(frozenset(f"dev-{i}" for i in LIARS), MinMax("sign"), K1)
    own = tasks.make_task(**options(-1))
    assert engine.run(*parse_plan(PLAN, registry.method), devices, own, conspiracy=plot).digest == info.model_digest
    assert engine.run(*parse_plan(PLAN, registry.method), devices, own).digest != info.model_digest
