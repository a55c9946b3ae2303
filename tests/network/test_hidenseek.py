"""HideNseek over mutual TLS gives the model of one process: mask and votes, bit for bit; a broken network never starts."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from tests.support import three_devices
from tests.support.three_devices import DEVICES, ENTRY

from edgehold.attacks.eval.named import Named
from edgehold.attacks.testbed import Federation
from edgehold.client.data import tasks
from edgehold.core.errors import ConfigError
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.server import engine
from edgehold.server.desk.preflight import findings

LIAR = ("edgehold.attacks.byzantine.signs:make", {"lie": "invert"})
PLAN = three_devices.plan("signs", 'name = "hidenseek"\nlocal_epochs = 1\nliars = 1')


def options(index: int) -> dict[str, Any]:
    return three_devices.options(index, net={"hidden": [24], "bias": False})


def test_the_network_gives_the_model_of_one_process(tmp_path: Path) -> None:
    """One of the three turns its bits, by its own configuration."""
    with Federation(tmp_path / "bed", tasks={"digits": (ENTRY, options(-1))}) as bed:
        bed.start_server()
        for index in range(DEVICES):
            bed.add_client(f"dev-{index}", {"digits": (ENTRY, options(index))}, adversary=LIAR if index == 1 else None)
            bed.start_client(f"dev-{index}")
        bed.wait_connected(DEVICES)
        with pytest.raises(ConfigError, match=r"pruning leaves \d+ of \d+ weights of layer 0.weight, which has 24 outputs"):
            bed.submit(PLAN + "keep = 0.01\n")
        plan = tmp_path / "plan.toml"
        plan.write_text(PLAN + "keep = 0.01\n")
        found = {one.name: one for one in findings(bed.home, plan)}["plan"]
        assert not found.ok
        assert "weights of layer 0.weight, which has 24 outputs" in found.detail
        plan.write_text(PLAN)
        assert {one.name: one for one in findings(bed.home, plan)}["plan"].ok
        info = bed.run(PLAN)
        assert info.state == "finished", info
    devices = {f"dev-{i}": tasks.make_task(**options(i)) for i in range(DEVICES)}
    store = engine.Store(tmp_path / "run.sqlite")
    expected = engine.run(
        *parse_plan(PLAN, registry.method), devices, tasks.make_task(**options(-1)), {"dev-1": Named(*LIAR)}, store=store
    )
    kept = store.kept()
    assert kept is not None
    blob = kept.packed.blobs["model"]
    assert info.model_digest == hashlib.sha256(blob.read(0, blob.size)).digest()
    weights = tasks.make_task(**options(-1)).schema.size
    assert blob.size == -(-weights // 8) + -(-2 * round(weights / 2) // 8), "a bit per weight, two per vote of three devices"
    facts, last = dict(info.latest.facts), expected.rounds[-1]
    for name in ("accuracy", "signs_turned", "signs_contested"):
        assert facts[name] == last[name]
