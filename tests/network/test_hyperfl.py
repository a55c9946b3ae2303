"""HyperFL over mutual TLS gives the hypernetwork of one process, bit for bit, where embeddings and heads repeat."""

import hashlib
from pathlib import Path
from typing import Any

from tests.support import three_devices
from tests.support.three_devices import DEVICES, ENTRY

from edgehold.attacks.eval.named import Named
from edgehold.attacks.testbed import Federation
from edgehold.client.data import tasks
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.defenses.hyperfl.state import layout_of
from edgehold.server import engine

REPEATABLE: tuple[str, dict[str, Any]] = ("edgehold.attacks.eval.repeatable:make", {})
PLAN = three_devices.plan("generated", 'name = "hyperfl"\nembedding = 6\nhidden = 20\nlocal_epochs = 1\nclip_norm = 5.0')


def options(index: int) -> dict[str, Any]:
    return three_devices.options(index, net={"hidden": [24]})


def test_the_network_gives_the_hypernetwork_of_one_process(tmp_path: Path) -> None:
    """Its body is longer than the model, above what rides along with an order, and kept beside the first model's head."""
    with Federation(tmp_path / "bed", tasks={"digits": (ENTRY, options(-1))}) as bed:
        bed.start_server()
        for index in range(DEVICES):
            bed.add_client(f"dev-{index}", {"digits": (ENTRY, options(index))}, adversary=REPEATABLE)
            bed.start_client(f"dev-{index}")
        bed.wait_connected(DEVICES)
        info = bed.run(PLAN)
        assert info.state == "finished", info
    devices = {f"dev-{i}": tasks.make_task(**options(i)) for i in range(DEVICES)}
    store, own = engine.Store(tmp_path / "run.sqlite"), tasks.make_task(**options(-1))
    plan, settings = parse_plan(PLAN, registry.method)
    expected = engine.run(plan, settings, devices, own, dict.fromkeys(devices, Named(*REPEATABLE)), store=store)
    kept = store.kept()
    assert kept is not None
    blob = kept.packed.blobs["model"]
    assert blob.size == 4 * layout_of(own.schema, settings).size > 4 * 10 * own.schema.size
    assert blob.size > 128 << 10
    assert info.model_digest == hashlib.sha256(blob.read(0, blob.size)).digest()
    facts, last = dict(info.latest.facts), expected.rounds[-1]
    for name in ("accuracy", "update_norm_median", "step_norm"):
        assert facts[name] == last[name]
