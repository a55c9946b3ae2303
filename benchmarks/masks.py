"""A masked sum's processor time: one device through all its steps, and the collecting side for one group, with and without
drop-outs; what is uploaded beside the payload. One process, one thread, real certificates and keys, 32 bit. Then rounds of ten
devices over the network, and with --peer Flower's SecAgg+ on the same machine right after.

Processor seconds, not the clock's: devices work at the same time elsewhere, and what else the machine does counts less.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import process_time
from typing import ParamSpec, TypeVar

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from benchmarks import masked_rounds
from benchmarks.frame import ROOT, Options, Row, load_average
from edgehold.core import keys
from edgehold.core.masks import draw, sealing
from edgehold.core.masks.client import MaskClient
from edgehold.core.masks.draw import Entrant
from edgehold.core.masks.gathering import Gathering
from edgehold.core.masks.group import MaskGroup
from edgehold.core.masks.journal import Revealed
from edgehold.core.masks.messages import Advert
from edgehold.core.masks.noise import SharedNoise
from edgehold.core.masks.terms import CipherName, Terms, dropouts_withstood
from edgehold.core.vectors import BLOCK, Array, Bytes
from edgehold.server.identity.ca import CertificateAuthority

P = ParamSpec("P")
T = TypeVar("T")

NAME = "masks"
SUMMARY = "Masked sums: processor time on either side, rounds over the network; --peer: Flower's SecAgg+"
DOCS = ROOT / "docs" / "masks.md"
"""Where `--write-docs` puts the table."""

MEMBERS, ENTRIES = 32, 1_100_000
LARGEST = 1 << 26
NOW_S = 1_800_000_000.0


def rows(options: Options) -> Iterator[Row]:
    """Device, collecting side, bytes, noise."""
    members, entries, times = (8, 1000, 1) if options.quick else (MEMBERS, ENTRIES, 5)
    aims = (None, None, None) if options.quick else (0.25, 0.5, 1.01)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        people = _people(Path(folder), members)
        size = f"{members} members x {entries:,} entries, 32 bit"
        cipher: CipherName
        for cipher in ("aes256-ctr", "chacha20"):
            if not options.wants(f"device, {cipher}") and not options.wants(f"group, {cipher}"):
                continue
            load, played = load_average(), [_play(people, entries, cipher, seed) for seed in range(times)]
            one = played[len(played) // 2]
            target = aims[0] if cipher == "aes256-ctr" else None
            steps = ", ".join(f"{name} {1e3 * median(each.steps[name] for each in played):.1f}" for name in one.steps)
            yield Row(
                f"device, {cipher}", median(sum(each.steps.values()) for each in played), "s", target, None, load,
                f"{size}; median of {times}; ms: {steps}",
            )  # fmt: skip
            for what, gone in (
                ("nobody vanished", 0),
                (f"{dropouts_withstood(members)} vanished", dropouts_withstood(members)),
            ):
                took = [each.collected[gone] for each in played]
                target = aims[1] if cipher == "aes256-ctr" else None
                yield Row(
                    f"group, {cipher}, {what}", median(took), "s", target, None, load, f"{size}; freeze, reveals, recovery, sum"
                )
            if cipher == "aes256-ctr":
                yield Row(
                    "upload over payload",
                    one.sent / (4 * entries),
                    "times",
                    aims[2],
                    None,
                    load,
                    f"{one.sent:,} bytes a device",
                )
        if options.wants("noise"):
            yield _noise(entries, times)
    if options.wants("masked round"):
        yield from masked_rounds.rows(options)


@dataclass(frozen=True)
class _Person:
    name: str
    key: Ed25519PrivateKey
    certificate: bytes


@dataclass(frozen=True)
class _People:
    persons: tuple[_Person, ...]
    roots: tuple[x509.Certificate, ...]
    server: Ed25519PrivateKey


class _Journal:
    def __init__(self) -> None:
        self._lines: list[Revealed] = []

    def revealed(self, federation: str, run: str, round_: int) -> Sequence[Revealed]:
        return self._lines

    def write(self, revealed: Revealed) -> None:
        self._lines.append(revealed)


@dataclass
class _Played:
    """Processor seconds: of one device by step; of the collecting side, by how many vanished. sent: bytes of that device."""

    steps: dict[str, float]
    collected: dict[int, float]
    sent: int


def _people(folder: Path, count: int) -> _People:
    authority = CertificateAuthority.create(folder / "ca", "bench", now=lambda: NOW_S)
    persons = []
    for number in range(count):
        key, name = Ed25519PrivateKey.generate(), f"device-{number:03}"
        made = authority.issue("client", name, keys.new_tls_key().public_key(), keys.fingerprint(keys.public_bytes(key)))
        persons.append(_Person(name, key, made.public_bytes(Encoding.DER)))
    return _People(tuple(persons), tuple(authority.roots()), Ed25519PrivateKey.generate())


def _terms(people: _People, entries: int, cipher: CipherName, value: bytes) -> Terms:
    return Terms(
        federation="bench", plan_digest=bytes(32), run="bench", round=1, attempt=1, nonce=bytes(32), base_digest=bytes(32),
        draw_commitment=draw.commitment(value, [Entrant(one.name) for one in people.persons]), entries=entries,
        largest=LARGEST, bits=32, cipher=cipher, least=len(people.persons), most=max(len(people.persons), 15),
    )  # fmt: skip


def _play(people: _People, entries: int, cipher: CipherName, seed: int) -> _Played:
    """One sum in which every device works; one of them, in the middle of the order, is measured."""
    value = bytes(32)
    terms, steps = _terms(people, entries, cipher, value), dict[str, float]()
    measured = people.persons[len(people.persons) // 2].name

    def timed(who: str, step: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        began = process_time()
        found = work(*args, **kwargs)
        if who == measured:
            steps[step] = steps.get(step, 0.0) + process_time() - began
        return found

    def begin(one: _Person) -> MaskClient:
        return MaskClient.advertise(
            terms, one.name, certificate=one.certificate, signing_key=keys.public_bytes(one.key), sign=one.key.sign,
            roots=people.roots, server_key=keys.public_bytes(people.server), journal=_Journal(),
        )  # fmt: skip

    clients: dict[str, MaskClient] = {}
    for one in people.persons:
        clients[one.name] = timed(one.name, "advertise", begin, one)
    gathering = Gathering(terms, value, [Entrant(who) for who in clients])
    for found in clients.values():
        gathering.add(found.advert, people.roots, NOW_S)
    (roster,) = gathering.close()
    group = MaskGroup(roster)
    for who, found in clients.items():
        group.share(who, timed(who, "share", found.share, roster, NOW_S))
    group.close_shares()
    chance = np.random.default_rng(seed)
    vectors = {who: chance.integers(0, LARGEST, entries, dtype=np.int64) for who in clients}
    uploads: dict[str, Bytes] = {}
    for who, found in clients.items():
        timed(who, "receive", found.receive, group.boxes_for(who))
        whole = np.empty(4 * entries, np.uint8)
        timed(who, "mask", _masked, found, vectors[who], whole)
        uploads[who] = Bytes(whole.data)
    collected = {}
    before = {who: found.dump() for who, found in clients.items()}
    for gone in (0, dropouts_withstood(len(clients))):
        collected[gone] = _collected(people, group.dump(), before, uploads, vectors, gone, steps if not gone else {}, measured)
    sent = (
        _advert_bytes(clients[measured].advert) + sealing.BOX_BYTES * (len(clients) - 1) + 4 * entries + 33 * (len(clients) - 1)
    )
    return _Played(steps, collected, sent)


def _masked(client: MaskClient, vector: Array, out: Array) -> None:
    at = 0
    for block in client.mask(vector[start : start + BLOCK] for start in range(0, len(vector), BLOCK)):
        out[at : at + len(block)] = block
        at += len(block)


def _advert_bytes(advert: Advert) -> int:
    parts = (
        advert.transcript,
        advert.mask_key,
        advert.seal_key,
        advert.seed_commitment,
        advert.certificate,
        advert.signing_key,
    )
    return len(advert.client) + sum(len(part) for part in parts) + len(advert.signature)


def _collected(
    people: _People,
    group_state: bytes,
    clients: dict[str, bytes],
    uploads: dict[str, Bytes],
    vectors: dict[str, Array],
    gone: int,
    steps: dict[str, float],
    measured: str,
) -> float:
    """Processor seconds of the collecting side from the last vector to the tested sum."""
    alive = [who for who in uploads if who == measured or who not in list(uploads)[:gone]]
    group = MaskGroup.restore(group_state)
    digests = {who: hashlib.sha256(uploads[who].data).digest() for who in alive}
    began = process_time()
    for who in alive:
        group.upload(who, digests[who], uploads[who].size)
    survivors = group.freeze(people.server.sign)
    took = process_time() - began
    answers = []
    for who in alive:
        one = MaskClient.restore(
            clients[who], roots=people.roots, server_key=keys.public_bytes(people.server), journal=_Journal()
        )  # fmt: skip
        began = process_time()
        answers.append(one.reveal(survivors))
        if who == measured:
            steps["reveal"] = process_time() - began
    began = process_time()
    for answer in answers:
        group.reveal(answer)
    found = group.settle(uploads, lambda blocks, count: _law(blocks))
    took += process_time() - began
    if not np.array_equal(np.concatenate(list(found.blocks())), sum(vectors[who] for who in alive)):
        raise AssertionError("the sum is wrong")
    return took


def _law(blocks: Iterator[Array]) -> None:
    for _ in blocks:
        pass  # a method's own law comes on top


def _noise(entries: int, times: int) -> Row:
    source, took, load = SharedNoise(1e6).drawn(MEMBERS), [], load_average()
    for _ in range(times):
        began = process_time()
        source.draw(entries)
        took.append(process_time() - began)
    return Row(
        "noise of one device", median(took), "s", None, None, load, f"{entries:,} Skellam draws, variance {source.variance:.4g}"
    )
