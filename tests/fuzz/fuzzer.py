"""Mutated bytes into every decoder that reads what somebody else wrote: a refusal with a name, or a value, and nothing else.

scripts/fuzz --inputs 200000 [--seed N] [--only WORD] [--json FILE]
"""

import argparse
import base64
import hashlib
import json
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import msgspec
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from tests.fuzz import masks
from tests.golden.samples import examples, replies, requests, serialized

from edgehold.client import model_file
from edgehold.client.assignment import verify
from edgehold.client.config import ClientConfig
from edgehold.client.identity import Credentials
from edgehold.client.letters import signed
from edgehold.client.live import Bad, CsvReader, JsonReader
from edgehold.client.policy import Policy
from edgehold.core import keys
from edgehold.core.anomaly import Reading
from edgehold.core.anomaly import schema_of as detector_schema
from edgehold.core.config import convert, parse_toml
from edgehold.core.contract import Container, Payload
from edgehold.core.errors import ConfigError, FlError, IdentityError
from edgehold.core.identity import identity_of
from edgehold.core.manifest import PROTOCOL_VERSION
from edgehold.core.plan import parse_plan
from edgehold.core.vectors import Bytes, Schema, Tensor, Vector
from edgehold.defenses import registry
from edgehold.defenses.baselines.fedavg.codec import FedAvgCodec
from edgehold.defenses.baselines.fedavg.state import Order, Settings, Training, Update
from edgehold.defenses.bristle import state as bristle
from edgehold.defenses.bristle.codec import BristleCodec
from edgehold.defenses.dp_ef_sgd import state as dp_ef_sgd
from edgehold.defenses.dp_ef_sgd.codec import DpEfSgdCodec
from edgehold.defenses.fedpca import state as fedpca
from edgehold.defenses.fedpca.codec import FedPcaCodec
from edgehold.defenses.floral import state as floral
from edgehold.defenses.floral.codec import FloralCodec
from edgehold.defenses.floral.features import Fourier, schema_of
from edgehold.defenses.frl import state as frl
from edgehold.defenses.frl.codec import FrlCodec
from edgehold.defenses.frl.coding import entropy_coded
from edgehold.defenses.hidenseek import state as hidenseek
from edgehold.defenses.hidenseek.codec import HideNseekCodec
from edgehold.defenses.hyperfl import state as hyperfl
from edgehold.defenses.hyperfl.codec import HyperFLCodec
from edgehold.defenses.noise_robust_admm import state as admm
from edgehold.defenses.noise_robust_admm.codec import AdmmCodec
from edgehold.proto.statements import statement_of
from edgehold.proto.status import DETAIL_KEY, detail_of, error_of
from edgehold.proto.strict import CHUNK_MESSAGE_LIMIT, MESSAGE_LIMIT, decode
from edgehold.proto.v1.control_pb2 import TaskAssignment, TaskId
from edgehold.proto.v1.mailbox_pb2 import Letterhead
from edgehold.proto.v1.transfer_pb2 import Manifest
from edgehold.server.config import ServerConfig
from edgehold.server.identity.ca import CertificateAuthority
from edgehold.server.store import weights_file
from edgehold.server.store.blobs import BlobStore
from edgehold.server.wire.enrolment import csr_key

GROWTH_LIMIT = 64 << 20
SLOW_S = 1.0
"""Far above what any of these inputs needs, and far below what would hold up a server."""
HUNG_S = 10
"""A decoder that is still at it after so long is called off."""
WARM_UP = 0.1
"""Share of the inputs after which memory is measured for the first time: caches are full then."""


@dataclass
class Target:
    """One decoder. seeds: inputs it takes; decode: what is fuzzed; wrap: makes bytes of a mutated inner part."""

    name: str
    seeds: Sequence[bytes]
    decode: Callable[[bytes], object]
    wrap: Callable[[bytes], bytes] = bytes


@dataclass
class Report:
    """What came out. outcomes: target -> error code ("ok" for a value) -> count; failures: each with what caused it."""

    seed: int
    inputs: int = 0
    seconds: float = 0.0
    growth_bytes: int = 0
    slowest_s: float = 0.0
    slowest: str = ""
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def codes(self) -> Counter[str]:
        """Outcomes of all targets together."""
        return sum(self.outcomes.values(), Counter[str]())


