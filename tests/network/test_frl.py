"""FRL over mutual TLS gives the model of one process: the packed order and the dense weights, bit for bit."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from tests.support import three_devices
from tests.support.three_devices import DEVICES, ENTRY

from edgehold.attacks.testbed import Federation
from edgehold.client.data import tasks
from edgehold.core.errors import ConfigError
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.proto.channel import Stub
from edgehold.proto.v1 import admin_pb2 as pb
from edgehold.server import engine

NET = {"hidden": [24], "bias": False}
PLAN = three_devices.plan("votes", 'name = "frl"\nlocal_epochs = 1\nliars = 1')


FORMS = {"votes": "", "votes-entropy": 'coding = "entropy"\n', "votes-top": 'upload = "top"\ntop = 0.3\n'}
"""A run for every form in which ranks travel."""


def options(index: int) -> dict[str, Any]:
    return three_devices.options(index, net=NET)


def plan_of(name: str) -> str:
    return PLAN.replace('name = "votes"', f'name = "{name}"') + FORMS[name]


def test_the_network_gives_the_model_of_one_process(tmp_path: Path) -> None:
    biased = {**options(-1), "net": {"hidden": [24]}}
    with Federation(tmp_path / "bed", tasks={"digits": (ENTRY, options(-1)), "biased": (ENTRY, biased)}) as bed:
        bed.start_server()
        for index in range(DEVICES):
            bed.add_client(f"dev-{index}", {"digits": (ENTRY, options(index))})
            bed.start_client(f"dev-{index}")
        bed.wait_connected(DEVICES)
        with pytest.raises(ConfigError, match=r"tensor \S*bias of shape \[24\] cannot be used"):
            bed.submit(PLAN.replace('task = "digits"', 'task = "biased"'))
        infos, files = {}, {}
        for name in FORMS:
            infos[name] = bed.run(plan_of(name))
            assert infos[name].state == "finished", infos[name]

            async def download(stub: Stub, name: str = name) -> bytes:
                parts = stub.stream("GetModel", pb.GetModelRequest(run=name), pb.GetModelResponse)
                return b"".join([part.data async for part in parts])

            files[name] = bed.ask(download)
    devices = {f"dev-{i}": tasks.make_task(**options(i)) for i in range(DEVICES)}
    sizes = set()
    for name in FORMS:
        store = engine.Store(tmp_path / f"{name}.sqlite")
        played = parse_plan(plan_of(name), registry.method)
        expected = engine.run(*played, devices, tasks.make_task(**options(-1)), store=store)
        kept = store.kept()
        assert kept is not None
        blob = kept.packed.blobs["model"]
        assert infos[name].model_digest == hashlib.sha256(blob.read(0, blob.size)).digest()
        file = files[name]
        assert hashlib.sha256(file[8 + int.from_bytes(file[:8], "little") :]).digest() == expected.digest
        facts, last = dict(infos[name].latest.facts), expected.rounds[-1]
        for fact in ("accuracy", "edges_swapped", "edges_contested"):
            assert facts[fact] == last[fact]
        sizes.add(last["bytes_up"])
    assert len(sizes) == 3, "three forms, three sizes"
