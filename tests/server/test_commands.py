"""`fl-server` as an operator meets it: one-line errors that name the field, checklists, enrolment apart."""

import asyncio
import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgehold.attacks.testbed import Federation, Process, eventually
from edgehold.client import enrol, identity
from edgehold.core.keys import decode_bundle
from edgehold.proto.channel import Stub
from edgehold.proto.v1 import admin_pb2
from edgehold.proto.v1 import control_pb2 as pb
from edgehold.server.app import main
from edgehold.server.desk import operator, show
from edgehold.server.desk.setup import initialise

PLAN = """
[run]
name = "first"
rounds = 2
task = "digits"
[method]
name = "fedavg"
rule = "average"
[cohort]
size = 2
"""


def call(*words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    done = CliRunner().invoke(main, list(words), prog_name="fl-server")
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    tasks = {"digits": ("edgehold.client.data.synthetic:make_task", {"values": 10})}
    with Federation(tmp_path_factory.mktemp("bed"), tasks) as federation:
        federation.start_server()
        yield federation


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("rounds = 2", "rouns = 2"), ["run.rouns", 'did you mean "rounds"?', "allowed:"]),
        (('rule = "average"', 'rule = "trimed_mean"'), ["method.rule", "'trimed_mean'", 'did you mean "trimmed_mean"?']),
        (('name = "fedavg"', 'name = "fedagv"'), ["'fedagv'", 'did you mean "fedavg"?']),
        (("size = 2", "size = 2\nquorum = 9"), ["cohort.quorum = 9", "can never be reached", "1 to 2"]),
        (("rounds = 2", "rounds = 0"), ["run.rounds = 0", ">= 1"]),
        (("rounds = 2", 'rounds = "two"'), ["run.rounds = 'two'", "int"]),
        (('task = "digits"', 'task = "digitz"'), ["model.file", "'digitz'"]),
        (('name = "first"', 'name = "My Run"'), ["run.name = 'My Run'"]),
        (('rule = "average"', 'rule = "krum"\nliars = 3'), ["krum", "3"]),
        (
            ('rule = "average"', 'rule = "average"\n[model]\nfile = "nowhere.safetensors"'),
            ["model.file", "nowhere", "No such file"],
        ),
        (('rule = "average"', 'rule = "median"\n[privacy]\nmasked = true'), ["privacy.masked", "single updates", "'median'"]),
        (('rule = "average"', 'rule = "average"\n[privacy]\nmasked = true'), ["cohort.quorum to 8"]),
        (('rule = "average"', 'rule = "average"\n[masks]\nclip = 1.0'), ["[masks]", "privacy.masked = false"]),
        (("[run]", "[run"), ["not valid TOML", "line"]),
    ],
)
def test_a_wrong_plan_is_one_line_and_starts_nothing(
    bed: Federation, tmp_path: Path, change: tuple[str, str], said: list[str]
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.replace(*change))
    code, out, err = call("run", str(plan), "--home", str(bed.home))
    assert code == 1
    assert err.count("\n") == 1
    assert out == ""
    for words in said:
        assert words in err, err
    assert json.loads(call("status", "--json", "--home", str(bed.home))[1])["runs"] == []


def test_a_missing_plan_and_a_missing_server_say_so(bed: Federation, tmp_path: Path) -> None:
    code, _, err = call("run", str(tmp_path / "no.toml"), "--home", str(bed.home))
    assert code == 1
    assert "no.toml" in err
    initialise(tmp_path / "idle", "fed", "127.0.0.1", 0)
    code, _, err = call("status", "--home", str(tmp_path / "idle"), "--json")
    assert code == 1
    assert json.loads(err)["error"] == "config"
    assert "fl-server serve" in err


