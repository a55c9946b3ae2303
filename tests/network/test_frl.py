"""FRL over mutual TLS gives the model of one process: the packed order and the dense weights, bit for bit."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from edgehold.attacks.testbed import Federation
from edgehold.client.data import tasks
from edgehold.core.errors import ConfigError
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.proto.channel import Stub
from edgehold.proto.v1 import admin_pb2 as pb
from edgehold.server import engine

DEVICES = 3
ENTRY = "edgehold.client.data.tasks:make_task"
NET = {"hidden": [24], "bias": False}
PLAN = """
[run]
name = "votes"
rounds = 2
task = "digits"
seed = 11
[cohort]
size = 3
quorum = 3
over_select = 1.0
join_deadline_s = 30.0
round_deadline_s = 30.0
[evaluation]
every = 2
[method]
name = "frl"
local_epochs = 1
liars = 1
"""


def test_the_network_gives_the_model_of_one_process(tmp_path: Path) -> None:
    def options(index: int) -> dict[str, Any]:
        return {"dataset": "digits", "device_index": index, "devices": DEVICES, "net": NET}

    biased = {**options(-1), "net": {"hidden": [24]}}
    with Federation(tmp_path / "bed", tasks={"digits": (ENTRY, options(-1)), "biased": (ENTRY, biased)}) as bed:
        bed.start_server()
        for index in range(DEVICES):
            bed.add_client(f"dev-{index}", {"digits": (ENTRY, options(index))})
            bed.start_client(f"dev-{index}")
        bed.wait_connected(DEVICES)
        with pytest.raises(ConfigError, match=r"tensor \S*bias of shape \[24\] cannot be used"):
            bed.submit(PLAN.replace('task = "digits"', 'task = "biased"'))
        info = bed.run(PLAN)
        assert info.state == "finished", info

        async def download(stub: Stub) -> bytes:
            parts = stub.stream("GetModel", pb.GetModelRequest(run="votes"), pb.GetModelResponse)
            return b"".join([part.data async for part in parts])

        file = bed.ask(download)
    devices = {f"dev-{i}": tasks.make_task(**options(i)) for i in range(DEVICES)}
    store = engine.Store(tmp_path / "run.sqlite")
    expected = engine.run(*parse_plan(PLAN, registry.method), devices, tasks.make_task(**options(-1)), store=store)
    kept = store.kept()
    assert kept is not None
    blob = kept.packed.blobs["model"]
    assert info.model_digest == hashlib.sha256(blob.read(0, blob.size)).digest()
    assert hashlib.sha256(file[8 + int.from_bytes(file[:8], "little") :]).digest() == expected.digest
    facts = dict(info.latest.facts)
    last = expected.rounds[-1]
    assert {name: facts[name] for name in ("accuracy", "edges_swapped", "edges_contested")} == {
        name: last[name] for name in ("accuracy", "edges_swapped", "edges_contested")
    }
