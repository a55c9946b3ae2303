"""Bristle's devices read heads from each other, and come to the model of one process, bit for bit."""

from pathlib import Path
from typing import Any

from edgehold.attacks.eval.reproductions.bristle_fleet import make_task
from edgehold.attacks.testbed import Federation
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.server import engine

DEVICES, ROUNDS = 4, 4
ENTRY = "edgehold.attacks.eval.reproductions.bristle_fleet:make_task"
PLAN = f"""
[run]
name = "heads"
rounds = {ROUNDS}
task = "digits"
seed = 3
[cohort]
size = {DEVICES}
quorum = {DEVICES}
over_select = 1.0
[evaluation]
every = {ROUNDS}
[method]
name = "bristle"
[peers]
path = "direct"
"""


def options(index: int) -> dict[str, Any]:
    return {"device_index": index, "devices": DEVICES, "honest": DEVICES, "iid": False, "seed": 3}


def test_heads_by_their_senders_give_the_model_of_one_process(tmp_path: Path) -> None:
    with Federation(tmp_path / "bed", tasks={"digits": (ENTRY, options(-1))}) as bed:
        bed.start_server()
        for index in range(DEVICES):
            bed.add_client(f"dev-{index}", {"digits": (ENTRY, options(index))})
            config = bed.folder / f"dev-{index}" / "client.toml"
            config.write_text(config.read_text() + '[peers]\nlisten = "127.0.0.1:0"\n', encoding="utf-8")
            bed.start_client(f"dev-{index}")
        bed.wait_connected(DEVICES)
        info = bed.run(PLAN)
        assert info.state == "finished", info
        logs = [(bed.folder / f"dev-{index}.log").read_text() for index in range(DEVICES)]
    devices = {f"dev-{index}": make_task(**options(index)) for index in range(DEVICES)}
    expected = engine.run(*parse_plan(PLAN, registry.method), devices, make_task(**options(-1)))
    assert info.model_digest == expected.digest
    assert info.latest.facts["accuracy"] == expected.rounds[-1]["accuracy"]
    for log in logs:
        assert "letter_left_out" not in log
        assert log.count("letters_had=3 letters_direct=3") == ROUNDS - 1
