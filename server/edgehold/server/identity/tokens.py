"""One-time tokens and the certificates they led to, in a file of their own that can live with the enrolment key."""

import hashlib
import os
import secrets
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

from edgehold.core.database import make_tables
from edgehold.core.errors import Busy, ConfigError, IdentityError, JournalError
from edgehold.proto.strict import name as legal_name

TOKEN_BYTES = 20
"""160 random bits; the security model asks for 128."""
LIFE_S = 3600.0
LONGEST_LIFE_S = 86_400.0
REFUSED = "token not accepted"
"""The one answer to a wrong, used, late or foreign token: it must not tell a guesser which it was."""

KEEP_ISSUED_S = 90 * 86_400.0
"""Records of certificates stay this long after they expire."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tokens (
    hash BLOB PRIMARY KEY, client TEXT NOT NULL, minted_s REAL NOT NULL, expires_s REAL NOT NULL, used_s REAL
) STRICT;
CREATE TABLE IF NOT EXISTS issued (
    serial TEXT PRIMARY KEY, client TEXT NOT NULL, issued_s REAL NOT NULL, expires_s REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS issued_client ON issued (client, issued_s);
"""


@dataclass(frozen=True, slots=True)
class Issued:
    """One certificate. serial: hex; times in seconds since 1970."""

    serial: str
    client: str
    issued_s: float
    expires_s: float


class EventLimit:
    """At most `per_key` events per key and `overall` in all within `window_s` seconds; beyond that `Busy`.

    Keys nobody hears of any more are forgotten, so memory stays bounded by `overall`.
    """

    def __init__(self, per_key: int, overall: int, window_s: float, now: Callable[[], float]) -> None:
        self._per_key, self._overall, self._window_s, self._now = per_key, overall, window_s, now
        self._events: deque[tuple[float, str]] = deque()
        self._counts: dict[str, int] = {}

    def check(self, key: str) -> None:
        """Pass, or `Busy` with the seconds until the oldest event that counts leaves the window."""
        now = self._now()
        while self._events and self._events[0][0] <= now - self._window_s:
            _, old = self._events.popleft()
            self._counts[old] -= 1
            if not self._counts[old]:
                del self._counts[old]
        oldest = None
        if len(self._events) >= self._overall:
            oldest = self._events[0][0]
        elif self._counts.get(key, 0) >= self._per_key:
            oldest = next(time_s for time_s, found in self._events if found == key)
        if oldest is not None:
            wait = oldest + self._window_s - now
            raise Busy("too many attempts; come back later", retry_after_s=max(wait, 1.0))

    def count(self, key: str) -> None:
        """One more event of `key`, after `check`."""
        self._events.append((self._now(), key))
        self._counts[key] = self._counts.get(key, 0) + 1


def network_of(peer: str) -> str:
    """What a gRPC peer is counted as: its IPv4 address, or its IPv6 /64, since one host owns a whole /64."""
    address = peer.partition(":")[2].rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]").partition("%")[0]
    try:
        found = ip_address(address)
    except ValueError:
        return peer[:64]
    if found.version == 6:
        return str(found.ipv4_mapped or ip_network((found, 64), strict=False))
    return str(found)


class Tokens:
    """The file `enrolment.db` in `folder`. Several processes may use it at once; every change is synced before it returns.

    now: seconds since 1970. peer_failures, all_failures: refused tokens per minute, per peer and in all, before `Busy`.
    All methods raise `JournalError` when the disk fails.
    """

    def __init__(
        self, folder: Path, now: Callable[[], float] = time.time, *, peer_failures: int = 5, all_failures: int = 100
    ) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._limit = EventLimit(peer_failures, all_failures, 60.0, now)
        path = folder / "enrolment.db"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Made by us, so that it is never wider than 0600; SQLite gives its journals the mode of the file.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
            self._db = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            make_tables(self._db, _SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise JournalError(f"{path}: cannot be opened: {error}") from None

    def close(self) -> None:
        """Give the file back."""
        self._db.close()

    def mint(self, client: str, life_s: float = LIFE_S) -> str:
        """A new token for one client: URL-safe text that is stored nowhere."""
        legal_name(client, "client")
        if not 0 < life_s <= LONGEST_LIFE_S:
            raise ConfigError(f"token life {life_s} s; allowed: above 0, at most {LONGEST_LIFE_S:.0f} s")
        token = secrets.token_urlsafe(TOKEN_BYTES)
        now = self._now()
        with self._file() as db:
            db.execute("DELETE FROM tokens WHERE expires_s < ?", (now - LONGEST_LIFE_S,))
            db.execute("INSERT INTO tokens VALUES (?, ?, ?, ?, NULL)", (_hash(token), client, now, now + life_s))
        return token

    def redeem(self, token: str, client: str, peer: str) -> None:
        """Use up a token. `IdentityError` (always with the same text) when it does not open this client's door.

        peer: who tries, for the limit on failures; `Busy` beyond it, even with a good token.
        """
        key = network_of(peer)
        with self._file() as db:
            self._limit.check(key)
            now = self._now()
            # One statement decides: of two redemptions of one token, in whatever process, one finds it unused.
            used = db.execute(
                "UPDATE tokens SET used_s = ? WHERE hash = ? AND client = ? AND used_s IS NULL AND expires_s > ?",
                (now, _hash(token), client, now),
            ).rowcount
            if used != 1:
                self._limit.count(key)
                raise IdentityError(REFUSED)

    def record(self, issued: Issued) -> None:
        """Remember a certificate; called before it leaves."""
        with self._file() as db:
            db.execute("DELETE FROM issued WHERE expires_s < ?", (self._now() - KEEP_ISSUED_S,))
            db.execute(
                "INSERT INTO issued VALUES (?, ?, ?, ?)", (issued.serial, issued.client, issued.issued_s, issued.expires_s)
            )

    def issued(self, client: str) -> list[Issued]:
        """Certificates of a client, oldest first."""
        with self._file() as db:
            rows = db.execute("SELECT * FROM issued WHERE client = ? ORDER BY issued_s, rowid", (client,)).fetchall()
        return [Issued(*row) for row in rows]

    @contextmanager
    def _file(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                raise JournalError(f"enrolment.db: {error}") from None


def _hash(token: str) -> bytes:
    # Plain SHA-256 is enough: a token has 160 random bits, so there is nothing to guess from its hash.
    return hashlib.sha256(token.encode()).digest()
