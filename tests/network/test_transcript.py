"""What a real server records where its operator asks for it: the engine's own transcript, byte for byte, and images in it."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.support import three_devices
from tests.support.three_devices import DEVICES, ENTRY

from edgehold.attacks.eval import app
from edgehold.attacks.testbed import Federation
from edgehold.client.data import tasks
from edgehold.core.errors import ConfigError
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.server import engine
from edgehold.server.config import ServerConfig, ServerTable
from edgehold.server.store.transcript import Recorded, must_be_open

PLAN = three_devices.plan("leak", 'name = "fedavg"\nbatch_size = 64')
LINES = ("SELECT plan, schema FROM run", "SELECT * FROM orders", "SELECT * FROM updates ORDER BY client")


def options(index: int) -> dict[str, Any]:
    return three_devices.options(index, limit=4, net={"hidden": [96, 32]})


def held(path: Path) -> list[Any]:
    with sqlite3.connect(path) as db:
        found = [db.execute(line).fetchall() for line in LINES]
    db.close()
    return found


def test_a_server_records_the_named_round_and_an_image_is_read_from_it(tmp_path: Path) -> None:
    copies = {"digits": (ENTRY, options(-1))}
    with Federation(tmp_path / "bed", tasks=copies, server={"record": {"leak": [2]}}) as bed:
        bed.start_server()
        for index in range(DEVICES):
            bed.add_client(f"dev-{index}", {"digits": (ENTRY, options(index))})
            bed.start_client(f"dev-{index}")
        bed.wait_connected(DEVICES)
        assert bed.run(PLAN).state == "finished"
        assert bed.run(PLAN.replace('"leak"', '"other"')).state == "finished"
        assert "kept in the clear" in bed.daemon.log.read_text()
    folder = bed.home / "transcripts"
    assert [path.name for path in folder.glob("*.sqlite")] == ["leak.sqlite"], "nothing else is recorded"
    assert (folder / "leak.sqlite").stat().st_mode & 0o077 == 0
    devices = {f"dev-{i}": tasks.make_task(**options(i)) for i in range(DEVICES)}
    plan, settings = parse_plan(PLAN, registry.method)
    engine.run(plan, settings, devices, tasks.make_task(**options(-1)), transcript=(tmp_path / "same.sqlite", (2,)))
    mine, theirs = held(tmp_path / "same.sqlite"), held(folder / "leak.sqlite")
    assert [len(rows) for rows in theirs] == [1, 1, DEVICES]
    assert mine == theirs
    given = [f"--option={key}={json.dumps(value) if key != 'net' else '{hidden=[96,32]}'}"
             for key, value in options(0).items() if key != "device_index"]  # fmt: skip
    out = tmp_path / "images"
    asked = ["invert", f"--transcript={folder / 'leak.sqlite'}", f"--task={ENTRY}", *given, "--attack=sparse", "--client=dev-1",
             "--truth=device_index=1", f"--out={out}", "--json"]  # fmt: skip
    found = CliRunner().invoke(app.main, asked)
    assert found.exit_code == 0, found.output
    (result,) = json.loads((out / "result.json").read_text())["results"]
    assert min(result["psnr"]) > 60
    assert (result["round"], result["records"], result["guard"]) == (2, 4, "")


def test_masked_plans_are_never_recorded(tmp_path: Path) -> None:
    # Too few devices for masks: the plan is made so behind the parser's back.
    plan, settings = parse_plan(PLAN, registry.method)
    from msgspec.structs import replace

    from edgehold.core.plan import PrivacyTable

    masked = replace(plan, privacy=PrivacyTable(masked=True))
    with pytest.raises(ConfigError, match="nobody's to record"):
        must_be_open(masked)
    devices = {f"dev-{i}": tasks.make_task(**options(i)) for i in range(DEVICES)}
    with pytest.raises(ConfigError, match="nobody's to record"):
        engine.run(masked, settings, devices, transcript=(tmp_path / "no.sqlite", ()))
    assert not (tmp_path / "no.sqlite").exists()
    assert ServerConfig(server=ServerTable(federation="f")).record == {}, "off by default"


def test_what_is_no_transcript_or_of_another_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        Recorded.open(tmp_path / "none.sqlite")
    (tmp_path / "text").write_text("hello, this is no database")
    with pytest.raises(ConfigError, match="not a transcript"):
        Recorded.open(tmp_path / "text")
    with sqlite3.connect(tmp_path / "empty.sqlite") as db:
        db.execute("CREATE TABLE something (x)")
    db.close()
    with pytest.raises(ConfigError, match="not a transcript"):
        Recorded.open(tmp_path / "empty.sqlite")
    devices = {f"dev-{i}": tasks.make_task(**options(i)) for i in range(DEVICES)}
    path = tmp_path / "run.sqlite"
    engine.run(*parse_plan(PLAN, registry.method), devices, transcript=(path, ()))
    before = held(path)
    engine.run(*parse_plan(PLAN, registry.method), devices, transcript=(path, ()))
    assert held(path) == before, "kept again, as after a crash: the same"
    assert len(before[2]) == 2 * DEVICES
    other = parse_plan(PLAN.replace("seed = 11", "seed = 12"), registry.method)
    with pytest.raises(ConfigError, match="another run"):
        engine.run(*other, devices, transcript=(path, ()))
    recorded = Recorded.open(path)
    assert [one.round for one in recorded.entries((1,), ("dev-0", "dev-2"))] == [1, 1]
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM orders WHERE round=2")
    db.close()
    with pytest.raises(ConfigError, match="round 2 has updates and no order"):
        list(recorded.entries())
    recorded.close()
