"""What a device keeps for its peers, what it remembers of them, and what its owner may write about it."""

from pathlib import Path

import pytest

from edgehold.client.config import load_config
from edgehold.client.keep import Keep, TaskKey
from edgehold.client.outbox import Parcel
from edgehold.client.policy import Policy
from edgehold.core.errors import ConfigError, IdentityError, PolicyRefused, WrongShape
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.proto.strict import host_port

DAY = 86400.0


def counted(keep: Keep, run: str, round: int, attempt: int, at_s: float) -> bytes:
    """A counted update; returns its digest."""
    key, digest = TaskKey(run, round, attempt, bytes([round, attempt] * 16)), f"{run} {round} {attempt}".encode().ljust(32)
    keep.receive(key, b"assignment", 1000, now_s=at_s)
    assert keep.trained(key, Parcel(digest, 10, "kind"), b"")
    keep.acknowledge(key)
    return digest


def test_letters_are_those_of_a_runs_newest_two_rounds_for_a_day(tmp_path: Path) -> None:
    keep, now = Keep(tmp_path / "keep.db"), 20_000 * DAY
    found = {(run, n, a): counted(keep, run, n, a, now) for run, n, a in [("a", 1, 1), ("a", 2, 1), ("a", 3, 1), ("a", 3, 2)]}
    found["b", 1, 1] = counted(keep, "b", 1, 1, now)
    waiting = TaskKey("a", 9, 1, bytes(32))
    keep.receive(waiting, b"assignment", 1000, now_s=now)
    expected = {found[key] for key in (("a", 2, 1), ("a", 3, 1), ("a", 3, 2), ("b", 1, 1))}
    assert {letter.parcel.digest for letter in keep.letters(now)} == expected
    assert {letter.parcel.digest for letter in keep.letters(now + DAY)} == expected
    assert keep.letters(now + 2 * DAY) == []
    keep.close()


def test_a_key_is_pinned_over_a_restart(tmp_path: Path) -> None:
    keep = Keep(tmp_path / "keep.db")
    keep.pin("dev-1", b"k" * 32, 100.0)
    keep.pin("dev-1", b"k" * 32, 50.0)
    keep.close()
    keep = Keep(tmp_path / "keep.db")
    for issued_s in (50.0, 100.0):
        with pytest.raises(IdentityError, match="another signing key"):
            keep.pin("dev-1", b"n" * 32, issued_s)
    keep.pin("dev-2", b"n" * 32, 1.0)
    keep.pin("dev-1", b"n" * 32, 101.0)
    with pytest.raises(IdentityError):
        keep.pin("dev-1", b"k" * 32, 101.0)
    keep.close()


@pytest.mark.parametrize("address", ["7443", "ward-3", ":7443", "ward-3:port", "ward-3:123456"])
@pytest.mark.parametrize("key", ["listen", "advertise"])
def test_an_address_is_host_and_port(tmp_path: Path, key: str, address: str) -> None:
    path = tmp_path / "client.toml"
    path.write_text(f'[peers]\n{key} = "{address}"\n')
    with pytest.raises(ConfigError, match="expected host:port") as refusal:
        load_config(path)
    assert refusal.value.field == f"peers.{key}"
    path.write_text(f'[peers]\n{key} = "ward-3.example.org:7443"\n')
    assert load_config(path).peers is not None


@pytest.mark.parametrize("address", ["", "h", "h:0", "h:65536", "unix:/x", "h:1:2", "[::1", "h h:1", "http://h:1", "h:-1"])
def test_what_is_told_of_a_device_is_a_host_and_a_port(address: str) -> None:
    with pytest.raises(WrongShape):
        host_port(address, "peer address")
    assert [host_port(good, "peer address") for good in ("h.example:1", "10.0.0.1:65535", "[fd00::1]:7443")]


def test_peers_read_only_where_the_owner_says_so() -> None:
    with pytest.raises(PolicyRefused, match="allow_peers is false"):
        Policy(allowed_methods=("*",), allowed_tasks=("*",)).admit_peers("bristle")
    Policy(allowed_methods=("*",), allowed_tasks=("*",), allow_peers=True).admit_peers("bristle")


def test_a_plan_does_not_send_devices_to_peers_that_its_method_has_not() -> None:
    plan = (
        '[run]\nname = "a"\nrounds = 1\ntask = "digits"\n[cohort]\nsize = 2\n[method]\nname = "fedavg"\n[peers]\npath = "{}"\n'
    )
    with pytest.raises(ConfigError, match="do not read each other") as refusal:
        parse_plan(plan.format("direct"), registry.method)
    assert refusal.value.field == "peers.path"
    assert parse_plan(plan.format("relay"), registry.method)[0].peers.path == "relay"
