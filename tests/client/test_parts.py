"""The parts of the client on their own: files, rules, logs, commands."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgehold.client import daemon, enrol, identity
from edgehold.client.app import main
from edgehold.client.config import Home, call, load_config
from edgehold.client.identity import Credentials
from edgehold.client.keep import Keep, TaskKey, read_status
from edgehold.client.outbox import Outbox, Parcel
from edgehold.client.policy import PolicyFile, load_policy, template
from edgehold.core.contract import Container, Payload
from edgehold.core.crashpoints import killer
from edgehold.core.errors import ConfigError, IdentityError, PolicyRefused, Stale
from edgehold.core.logs import CLIENT, event, peer_text, setup
from edgehold.core.vectors import Bytes, Vector
from edgehold.proto.channel import client_options

if TYPE_CHECKING:
    from tests.client.conftest import Lab

PARCEL = Parcel(b"\1" * 32, 8, "fedavg/1")


def key(round: int = 1, attempt: int = 1, run: str = "demo") -> TaskKey:
    return TaskKey(run, round, attempt, bytes([attempt]) * 32)


def commit(keep: Keep, task: TaskKey, local: bytes) -> None:
    keep.receive(task, b"", 100)
    assert keep.trained(task, PARCEL, local)
    keep.acknowledge(task)


def test_keep_hands_out_committed_state_only(tmp_path: Path) -> None:
    keep = Keep(tmp_path / "keep.db")
    keep.receive(key(), b"", 100)
    keep.trained(key(), PARCEL, b"one")
    assert keep.local("demo", 1) is None
    keep.acknowledge(key())
    assert keep.local("demo", 1) is None  # another attempt at round 1 starts where the first did
    assert keep.local("demo", 2) == b"one"
    commit(keep, key(2), b"two")
    assert keep.local("demo", 2) == b"one"
    commit(keep, key(2, attempt=2), b"two again")
    assert keep.local("demo", 2) == b"one"
    assert keep.local("demo", 3) == b"two again"
    with pytest.raises(Stale, match="already that of round 2"):
        keep.local("demo", 1)
    assert keep.local("other", 1) is None
    keep.close()


def test_keep_ignores_what_comes_after_a_cancel(tmp_path: Path) -> None:
    keep = Keep(tmp_path / "keep.db")
    keep.receive(key(), b"", 100)
    keep.cancel(key())
    assert not keep.trained(key(), PARCEL, b"late")
    assert keep.receive(key(), b"", 100).state == "received"  # nothing left the device: it may be done again
    keep.trained(key(), PARCEL, b"one")
    keep.cancel(key())
    assert keep.receive(key(), b"", 100).state == "dropped"  # part of it may have left: never again
    keep.acknowledge(key())
    assert keep.local("demo", 2) is None
    keep.close()


def test_rounds_per_day_start_anew_every_day(tmp_path: Path) -> None:
    keep = Keep(tmp_path / "keep.db")
    day = 86400.0
    for round in (1, 2):
        keep.receive(key(round), b"", 2, now_s=day)
    keep.receive(key(2, attempt=2), b"", 2, now_s=day)
    with pytest.raises(PolicyRefused, match="2 rounds"):
        keep.receive(key(3), b"", 2, now_s=2 * day - 1)
    keep.receive(key(3), b"", 2, now_s=2 * day)
    keep.close()


def test_outbox_names_files_by_digest_and_notices_rot(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox")
    payload = Payload(b"head", Vector.of(np.arange(3, dtype=np.float32)).blob)
    parcel = outbox.write(Container.blocks(payload), "toy/1", durable=True)
    assert outbox.path(parcel.digest).read_bytes() == b"\4\0\0\0head" + np.arange(3, dtype="<f4").tobytes()
    assert parcel.length == 20
    assert outbox.holds(parcel)
    assert outbox.write(Container.blocks(payload), "toy/1", durable=False) == parcel
    outbox.path(parcel.digest).write_bytes(b"")
    assert not outbox.holds(parcel)
    outbox.drop(parcel.digest)
    outbox.drop(parcel.digest)
    assert not list((tmp_path / "outbox").iterdir())


def test_a_body_that_cannot_be_read_leaves_no_file(tmp_path: Path) -> None:
    class Broken(Bytes):
        def read(self, start: int, stop: int) -> memoryview:
            raise RuntimeError("gone")

    outbox = Outbox(tmp_path)
    with pytest.raises(RuntimeError):
        outbox.write(Container.blocks(Payload(b"", Broken(b"data"))), "toy/1", durable=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "allowed_methods is missing"),
        ('allowed_methods = ["fedavg"]', "allowed_tasks is missing"),
        (template(True) + "alow_unmasked = true", 'did you mean "allow_unmasked"'),
        ("allow_unmasked = maybe", "not valid TOML"),
        ('allowed_methods = ["../x"]\nallowed_tasks = []', "allowed_methods"),
        ('allowed_methods = []\nallowed_tasks = []\nallowed_roots = ["ab"]', "allowed_roots"),
        ("allowed_methods = []\nallowed_tasks = []\nrounds_per_day = -1", "rounds_per_day"),
    ],
)
def test_a_wrong_policy_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_policy(path)


def test_a_policy_that_breaks_allows_nothing_until_it_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    with pytest.raises(ConfigError, match="no policy"):
        PolicyFile(path)
    path.write_text(template(True))
    policy = PolicyFile(path)
    assert policy.current().allow_unmasked
    path.unlink()
    with pytest.raises(PolicyRefused):
        policy.current()
    path.write_text(template(False))
    assert not policy.current().allow_unmasked


def test_roots_must_be_allowed_when_any_are_named(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(f'allowed_methods = []\nallowed_tasks = []\nallowed_roots = ["{"AB" * 32}"]')
    policy = load_policy(path)
    policy.admit_roots(["ab" * 32])
    with pytest.raises(PolicyRefused, match="allowed_roots"):
        policy.admit_roots(["ab" * 32, "cd" * 32])


def test_config_suggests_and_names_what_cannot_be_imported(tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    path.write_text('[tasks.toy]\ntask = "a:b"\noption = {}')
    with pytest.raises(ConfigError, match=r'unknown key tasks.toy.option; did you mean "options"'):
        load_config(path)
    for entry, message in (
        ("os.path", "package.module:function"),
        ("edgehold.nowhere:x", "cannot be imported"),
        ("os.path:nothing", "has no nothing"),
        ("os.path:join", "does not take these options"),
    ):
        with pytest.raises(ConfigError, match=message):
            call(entry, {"x": 1}, "tasks.toy.task")


def test_crash_points_count_and_cost_nothing_unset() -> None:
    died: list[int] = []
    reach = killer("stored:2", died.append)
    for name in ("stored", "other", "stored", "stored"):
        reach(name)
    assert died == [137]
    killer("")("anything")
    with pytest.raises(ValueError, match="count starts at 1"):
        killer("stored:0")


def test_log_lines_are_json_and_foreign_text_is_tame(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    token = CLIENT.set("device-1")
    try:
        setup("json", "info")
        event(
            logging.getLogger("edgehold.test"),
            logging.INFO,
            "refused",
            reason=peer_text('a\n{"event": "forged"}\x1b[2J' + "é" * 300),
        )
        event(logging.getLogger("edgehold.test"), logging.DEBUG, "hidden")
    finally:
        CLIENT.reset(token)
        root.handlers[:] = before
        root.setLevel(level)
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert said["event"] == "refused"
    assert said["client"] == "device-1"
    assert len(said["reason"]) <= 256
    assert said["reason"].isprintable()


def test_commands_answer_in_json_and_fail_with_one_line(tmp_path: Path) -> None:
    runner = CliRunner()
    draft = tmp_path / "draft.toml"
    draft.write_text(template(False))
    said = json.loads(runner.invoke(main, ["policy", "check", str(draft), "--json"]).stdout)
    assert said["policy"]["allow_unmasked"] is False
    assert said["source"] == str(draft)
    home = ["--home", str(tmp_path)]
    missing = runner.invoke(main, ["policy", *home])
    assert missing.exit_code == 1
    assert missing.stderr.count("\n") == 1
    assert runner.invoke(main, ["run", *home]).exit_code == 1
    assert json.loads(runner.invoke(main, ["status", "--json", *home]).stdout) == {"running": False, "connected": False}
    found = runner.invoke(main, ["check", "--json", *home])
    assert found.exit_code == 1
    assert not json.loads(found.stdout)["ok"]
    assert runner.invoke(main, ["run", "--nonsense"]).exit_code == 2
    for command in ("enroll", "run", "status", "policy", "check"):
        assert "Example:" in runner.invoke(main, [command, "--help"]).stdout


def test_help_loads_neither_grpc_nor_numpy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from edgehold.client.app import main; "
        "CliRunner().invoke(main, ['--help']); print([m for m in ('grpc', 'numpy', 'torch') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_daemon_loads_no_torch() -> None:
    code = "import sys, edgehold.client.daemon; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_the_daemon_renews_ends_on_sigterm_and_has_its_home_alone(lab: "Lab", monkeypatch: pytest.MonkeyPatch) -> None:
    channels: list[Credentials] = []
    seen: list[float] = []

    def open_channel(credentials: Credentials) -> grpc.aio.Channel:
        channels.append(credentials)
        return grpc.aio.insecure_channel("127.0.0.1:1", options=client_options())  # nobody listens there

    def terminate() -> None:
        end = time.monotonic() + 30
        while len(channels) < 2 and time.monotonic() < end:  # the new certificate opens a new channel
            time.sleep(0.01)
        assert daemon.is_running(lab.home)
        os.kill(os.getpid(), signal.SIGHUP)
        seen.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    # The certificate is due at once, the first renewal fails, the next one works.
    due, answers = iter([0.0]), iter([IdentityError("not yet")])

    async def renew(credentials: object, folder: Path) -> None:
        for error in answers:
            raise error

    key = Ed25519PrivateKey.generate()
    credentials = Credentials(
        client_id="device-1", federation="lab", server_address="", renew_address="", key_pem=b"", chain_pem=b"",
        roots_pem=b"", signing_key=key, server_signing_key=key.public_key(), expires_s=0.0, issued_s=0.0,
    )  # fmt: skip
    monkeypatch.setattr(identity, "load", lambda folder: credentials)
    monkeypatch.setattr(daemon, "open_channel", open_channel)
    monkeypatch.setattr(enrol, "renew_at", lambda credentials, jitter: next(due, time.time() + 3600))
    monkeypatch.setattr(enrol, "renew", renew)
    monkeypatch.setattr(daemon, "RENEWAL_RETRY_S", (0.1, 0.1))
    helper = threading.Thread(target=terminate)
    helper.start()
    try:
        assert daemon.run([lab.home], [lab.config]) == 0
        assert time.monotonic() - seen[0] < 5
    finally:
        helper.join()
    assert not daemon.is_running(lab.home)
    assert read_status(lab.home.keep)["connected"] == "False"
    assert len(channels) == 2


def test_a_home_that_is_in_use_is_refused(lab: "Lab") -> None:
    with daemon._locked(lab.home), pytest.raises(ConfigError, match="another fl-client"):
        daemon.run([lab.home], [lab.config])


def test_a_home_without_policy_never_starts(lab: "Lab") -> None:
    lab.home.policy.unlink()
    with pytest.raises(ConfigError, match="no policy"):
        daemon.run([Home(lab.home.folder)], [lab.config])
