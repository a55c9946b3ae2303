"""A masked sum in memory, for tests: devices with certificates, a server key, and a transport that loses what it is told to."""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from edgehold.core import keys
from edgehold.core.masks import draw
from edgehold.core.masks.client import MaskClient
from edgehold.core.masks.draw import Entrant
from edgehold.core.masks.gathering import Gathering
from edgehold.core.masks.group import MaskGroup
from edgehold.core.masks.journal import Revealed
from edgehold.core.masks.messages import Roster
from edgehold.core.masks.sums import GroupSum
from edgehold.core.masks.terms import Source, Terms
from edgehold.core.vectors import Array, Bytes
from edgehold.server.identity.ca import CertificateAuthority

NOW_S = 1_800_000_000.0
FEDERATION = "lab"
VALUE = bytes(range(32))


def seeded(*what: object) -> Source:
    """Bytes that can be drawn again, for tests alone."""
    stream = np.random.default_rng(list(hashlib.sha256(repr(what).encode()).digest()))
    return stream.bytes


@dataclass(frozen=True)
class Identity:
    """A device's or a server's signing key and certificate (DER)."""

    name: str
    key: Ed25519PrivateKey
    certificate: bytes

    @property
    def public(self) -> bytes:
        return keys.public_bytes(self.key)


@lru_cache(maxsize=8)
def authority(federation: str = FEDERATION, number: int = 0) -> CertificateAuthority:
    folder = Path(tempfile.mkdtemp(prefix=f"masked-ca-{number}-"))
    return CertificateAuthority.create(folder, federation, now=lambda: NOW_S)


@lru_cache(maxsize=512)
def identity(name: str, federation: str = FEDERATION, number: int = 0, life_s: float | None = None) -> Identity:
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"{name} {number}".encode()).digest())
    tls = keys.new_tls_key()
    fingerprint = keys.fingerprint(keys.public_bytes(key))
    made = authority(federation, number).issue("client", name, tls.public_key(), fingerprint, life_s=life_s)
    return Identity(name, key, made.public_bytes(Encoding.DER))


@lru_cache(maxsize=1)
def roots() -> tuple[x509.Certificate, ...]:
    return tuple(authority(FEDERATION, 0).roots())


SERVER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
SERVER_KEY = keys.public_bytes(SERVER)


class Memory:
    """A reveal journal that a test can look into, and that can fail."""

    def __init__(self) -> None:
        self.lines: list[Revealed] = []
        self.fail: Exception | None = None

    def revealed(self, federation: str, run: str, round_: int) -> Sequence[Revealed]:
        return [one for one in self.lines if (one.federation, one.run, one.round) == (federation, run, round_)]

    def write(self, revealed: Revealed) -> None:
        if self.fail is not None:
            raise self.fail
        self.lines.append(revealed)


def names(count: int) -> tuple[str, ...]:
    return tuple(f"device-{number:03}" for number in range(count))


def terms(invited: Iterable[str | Entrant], **changed: Any) -> Terms:
    """Terms of a small sum; one group for up to 64 unless `least` says otherwise."""
    asked = [one if isinstance(one, Entrant) else Entrant(one) for one in invited]
    found = Terms(
        federation=FEDERATION, plan_digest=b"p" * 32, run="run", round=3, attempt=1, nonce=b"n" * 32, base_digest=b"m" * 32,
        draw_commitment=draw.commitment(VALUE, asked), entries=37, largest=3, bits=8, least=64, most=64,
    )  # fmt: skip
    return replace(found, **changed)


@dataclass
class Played:
    """A masked sum in the midst: what tests take apart."""

    terms: Terms
    clients: dict[str, MaskClient]
    journals: dict[str, Memory]
    rosters: tuple[Roster, ...]
    vectors: dict[str, Array]
    group: MaskGroup
    uploads: dict[str, Bytes] = field(default_factory=dict)


def client(who: str, how: Terms, journal: Memory, seed: object = 0, **changed: Any) -> MaskClient:
    """A device that has advertised."""
    mine = identity(who)
    given: dict[str, Any] = dict(
        certificate=mine.certificate, signing_key=mine.public, sign=mine.key.sign, roots=roots(), server_key=SERVER_KEY,
        journal=journal, source=seeded(who, how.attempt, seed),
    )  # fmt: skip
    return MaskClient.advertise(how, who, **(given | changed))


def advertised(count: int, seed: int = 0, journals: Mapping[str, Memory] | None = None, **changed: Any) -> Played:
    """Adverts in, groups drawn; the first group is the one that is played."""
    who = names(count)
    how = terms(who, **changed)
    books = dict(journals or {name: Memory() for name in who})
    clients = {name: client(name, how, books[name], seed) for name in who}
    gathering = Gathering(how, VALUE, [Entrant(name) for name in who])
    for one in clients.values():
        gathering.add(one.advert, roots(), NOW_S)
    rosters = gathering.close()
    chance = np.random.default_rng([seed, count])
    vectors = {name: chance.integers(0, how.largest + 1, how.entries) for name in who}
    return Played(how, clients, books, rosters, vectors, MaskGroup(rosters[0]))


def shared(played: Played, silent: Iterable[str] = ()) -> None:
    """Boxes from all members but the silent ones, delivered to all who sent some."""
    group = played.group
    for who in group.roster.ids:
        if who not in silent:
            group.share(who, played.clients[who].share(group.roster, NOW_S))
    group.close_shares()
    for who in group.sharers:
        played.clients[who].receive(group.boxes_for(who))


def masked(one: MaskClient, vector: Array, size: int = 10) -> Bytes:
    """The masked vector, made in blocks of `size` entries."""
    blocks = [vector[start : start + size] for start in range(0, len(vector), size)]
    return Bytes(b"".join(bytes(block) for block in one.mask(blocks)))


def uploaded(played: Played, silent: Iterable[str] = ()) -> None:
    """Masked vectors of all sharers but the silent ones."""
    for who in played.group.sharers:
        if who not in silent:
            blob = masked(played.clients[who], played.vectors[who])
            played.uploads[who] = blob
            played.group.upload(who, played.clients[who].upload_digest, blob.size)


def revealed(played: Played, silent: Iterable[str] = ()) -> None:
    """Reveals of all survivors but the silent ones."""
    survivors = played.group.freeze(SERVER.sign)
    for who in survivors.clients:
        if who not in silent:
            played.group.reveal(played.clients[who].reveal(survivors))


def lawful(blocks: Iterable[Array], survivors: int) -> None:
    """A law that everything keeps."""


def settled(played: Played, law: Callable[..., None] = lawful) -> GroupSum:
    return played.group.settle(played.uploads, law)


def expected(played: Played) -> Array:
    """The sum as it would be without masks."""
    total: Array = sum((played.vectors[who] for who in played.group.uploaded), np.zeros(played.terms.entries, np.int64))
    return total
