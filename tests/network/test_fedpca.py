"""FedPCA over mutual TLS gives the model of one process, bit for bit; a device with bad records is left out, not waited for."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.normal_records import COLUMNS, ENTRY, options

from edgehold.attacks.testbed import Federation
from edgehold.client.data.anomaly import make_task
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.server import engine

DEVICES = 3


def plan(name: str, size: int, quorum: int, **how: Any) -> str:
    method = "".join(f"{key} = {value!r}\n" for key, value in how.items())
    return (
        f'[run]\nname = "{name}"\nrounds = 7\ntask = "flows"\nseed = 11\n'
        f"[cohort]\nsize = {size}\nquorum = {quorum}\nover_select = 1.0\njoin_deadline_s = 20.0\nround_deadline_s = 20.0\n"
        f'[evaluation]\nevery = 7\n[method]\nname = "fedpca"\nsubspace_rounds = 4\n{method}'
    )


@pytest.mark.parametrize("mode", ["fedpg", "fedpe"])
def test_the_network_gives_the_model_of_one_process(tmp_path: Path, mode: str) -> None:
    own = options(tmp_path, -1)
    given = {f"dev-{i}": options(tmp_path, i) for i in range(DEVICES)}
    # Two of three a round: means and widths must reach a device that comes in late.
    text = plan("flows", 2, 2, mode=mode)
    with Federation(tmp_path / "bed", tasks={"flows": (ENTRY, own)}) as bed:
        bed.start_server()
        for name, one in given.items():
            bed.add_client(name, {"flows": (ENTRY, one)})
            bed.start_client(name)
        bed.wait_connected(DEVICES)
        info = bed.run(text)
        assert info.state == "finished", info
    tasks = {name: make_task(**one) for name, one in given.items()}
    expected = engine.run(*parse_plan(text, registry.method), tasks, make_task(**own))
    assert info.model_digest == expected.digest
    facts, last = dict(info.latest.facts), expected.rounds[-1]
    for name in ("auc", "recall", "false_positive_rate", "alarm_threshold"):
        assert facts[name] == last[name]
    assert last["auc"] > 0.8


def test_a_device_with_bad_records_is_left_out(tmp_path: Path) -> None:
    given = {f"dev-{i}": options(tmp_path, i, spoiled=i == 1) for i in range(DEVICES)}
    with Federation(tmp_path / "bed", tasks={"flows": (ENTRY, options(tmp_path, -1))}) as bed:
        bed.start_server()
        for name, one in given.items():
            bed.add_client(name, {"flows": (ENTRY, one)})
            bed.start_client(name)
        bed.wait_connected(DEVICES)
        info = bed.run(plan("flows", 3, 2))
        assert (info.state, info.rounds_done) == ("finished", 7), info
        assert dict(info.latest.facts)["clients_admitted"] == 2
    log = (tmp_path / "bed" / "dev-1.log").read_text()
    assert "column 'a', row 8 is 'tcp'" in log, "its owner reads what is wrong, and where"
    assert "tcp" not in (tmp_path / "bed" / "server.log").read_text(), "and nobody else does"


def test_a_device_never_loads_a_training_library(tmp_path: Path) -> None:
    """Task, every phase of the method, and detection with what came out: NumPy alone."""
    code = f"""
import sys
import numpy as np
from edgehold.client import detect, live, model_file
from edgehold.client.data.anomaly import make_task
from edgehold.core.contract import Cohort, Weighted
from edgehold.core.vectors import MemorySpace, Vector
from edgehold.defenses import registry
task = make_task(**{options(tmp_path, 0)!r})
half, codec = registry.client_side("fedpca"), registry.codec("fedpca", None)
def heavy():
    return [name for name in ("torch", "scipy", "sklearn", "pandas", "onnxruntime", "edgehold.server") if name in sys.modules]
assert not heavy(), heavy()
from edgehold.defenses.fedpca.server import FedPcaServer
server = FedPcaServer(registry.method("fedpca").settings(subspace_rounds=1), task.schema, 1)
state, rng, local = server.start(Vector.of(task.initial(1))), np.random.default_rng(0), None
for number in (1, 2, 3):
    order = codec.decode_order(codec.encode_order(server.open(state, Cohort(number, ("c",)))), task.schema)
    local = local or half.begin(order, task, rng)
    local, update, _ = half.work(order, local, task, rng)
    state, _ = server.close(state, [Weighted("c", 1.0, update)], MemorySpace())
assert not heavy(), heavy()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(COLUMNS) == 6
