"""Bristle over mutual TLS: heads that the server passes on give the heads of one process, bit for bit, on every device too."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgehold.attacks.eval.named import Named
from edgehold.attacks.testbed import Federation, eventually
from edgehold.client.data import frozen
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.server import engine

DEVICES, ROUNDS, LIAR = 4, 4, "dev-3"
ENTRY = "edgehold.client.data.frozen:make_task"
LIE: tuple[str, dict[str, Any]] = ("edgehold.attacks.byzantine.heads:make", {"lie": "flip_all"})
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
budget = 2
steps = 4
"""

DIRECT = PLAN.replace("budget = 2\n", "") + '[peers]\npath = "direct"\n'
"""Each reads all three others, from themselves."""


def options(index: int) -> dict[str, Any]:
    return {"device_index": index, "devices": DEVICES, "seed": 3, "width": 64}


def kept(keep: Path) -> tuple[bytes, int]:
    """The local state that a device's keep holds, and its round."""
    with contextlib.closing(sqlite3.connect(f"file:{keep}?mode=ro", uri=True)) as db:
        ((state, number),) = db.execute("SELECT state, round FROM local WHERE run='heads'").fetchall()
    return AESGCM(keep.with_suffix(".key").read_bytes()).decrypt(state[:12], state[12:], b"heads"), number


def test_heads_by_the_server_give_the_heads_of_one_process(tmp_path: Path) -> None:
    """One of the four lies, by its own configuration; each reads two of the other three."""
    with Federation(tmp_path / "bed", tasks={"digits": (ENTRY, options(-1))}) as bed:
        bed.start_server()
        for index in range(DEVICES):
            client = f"dev-{index}"
            bed.add_client(client, {"digits": (ENTRY, options(index))}, adversary=LIE if client == LIAR else None)
            bed.start_client(client)
        bed.wait_connected(DEVICES)
        info = bed.run(PLAN)
        assert info.state == "finished", info
        heads = {client: bed.folder / client / "keep.db" for client in bed.clients}
        for keep in heads.values():  # the last receipt may still be on its way
            eventually(lambda keep=keep: kept(keep)[1] == ROUNDS, 10.0, "the last local state")  # type: ignore[misc]
        logs = {client: (bed.folder / f"{client}.log").read_text() for client in bed.clients}
    devices = {f"dev-{index}": frozen.make_task(**options(index)) for index in range(DEVICES)}
    store = engine.Store(tmp_path / "run.sqlite")
    expected = engine.run(
        *parse_plan(PLAN, registry.method), devices, frozen.make_task(**options(-1)), {LIAR: Named(*LIE)}, store=store
    )
    assert info.model_digest == expected.digest
    facts, last = dict(info.latest.facts), expected.rounds[-1]
    for name in ("accuracy", "heads_left_out", "step_norm", "update_norm_median"):
        assert facts[name] == last[name]
    for client in devices:
        assert kept(heads[client])[0] == store.local(client), "each device's own head is the product"
        assert "letter_left_out" not in logs[client]
        assert logs[client].count("letters_wanted=2 letters_had=2") == (0 if client == LIAR else ROUNDS - 1)


def test_heads_by_their_senders_give_the_model_of_one_process(tmp_path: Path) -> None:
    with Federation(tmp_path / "bed", tasks={"digits": (ENTRY, options(-1))}) as bed:
        bed.start_server()
        for index in range(DEVICES):
            bed.add_client(f"dev-{index}", {"digits": (ENTRY, options(index))})
            config = bed.folder / f"dev-{index}" / "client.toml"
            config.write_text(config.read_text() + '[peers]\nlisten = "127.0.0.1:0"\n', encoding="utf-8")
            bed.start_client(f"dev-{index}")
        bed.wait_connected(DEVICES)
        info = bed.run(DIRECT)
        assert info.state == "finished", info
        logs = [(bed.folder / f"dev-{index}.log").read_text() for index in range(DEVICES)]
    devices = {f"dev-{index}": frozen.make_task(**options(index)) for index in range(DEVICES)}
    expected = engine.run(*parse_plan(DIRECT, registry.method), devices, frozen.make_task(**options(-1)))
    assert info.model_digest == expected.digest
    assert info.latest.facts["accuracy"] == expected.rounds[-1]["accuracy"]
    for log in logs:
        assert "letter_left_out" not in log
        assert log.count("letters_had=3 letters_direct=3") == ROUNDS - 1