# ---- mutation

EXTREMES = [bytes([value]) * n for value in (0, 0xFF) for n in (1, 4, 8, 16)] + [b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00"]
WORDS = [
    b"nan", b"inf", b"-1", b"1e999", b"null", b"true", b'"', b"'", b"[[[[", b"]]", b"{", b"}", b"=", b"\n", b"\\u0000",
    b"\xc3\x28", b"\xf0\x9f\x92\xa9", b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"9" * 30, b"[" * 2000, b"a=[" * 50,
    b'{"a":' * 200, b"9" * 5000,
    b"../", b"1979-05-27T07:32:00Z", b"0x", b"_", b".", b"\x06\x03", b"\x30\x80", b"\x24\x80", b"-----BEGIN CERTIFICATE-----",
]  # fmt: skip


def mutate(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One to six changes. other: another seed of the same target, for splices."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        size = len(out)
        at = rng.randrange(size + 1)
        span = rng.randrange(1, 33)
        what = rng.randrange(10)
        if what == 0 and size:
            out[at % size] ^= 1 << rng.randrange(8)
        elif what == 1 and size:
            out[at % size] = rng.randrange(256)
        elif what == 2:
            out[at:at] = rng.randbytes(span)
        elif what == 3:
            del out[at : at + span]
        elif what == 4:
            out[at:at] = out[at : at + span]
        elif what == 5:
            del out[at:]
        elif what == 6:
            extreme = rng.choice(EXTREMES)
            out[at : at + len(extreme)] = extreme
        elif what == 7:
            word = rng.choice(WORDS)
            out[at : at + rng.choice((0, len(word)))] = word
        elif what == 8 and other:
            start = rng.randrange(len(other))
            out[at : at + rng.choice((0, span))] = other[start : start + span]
        elif size:
            # Lengths and counts live in single bytes here: one more, one less.
            out[at % size] = (out[at % size] + rng.choice((-1, 1))) % 256
    return bytes(out[:MESSAGE_LIMIT])


# ---- targets


def targets(folder: Path) -> list[Target]:
    """Every decoder of bytes from outside. folder: empty, for what must lie in a file."""
    return [
        *_messages(), *_statements(), *_payloads(), *_files(folder), *_identity(folder / "ca"), *_configuration(),
        *(Target(*case) for case in masks.cases()),
    ]  # fmt: skip


def _messages() -> list[Target]:
    def strict(kind: Any) -> Callable[[bytes], object]:
        return lambda data: decode(kind, data, CHUNK_MESSAGE_LIMIT)

    found = []
    for kinds in (requests(), replies()):
        for name, kind in kinds.items():
            found.append(Target(f"message {name}", [b"", *(serialized(one) for _, one in examples(kind))], strict(kind)))
    return found


def _statements() -> list[Target]:
    manifest = Manifest(
        protocol_version=PROTOCOL_VERSION, federation="lab", plan_digest=bytes(32), client_id="dev-1", base_digest=bytes(32),
        task=TaskId(run="run-1", round=1, attempt=1, nonce=bytes(32)), payload_kind="fedavg/1", payload_length=40,
        payload_digest=bytes(32),
    )  # fmt: skip
    key = ed25519.Ed25519PrivateKey.generate()
    mine = Credentials(
        client_id="dev-1", federation="lab", server_address="", renew_address="", key_pem=b"", chain_pem=b"", roots_pem=b"",
        signing_key=key, server_signing_key=key.public_key(), expires_s=0.0, issued_s=0.0,
    )  # fmt: skip
    task = TaskAssignment(
        id=manifest.task, protocol_version=1, federation="lab", plan_digest=bytes(32), task="digits", method="fedavg",
        header=b"header", base_digest=bytes(32), base_length=4, roster_digest=bytes(32), deadline_s=60.0,
        schema_digest=bytes(32), signature=bytes(64), inline_body=b"body",
    )  # fmt: skip

    def manifest_(data: bytes) -> object:
        return statement_of(decode(Manifest, data)).digest()

    def letterhead(data: bytes) -> object:
        return signed(decode(Letterhead, data), "dev-1", "lab", _ROOTS[0]).key

    def assignment(data: bytes) -> object:
        verify(decode(TaskAssignment, data, MESSAGE_LIMIT), mine)
        return None

    def trailer(data: bytes) -> object:
        call: Any = SimpleNamespace(
            trailing_metadata=lambda: ((DETAIL_KEY, data),), code=lambda: grpc.StatusCode.ABORTED, details=lambda: "words"
        )
        error = error_of(call)
        if error.retry_after_s is not None and not 0 <= error.retry_after_s < float("inf"):
            raise AssertionError(f"a wait of {error.retry_after_s} s")
        raise error

    details = [detail_of(ConfigError("words")), detail_of(FlError("words", retry_after_s=1.0))]
    return [
        Target("letterhead", [_letterhead(manifest, key)], letterhead),
        Target("manifest", [manifest.SerializeToString()], manifest_),
        Target("assignment", [task.SerializeToString()], assignment),
        Target("error detail", details, trailer),
    ]


_ROOTS: list[bytes] = []
"""PEM of the authority whose certificate stands in the letterhead."""


def _letterhead(manifest: Manifest, key: ed25519.Ed25519PrivateKey) -> bytes:
    """What a peer shows with its update, whole and right."""
    with tempfile.TemporaryDirectory() as folder:
        authority = CertificateAuthority.create(Path(folder) / "ca", "lab")
        public = keys.public_bytes(key)
        leaf = authority.issue("client", "dev-1", keys.new_tls_key().public_key(), keys.fingerprint(public))
        _ROOTS[:] = [authority.trusted_pem()]
    signature = key.sign(statement_of(manifest).signing_input())
    certificate = leaf.public_bytes(Encoding.PEM)
    return Letterhead(manifest=manifest, signature=signature, signing_key=public, certificate=certificate).SerializeToString()


def _payloads() -> list[Target]:
    schema = Schema((Tensor("values", (8,)),))
    codec = FedAvgCodec(Settings(clip_norm=1.0))
    values = Vector.of(np.linspace(-1, 1, 8, dtype="<f4"))
    update, order = codec.encode_update(Update(values, 7)), codec.encode_order(Order(values, Training(), 3))

    def whole(payload: Payload) -> bytes:
        return Container.prefix(payload) + bytes(payload.body.read(0, payload.body.size))

    return [
        *_rankings(whole),
        *_signs(whole),
        *_private(whole),
        *_hypernetworks(whole),
        *_consensus(whole),
        *_subspaces(whole),
        *_heads(whole),
        *_judged_heads(whole),
        Target("update", [whole(update)], lambda data: codec.decode_update(Container.split(Bytes(data)), schema)),
        Target("order", [whole(order)], lambda data: codec.decode_order(Container.split(Bytes(data)), schema)),
    ]


def _rankings(whole: Callable[[Payload], bytes]) -> list[Target]:
    """FRL's update in every form, and its order in both that it may have."""
    layers = Schema((Tensor("a", (3, 3)), Tensor("b", (6, 50))))
    ranks = [np.arange(9, dtype=np.int32), np.arange(300, dtype=np.int32)[::-1]]
    found = []
    for name, settings, coded in (
        ("packed", frl.Settings(), False), ("entropy-coded", frl.Settings(coding="entropy"), True),
        ("top", frl.Settings(upload="top", top=0.3), False),
    ):  # fmt: skip
        codec = FrlCodec(settings)
        forms = entropy_coded(settings, [9, 300])
        vote = codec.encode_update(frl.Update(ranks, forms, settings.share))
        asked = codec.encode_order(frl.Order(3, 1, ranks, frl.Training(), forms, settings.share))

        def update(data: bytes, codec: FrlCodec = codec) -> object:
            return codec.decode_update(Container.split(Bytes(data)), layers)

        def order(data: bytes, codec: FrlCodec = codec) -> object:
            return codec.decode_order(Container.split(Bytes(data)), layers)

        found.append(Target(f"ranks {name}", [whole(vote)], update))
        if name != "top":
            found.append(Target(f"rank order {name}", [whole(asked)], order))
        assert any(forms) == coded
    return found


def _signs(whole: Callable[[Payload], bytes]) -> list[Target]:
    codec, schema = HideNseekCodec(hidenseek.Settings(keep=0.6)), Schema((Tensor("a", (3, 3)), Tensor("b", (2, 4))))
    # 10 of 17 weights: two bytes of signs, six of their bits fill up.
    vote = codec.encode_update(hidenseek.Update(Vector.of(np.array([0b10110101, 0b01], dtype=np.uint8))))
    mask = np.arange(17) % 5 < 3
    mask[-1] = False
    counts = np.arange(10, dtype=np.uint16) % 4
    asked = codec.encode_order(hidenseek.Order(3, 2, mask, 3, counts, hidenseek.Training()))
    return [
        Target("signs", [whole(vote)], lambda data: codec.decode_update(Container.split(Bytes(data)), schema)),
        Target("sign order", [whole(asked)], lambda data: codec.decode_order(Container.split(Bytes(data)), schema)),
    ]


def _private(whole: Callable[[Payload], bytes]) -> list[Target]:
    codec, schema = DpEfSgdCodec(dp_ef_sgd.Settings(clip_norm=1.0)), Schema((Tensor("a", (3, 3)), Tensor("b", (2, 4))))
    values = Vector.of(np.linspace(-1, 1, 17, dtype=np.float32))
    asked = codec.encode_order(dp_ef_sgd.Order(values, dp_ef_sgd.Training(), 3))
    return [
        Target(
            "noisy update",
            [whole(codec.encode_update(dp_ef_sgd.Update(values)))],
            lambda data: codec.decode_update(Container.split(Bytes(data)), schema),
        ),
        Target("private order", [whole(asked)], lambda data: codec.decode_order(Container.split(Bytes(data)), schema)),
    ]


def _hypernetworks(whole: Callable[[Payload], bytes]) -> list[Target]:
    """HyperFL with an outlet of low rank and dense ones."""
    schema = Schema((Tensor("a.weight", (3, 3)), Tensor("a.bias", (3,)), Tensor("b.weight", (2, 3))))
    settings = hyperfl.Settings(embedding=2, hidden=5, rank=2, clip_norm=1.0)
    codec, layout = HyperFLCodec(settings), hyperfl.layout_of(schema, settings)
    assert [outlet.rank for outlet in layout.outlets] == [2, 0]
    values = Vector.of(np.linspace(-1, 1, layout.size, dtype="<f4"))
    how = hyperfl.Training(embedding=2, hidden=5, rank=2)
    update, order = codec.encode_update(hyperfl.Update(values, 7)), codec.encode_order(hyperfl.Order(values, how, 3))
    return [
        Target("hypernetwork", [whole(update)], lambda data: codec.decode_update(Container.split(Bytes(data)), schema)),
        Target("hypernetwork order", [whole(order)], lambda data: codec.decode_order(Container.split(Bytes(data)), schema)),
    ]


def _consensus(whole: Callable[[Payload], bytes]) -> list[Target]:
    """Noise-robust ADMM in its widest form."""
    schema, codec = Schema((Tensor("x", (3,)),)), AdmmCodec(admm.Settings(form="dual"))
    values = Vector.of(np.linspace(-1, 1, 3, dtype="<f4"))
    update = codec.encode_update(admm.Update(values))
    order = codec.encode_order(admm.Order(3, 2, admm.Training(form="dual"), Vector.of(np.zeros(6, "<f4"))))
    return [
        Target("consensus", [whole(update)], lambda data: codec.decode_update(Container.split(Bytes(data)), schema)),
        Target("consensus order", [whole(order)], lambda data: codec.decode_order(Container.split(Bytes(data)), schema)),
    ]


def _subspaces(whole: Callable[[Payload], bytes]) -> list[Target]:
    """FedPCA's update and order in each phase."""
    schema, codec = detector_schema(4, 2), FedPcaCodec(fedpca.Settings(bins=8))
    basis = np.eye(4, 2, dtype=np.float32)
    mean, width, reading = np.zeros(4, np.float32), np.ones(4, np.float32), Reading("log", 5.0, 7)
    updates: dict[str, fedpca.Update] = {
        "standardise": fedpca.Moments(3, np.arange(4.0), np.arange(4.0) ** 2),
        "subspace": fedpca.Basis(3, True, basis),
        "threshold": fedpca.Histogram(3, np.array([0, 1, 2, 0, 0, 0, 0, 0], dtype="<u4")),
    }
    found = []
    for phase, update in updates.items():
        parts = {} if phase == "standardise" else {"mean": mean, "width": width, "basis": basis}
        asked = codec.encode_order(fedpca.Order(3, 1, phase, fedpca.Training(), reading, 8, **parts))
        answer = codec.encode_update(update)
        found += [
            Target(f"{phase} update", [whole(answer)], lambda data: codec.decode_update(Container.split(Bytes(data)), schema)),
            Target(f"{phase} order", [whole(asked)], lambda data: codec.decode_order(Container.split(Bytes(data)), schema)),
        ]
    return found


def _heads(whole: Callable[[Payload], bytes]) -> list[Target]:
    """FLORAL with three classes."""
    how: dict[str, Any] = {"count": 4, "gamma": 0.5, "feature_seed": 2}
    schema, settings = schema_of(Fourier(3, 0.5, 4, 2), 3), floral.Settings(**how, clip_norm=1.0)
    codec, values = FloralCodec(settings), Vector.of(np.linspace(-1, 1, 15, dtype="<f4"))
    update, order = codec.encode_update(floral.Update(values, 7)), floral.Order(values, floral.Training(**how), 3)
    return [
        Target("head", [whole(update)], lambda data: codec.decode_update(Container.split(Bytes(data)), schema)),
        Target(
            "head order",
            [whole(codec.encode_order(order))],
            lambda data: codec.decode_order(Container.split(Bytes(data)), schema),
        ),
    ]


def _judged_heads(whole: Callable[[Payload], bytes]) -> list[Target]:
    """Bristle's head, which peers read too, and its order with two senders."""
    codec, schema = BristleCodec(), Schema((Tensor("head", (4, 3)),))
    head = codec.encode_update(bristle.Update(Vector.of(np.linspace(-1, 1, 12, dtype="<f4")), 3, bytes(range(32))))
    sketches = np.linspace(-1, 1, 2 * bristle.SKETCH, dtype=np.float32).reshape(2, -1)
    listed = {"dev-1": bytes(32), "dev-2": bytes(range(32))}
    asked = codec.encode_order(bristle.Order(3, 4, listed, sketches, bytes(32), bristle.Training()))
    return [
        Target("judged head", [whole(head)], lambda data: codec.decode_update(Container.split(Bytes(data)), schema)),
        Target("judged head order", [whole(asked)], lambda data: codec.decode_order(Container.split(Bytes(data)), schema)),
    ]


def _files(folder: Path) -> list[Target]:
    store, path = BlobStore(folder / "blobs"), folder / "model.safetensors"
    entries = {
        "__metadata__": {"format": "np"},
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [1, 3], "data_offsets": [8, 20]},
    }
    body = np.arange(5, dtype="<f4").tobytes()

    def wrap(text: bytes) -> bytes:
        return len(text).to_bytes(8, "little") + text + body

    def read(data: bytes) -> object:
        path.write_bytes(data)
        found = weights_file.read(path, store)
        store.keep_only([])
        return found

    def read_on_device(data: bytes) -> object:
        path.write_bytes(data)
        return model_file.read(path)

    text = json.dumps(entries).encode()
    return [
        Target("model file", [wrap(text)], read), Target("model header", [text], read, wrap),
        Target("model file on a device", [wrap(text)], read_on_device),
        Target("model header on a device", [text], read_on_device, wrap),
        Target("live records", [b"a,b\n1,2\n3,4e5\n", b'a,b\n"1",2\n'], lambda data: CsvReader((), "s", Bad(False)).read(data)),
        Target(
            "live JSON", [b'{"a": 1, "b": 2.5}\n{"b": 3, "a": 4}\n'],
            lambda data: JsonReader(("a", "b"), "s", Bad(False)).read(data),
        ),
    ]  # fmt: skip


def _identity(folder: Path) -> list[Target]:
    authority = CertificateAuthority.create(folder, "lab")
    key = keys.new_tls_key()
    leaf = authority.issue("client", "dev-1", key.public_key(), bytes(32))
    server = authority.issue("server", "server", key.public_key(), bytes(32), hosts=("localhost",))
    root = authority.current()
    der = [one.public_bytes(Encoding.DER) for one in (leaf, server, root)]
    other = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    curve = ec.generate_private_key(ec.SECP384R1())
    requests_der = [keys.make_csr(key), other.sign(ed25519.Ed25519PrivateKey.generate(), None).public_bytes(Encoding.DER)]
    requests_der.append(other.sign(curve, hashes.SHA256()).public_bytes(Encoding.DER))
    bundle = keys.Bundle("lab", "dev-1", "token", "h:1", "h:2", "h:3", hashlib.sha256(der[2]).hexdigest(), der[2])
    line = keys.encode_bundle(bundle).encode()

    def pem(data: bytes) -> bytes:
        lines = base64.encodebytes(data)
        return b"-----BEGIN CERTIFICATE-----\n" + lines + b"-----END CERTIFICATE-----\n"

    def bundled(data: bytes) -> bytes:
        checked = data + hashlib.sha256(data).digest()[:4]
        return b"edgehold1." + base64.urlsafe_b64encode(checked).rstrip(b"=")

    def rooted(data: bytes) -> bytes:
        return keys.encode_bundle(
            keys.Bundle("lab", "dev-1", "token", "h:1", "h:2", "h:3", hashlib.sha256(data).hexdigest(), data)
        ).encode()

    def unbundle(data: bytes) -> object:
        return keys.decode_bundle(data.decode("utf-8", "replace"))

    def key_file(data: bytes) -> object:
        try:
            return keys.tls_key(data, "tls.key")
        except IdentityError:
            return keys.signing_key(data, "signing.key")

    pems = [keys.key_pem(key), keys.key_pem(ed25519.Ed25519PrivateKey.generate())]
    return [
        Target("certificate", der, identity_of, pem),
        Target("certificate text", [pem(one) for one in der], identity_of),
        Target("request", requests_der, csr_key),
        Target("bundle text", [line], unbundle),
        Target("bundle", [msgspec.json.encode(bundle)], unbundle, bundled),
        Target("bundle root", der, unbundle, rooted),
        Target("key file", pems, key_file),
    ]


PLAN = b"""\
[run]
name = "run-1"
rounds = 3
task = "digits"
seed = 7
[cohort]
size = 4
quorum = 3
over_select = 1.3
[weights]
by = "samples"
[method]
name = "fedavg"
rule = "trimmed_mean"
liars = 1
learning_rate = 0.05
clip_norm = 1.0
"""
CLIENT = (
    b'[tasks.digits]\ntask = "package.module:make"\noptions = { part = 3, when = 1979-05-27 }\n[transfer]\nstall_s = 2.0\n'
    b'[peers]\nlisten = "h:1"\n'
)
POLICY = b'allowed_methods = ["fedavg", "*"]\nallowed_tasks = []\nrounds_per_day = 5\nallow_unmasked = true\n'
SERVER = b'[server]\nfederation = "lab"\nhost_names = ["localhost"]\n[limits]\nprogress_window_s = 1\n[tasks.a]\ntask = "m:f"\n'


def _configuration() -> list[Target]:
    def text(data: bytes) -> str:
        return data.decode("utf-8", "replace")

    def plan(data: bytes) -> object:
        return parse_plan(text(data), registry.method)[0].digest

    def table(kind: type[Any]) -> Callable[[bytes], object]:
        return lambda data: convert(parse_toml(text(data), "file.toml"), kind, "file.toml")

    return [
        Target("plan", [PLAN], plan),
        Target("client.toml", [CLIENT], table(ClientConfig)),
        Target("policy.toml", [POLICY], table(Policy)),
        Target("server.toml", [SERVER], table(ServerConfig)),
    ]


# ---- the run


def resident() -> int:
    """Bytes of memory this process holds now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def fuzz(found: Sequence[Target], inputs: int, seed: int, tell: Callable[[str], object] = lambda line: None) -> Report:
    """`inputs` mutated inputs, spread evenly over the targets; the same seed gives the same inputs for the same seeds."""
    rng, report = random.Random(seed), Report(seed)
    for target in found:
        report.outcomes[target.name] = Counter()
        for one in target.seeds:
            _try(target, target.wrap(one), report)
    usual = signal.signal(signal.SIGALRM, _call_off)
    before, began, told = resident(), time.monotonic(), time.monotonic()
    for number in range(inputs):
        target = found[number % len(found)]
        if number % 100 == 0:
            signal.alarm(HUNG_S)
        data = target.wrap(mutate(rng.choice(target.seeds), rng.choice(target.seeds), rng))
        _try(target, data, report)
        if number == int(inputs * WARM_UP):
            before = resident()
        if time.monotonic() - told > 2.0:
            told = time.monotonic()
            rate = number / (told - began)
            tell(f"{number} of {inputs} inputs, {rate:.0f} a second, {len(report.failures)} failures")
    signal.alarm(0)
    signal.signal(signal.SIGALRM, usual)
    report.seconds = time.monotonic() - began
    report.growth_bytes = max(0, resident() - before)
    report.inputs = inputs
    if report.growth_bytes > GROWTH_LIMIT:
        report.failures.append(f"memory grew by {report.growth_bytes >> 20} MiB; at most {GROWTH_LIMIT >> 20} are allowed")
    return report


class Hung(Exception):
    """The decoder would not come back."""


def _call_off(number: int, frame: object) -> None:
    raise Hung(f"still running after {HUNG_S} s")


def _try(target: Target, data: bytes, report: Report) -> None:
    began = time.perf_counter()
    try:
        target.decode(data)
        code = "ok"
    except FlError as error:
        code = error.code
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        code = type(error).__name__
        if report.outcomes[target.name][code] == 0 or len(report.failures) < 20:
            report.failures.append(f"{target.name}: {code}: {str(error)[:200]} on {data[:2000].hex()}")
    spent = time.perf_counter() - began
    if spent > report.slowest_s:
        report.slowest_s, report.slowest = spent, target.name
    if spent > SLOW_S:
        report.failures.append(f"{target.name}: {spent:.2f} s for {len(data)} bytes: {data[:2000].hex()}")
    report.outcomes[target.name][code] += 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 when something failed."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Mutated bytes into every decoder of foreign bytes.")
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="", help="targets whose name has this word in it")
    asked = parser.parse_args(arguments)
    # Odd serial numbers and the like are announced to be refused one day; either answer will do.
    warnings.simplefilter("ignore", CryptographyDeprecationWarning)
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        chosen = [target for target in targets(Path(folder)) if asked.only in target.name]
        report = fuzz(chosen, asked.inputs, asked.seed, lambda line: print(line, file=sys.stderr))
    rate = report.inputs / report.seconds if report.seconds else 0.0
    if asked.json:
        facts = {
            "seed": report.seed, "inputs": report.inputs, "seconds": report.seconds, "inputs_per_s": rate,
            "growth_bytes": report.growth_bytes, "slowest_s": report.slowest_s, "slowest": report.slowest,
            "codes": report.codes, "outcomes": report.outcomes, "failures": report.failures,
        }  # fmt: skip
        asked.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(f"{report.inputs} inputs, seed {report.seed}: {report.seconds:.1f} s, {rate:.0f} a second")
    print(f"memory: {report.growth_bytes / (1 << 20):.1f} MiB more at the end; slowest: {report.slowest_s * 1e3:.1f} ms")
    print("outcomes: " + ", ".join(f"{code} {count}" for code, count in report.codes.most_common()))
    for failure in report.failures:
        print(f"FAILED {failure}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
