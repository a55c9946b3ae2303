"""Tokens: one door, one client, one use, one answer."""

import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgehold.core.errors import Busy, ConfigError, IdentityError, JournalError, WrongShape
from edgehold.server.identity.tokens import REFUSED, EventLimit, Issued, Tokens, network_of

PEER = "ipv4:10.0.0.1:5000"


@dataclass
class Hand:
    """A clock that stands still."""

    time_s: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.time_s


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def tokens(tmp_path: Path, clock: Hand) -> Tokens:
    return Tokens(tmp_path, clock)


def refused(tokens: Tokens, token: str, client: str = "dev1", peer: str = PEER) -> None:
    with pytest.raises(IdentityError) as caught:
        tokens.redeem(token, client, peer)
    assert (caught.value.message, caught.value.retry_after_s) == (REFUSED, None)


def test_a_token_opens_once(tokens: Tokens) -> None:
    token = tokens.mint("dev1")
    tokens.redeem(token, "dev1", PEER)
    refused(tokens, token)


def test_foreign_late_and_garbage_tokens_get_the_same_answer(tokens: Tokens, clock: Hand) -> None:
    token = tokens.mint("dev1")
    refused(tokens, token, "dev2")
    refused(tokens, "", "dev1")
    refused(tokens, "x" * 200_000, "dev1")
    clock.time_s += 3600
    refused(tokens, token)


def test_a_foreign_attempt_does_not_burn_the_token(tokens: Tokens) -> None:
    token = tokens.mint("dev1")
    refused(tokens, token, "dev2")
    tokens.redeem(token, "dev1", PEER)


def test_a_token_lives_until_just_before_its_end(tokens: Tokens, clock: Hand) -> None:
    token = tokens.mint("dev1", 86_400)
    clock.time_s += 86_399.9
    tokens.redeem(token, "dev1", PEER)


def test_tokens_are_long_and_stored_as_hashes_only(tokens: Tokens, tmp_path: Path) -> None:
    minted = [tokens.mint("dev1") for _ in range(50)]
    assert len(set(minted)) == 50
    assert min(map(len, minted)) * 6 >= 128  # base64url: 6 bits a character
    tokens.redeem(minted[0], "dev1", PEER)
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not any(token.encode() in stored for token in minted)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("life_s", [0.0, -1.0, 86_400.1, float("nan"), float("inf")])
def test_impossible_lives_are_refused(tokens: Tokens, life_s: float) -> None:
    with pytest.raises(ConfigError, match="token life"):
        tokens.mint("dev1", life_s)


def test_an_illegal_client_gets_no_token(tokens: Tokens) -> None:
    with pytest.raises(WrongShape):
        tokens.mint("../dev1")


def test_of_many_at_once_one_wins(tmp_path: Path, clock: Hand) -> None:
    # Two openers of one file stand for two processes; eight threads on each.
    openers = [Tokens(tmp_path, clock, peer_failures=1000, all_failures=1000) for _ in range(2)]
    with ThreadPoolExecutor(16) as pool:
        for _ in range(20):
            token = openers[0].mint("dev1")

            def attempt(number: int, token: str = token) -> bool:
                try:
                    openers[number % 2].redeem(token, "dev1", PEER)
                except IdentityError:
                    return False
                return True

            assert sum(pool.map(attempt, range(16))) == 1


def test_failures_are_limited_per_peer(tokens: Tokens, clock: Hand) -> None:
    good = tokens.mint("dev1", 7200)
    for second in range(5):
        clock.time_s += 1
        refused(tokens, f"bad {second}")
    clock.time_s += 1
    # The oldest of five failures is 5 s old and counts for 60 s; another port is the same peer.
    with pytest.raises(Busy) as caught:
        tokens.redeem(good, "dev1", "ipv4:10.0.0.1:6000")
    assert caught.value.retry_after_s == pytest.approx(55.0)
    clock.time_s += 55
    tokens.redeem(good, "dev1", PEER)


def test_another_peer_is_not_held_up(tokens: Tokens) -> None:
    good = tokens.mint("dev1")
    for number in range(5):
        refused(tokens, f"bad {number}")
    tokens.redeem(good, "dev1", "ipv4:10.0.0.2:5000")


def test_failures_are_limited_over_all_peers(tmp_path: Path, clock: Hand) -> None:
    tokens = Tokens(tmp_path, clock, all_failures=20)
    good = tokens.mint("dev1")
    for number in range(20):
        refused(tokens, "bad", peer=f"ipv4:10.0.1.{number}:5000")
    with pytest.raises(Busy):
        tokens.redeem(good, "dev1", PEER)
    clock.time_s += 60
    tokens.redeem(good, "dev1", PEER)


def test_a_limit_forgets_what_is_over() -> None:
    clock = Hand()
    limit = EventLimit(2, 10, 60.0, clock)
    for number in range(10_000):
        clock.time_s += 10
        limit.check(f"peer {number}")
        limit.count(f"peer {number}")
    assert len(limit._counts) <= 10


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("ipv4:10.0.0.1:5000", "10.0.0.1"),
        ("ipv6:[::1]:5000", "::/64"),
        ("ipv6:%5B2001:db8::7%5D:5000", "2001:db8::/64"),
        ("ipv6:%5B2001:db8::8%5D:5000", "2001:db8::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5000", "fe80::/64"),
        ("ipv6:%5B::ffff:10.0.0.1%5D:5000", "10.0.0.1"),
        ("unix:/run/x", "unix:/run/x"),
        ("", ""),
    ],
)
def test_peers_are_counted_by_network(peer: str, network: str) -> None:
    assert network_of(peer) == network


def test_issued_certificates_are_remembered_over_a_restart(tokens: Tokens, tmp_path: Path, clock: Hand) -> None:
    rows = [Issued(f"{n:x}", "dev1", clock() + n, clock() + n + 86_400) for n in range(3)]
    for row in (*rows, Issued("ff", "dev2", clock(), clock() + 1)):
        tokens.record(row)
    tokens.close()
    assert Tokens(tmp_path, clock).issued("dev1") == rows


def test_used_tokens_stay_used_over_a_restart(tokens: Tokens, tmp_path: Path, clock: Hand) -> None:
    token = tokens.mint("dev1")
    tokens.redeem(token, "dev1", PEER)
    tokens.close()
    refused(Tokens(tmp_path, clock), token)


def test_changes_are_synced_and_disk_trouble_is_a_journal_error(tokens: Tokens, tmp_path: Path) -> None:
    db = tokens._db
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other = sqlite3.connect(tmp_path / "enrolment.db")
    other.execute("DROP TABLE tokens")
    other.close()
    with pytest.raises(JournalError, match=r"enrolment\.db"):
        tokens.redeem("x", "dev1", PEER)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(JournalError, match="cannot be opened"):
        Tokens(tmp_path / "file")