def test_too_few_clients_is_refused_before_anything_starts(bed: Federation, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    code, _, err = call("run", str(plan), "--home", str(bed.home))
    assert code == 1
    assert "0 active clients" in err
    assert "fl-server token" in err


def test_check_finds_loose_permissions_and_a_wrong_plan(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert call("init", "--federation", "fed", "--port", "0", "--home", str(home))[0] == 0
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.replace("rounds = 2", "rounds = 2\nsed = 1"))
    home.chmod(0o755)
    code, out, _ = call("check", "--home", str(home), "--plan", str(plan), "--json")
    found = {one["name"]: one for one in json.loads(out)["checks"]}
    assert code == 1
    assert not found["folder"]["ok"]
    assert "chmod 700" in found["folder"]["todo"]
    assert "run.sed" in found["plan"]["detail"]
    assert found["keys"]["ok"]
    assert call("init", "--federation", "fed", "--home", str(home))[0] == 1  # never over an existing home


def test_help_of_every_command_shows_an_example() -> None:
    for name, command in main.commands.items():
        code, out, _ = call(name, "--help")
        assert code == 0
        assert "Example:" in out, name
        assert "--json" in out, name
        assert command.help


def test_enrolment_apart_serves_a_server_that_cannot_read_the_key(tmp_path: Path) -> None:
    keys, home = tmp_path / "keys", tmp_path / "bed" / "server"
    with Federation(tmp_path / "bed", server={"server": {"enrolment": "apart"}}) as bed:
        shutil.copytree(home, keys)
        for kept in ("ca/keys", "ca/current", "ca/server-signing.pub"):
            path = home / kept
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        bed.start_server()
        assert "enrol" not in bed.addresses
        shutil.copy(home / "server.toml", keys / "server.toml")
        apart = Process([sys.executable, "-m", "edgehold.server", "enrolment", "--home", str(keys)], tmp_path / "apart.log")
        child = apart.start()
        try:
            assert child.stdout is not None
            said = json.loads(child.stdout.readline())["ready"]
            operator.mint(home, "dev", 60.0, (), "roster")
            bundle = decode_bundle(operator.mint(keys, "dev", 60.0, (), "token"))
            bundle = dataclasses.replace(
                bundle, enrol_address=said["enrol"], renew_address=said["renew"], server_address=bed.addresses["server"]
            )
            credentials = asyncio.run(enrol.enrol(bundle, tmp_path / "dev"))
            renewed = asyncio.run(enrol.renew(credentials, tmp_path / "dev"))
            assert renewed.client_id == "dev"

            async def hello() -> str:
                async with identity.channel(renewed, renewed.server_address) as channel:
                    stub = Stub(channel, pb.DESCRIPTOR.services_by_name["ControlService"])
                    request = pb.ConnectRequest(
                        protocol_version=1, client_id="dev", signing_key=renewed.signing_key.public_key().public_bytes_raw()
                    )
                    async for event in stub.stream("Connect", request, pb.ConnectResponse):
                        return event.welcome.federation
                return ""

            assert asyncio.run(hello()) == "demo"
        finally:
            assert apart.stop() == 0


def test_daemon_stops_gracefully_and_tells_where_it_listens(tmp_path: Path) -> None:
    with Federation(tmp_path / "bed") as bed:
        bed.start_server()
        assert set(bed.addresses) == {"server", "enrol", "renew", "metrics"}
        assert (bed.home / "admin.sock").stat().st_mode & 0o777 == 0o600
        assert bed.daemon.stop() == 0
        eventually(lambda: not (bed.home / "admin.sock").exists(), 5)


def test_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "edgehold.server", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: fl-server")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    initialise(tmp_path / "home", "fed", "127.0.0.1", 0)
    monkeypatch.delitem(sys.modules, "edgehold.server.daemon", raising=False)
    monkeypatch.setitem(sys.modules, "grpc_health", None)
    monkeypatch.setitem(sys.modules, "grpc_health.v1", None)
    code, _, err = call("serve", "--home", str(tmp_path / "home"))
    assert code == 1
    assert "edgehold[server]" in err


def test_version_is_told() -> None:
    assert call("--version")[1].startswith("edgehold ")


def test_what_a_private_run_costs_stands_beside_its_accuracy() -> None:
    facts = {"accuracy": 0.9, "epsilon_worst": 4.654, "epsilon_median": 3.1}
    latest = admin_pb2.RoundInfo(round=2, state="committed", facts={**facts, "clients_admitted": 3, "clients_selected": 3})
    table = show.runs([admin_pb2.RunInfo(run="private", latest=latest), admin_pb2.RunInfo(run="plain")])
    assert "4.65 worst, 3.10 median" in table.splitlines()[1]
    assert "worst" not in table.splitlines()[2]
    full = admin_pb2.RoundInfo(
        round=2, state="committed",
        facts={**facts, "clients_admitted": 3, "clients_selected": 3, "bytes_up": 1, "bytes_down": 1, "round_seconds": 1},
    )  # fmt: skip
    assert "accuracy 0.900  epsilon 4.65 worst, 3.10 median" in show.round_line(full, 5)
