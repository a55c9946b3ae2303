"""What a device is handed: a folder with a model, what it is, and a signature over both; checked before anything is run.

    manifest.json   what the model is and where it comes from, with the SHA-256 of every other file (`Manifest`)
    manifest.sig    Ed25519 over exactly the bytes of manifest.json, under a label of its own, 64 bytes
    parity.json     the certificate: how the graph compares with the training library (`edgehold.core.onnx_parity`)
    model.onnx      the graph; or model.vote, from which a device makes it (`edgehold.core.vote_file`)

Bytes are signed as they lie there, so that nobody has to agree on a canonical form of JSON.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edgehold.core.errors import BadSignature, IdentityError, ModelRefused
from edgehold.core.files import sync, sync_folder
from edgehold.core.manifest import signing_input
from edgehold.core.plan import Name
from edgehold.core.rng import stream
from edgehold.core.vectors import Array

VERSION: Literal[1] = 1
MANIFEST, SIGNATURE, PARITY = "manifest.json", "manifest.sig", "parity.json"
MODEL = {"onnx": "model.onnx", "vote": "model.vote", "hypernetwork": "model.phi"}
"""Form -> the file that holds the model."""
MANIFEST_LIMIT = 1 << 20
FILE_LIMIT = 1 << 31
"""Bytes a model may have: what protobuf can hold."""

Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_NAME = re.compile(r"[a-z]+\.[a-z]+")


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file beside the manifest."""

    bytes: Annotated[int, msgspec.Meta(ge=0, lt=FILE_LIMIT)]
    sha256: Digest


Number = Literal["float32", "float64", "int64"]


class Port(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Input or output of the graph. type: NumPy's name; shape: of one record."""

    name: str
    type: Number
    shape: tuple[int, ...]


class Privacy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What training cost. of: whom the figure is about; epsilon: None where it has no bound; delta: None where unknown."""

    epsilon: float | None
    delta: float | None
    of: str


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Inputs that everybody can draw again and what the model makes of them: nobody's data.

    low, high: of uniform numbers, or of integers (high excluded); tolerance: largest allowed difference of an output.
    """

    seed: int
    records: Annotated[int, msgspec.Meta(ge=1, le=256)]
    low: float
    high: float
    outputs: tuple[tuple[float, ...], ...]
    tolerance: Annotated[float, msgspec.Meta(gt=0)]

    def inputs(self, port: Port) -> Array:
        """(records, *shape)."""
        rng, shape = stream(self.seed, "handover", "check"), (self.records, *port.shape)
        if port.type == "int64":
            return rng.integers(int(self.low), int(self.high), shape)
        return (self.low + (self.high - self.low) * rng.random(shape)).astype(port.type)


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is handed over.

    kind: a "network" gives outputs, a "detector" one score per record, with the threshold above which it is an alarm, a
    "hypernetwork" is no graph yet: devices generate their own from it. signer: "server", or the device whose own model it is.
    run_created_s, exported_s: seconds since 1970; the first tells which of two runs is the newer one. weights_sha256: of the
    dense float32 weights in the order of the schema. numbers: of the weights as they are stored.
    """

    version: Literal[1]
    federation: Name
    signer: str
    run: Name
    round: Annotated[int, msgspec.Meta(ge=1)]
    run_created_s: float
    exported_s: float
    software: str
    task: Name
    method: Name
    plan_sha256: Digest
    weights_sha256: Digest
    kind: Literal["network", "detector", "hypernetwork"]
    form: Literal["onnx", "vote", "hypernetwork"]
    numbers: Literal["float32", "int8"]
    files: dict[str, File]
    opset: int = 0
    ir_version: int = 0
    input: Port | None = None
    output: Port | None = None
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    threshold: float | None = None
    privacy: Privacy | None = None
    check: Check | None = None

    @property
    def age(self) -> tuple[float, int]:
        """Grows with every later model of a task: when its run was submitted, then the round."""
        return self.run_created_s, self.round

    @property
    def model(self) -> str:
        """Name of the file that holds the model."""
        return MODEL[self.form]


class Bundle(msgspec.Struct, frozen=True):
    """A folder that was checked. data: the manifest's bytes; files: content by name."""

    manifest: Manifest
    data: bytes
    signature: bytes
    files: dict[str, bytes]

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, hex: names the model."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def model(self) -> bytes:
        """The file that holds the model."""
        return self.files[self.manifest.model]


def statement(data: bytes) -> bytes:
    """What is signed. data: the bytes of manifest.json."""
    return signing_input("handover v1", [data])


def entry(data: bytes) -> File:
    """How a manifest lists a file."""
    return File(len(data), hashlib.sha256(data).hexdigest())


def write(folder: Path, manifest: Manifest, files: Mapping[str, bytes], key: Ed25519PrivateKey) -> Bundle:
    """A folder to hand over, synced; the manifest lists `files` whatever it said of them. The folder must not exist.

    It appears under its name with everything inside, or not at all.
    """
    listed = {name: entry(data) for name, data in files.items()}
    data = msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(manifest, files=listed)), indent=1)
    signature = key.sign(statement(data))
    bundle = Bundle(msgspec.structs.replace(manifest, files=listed), data, signature, dict(files))
    if folder.exists():
        raise ModelRefused(f"{folder}: exists already; name another folder, or remove it")
    place(folder, bundle)
    return bundle


def place(folder: Path, bundle: Bundle) -> None:
    """The bundle as a folder, synced before it gets its name."""
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)  # half a folder of a process that was killed
    temporary.mkdir(parents=True)
    for name, content in {**bundle.files, MANIFEST: bundle.data, SIGNATURE: bundle.signature}.items():
        with (temporary / name).open("wb") as file:
            file.write(content)
            file.flush()
            sync(file.fileno(), temporary / name)
    sync_folder(temporary)
    temporary.rename(folder)
    sync_folder(folder.parent)


def read(folder: Path, federation: str, signers: Mapping[str, Ed25519PublicKey]) -> Bundle:
    """The folder's content once signature, federation and digests are proved; nothing of it is parsed before the signature.

    signers: whose models are taken, by the manifest's `signer`. `BadSignature` for a wrong or foreign signature,
    `IdentityError` for another federation, `ModelRefused` for files that are missing, changed, or not as the manifest says.
    """
    data, signature = _content(folder / MANIFEST, MANIFEST_LIMIT), _content(folder / SIGNATURE, 64)
    signer = _proved(folder, data, signature, signers)
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelRefused(
            f"{folder / MANIFEST}: signed, but no manifest of version {VERSION}: {error}; install a newer edgehold, or ask for "
            "another export"
        ) from None
    if manifest.signer != signer:
        raise BadSignature(
            f"{folder}: its manifest names {manifest.signer!r} as signer, but the signature is that of {signer!r}"
        )
    if manifest.federation != federation:
        raise IdentityError(
            f"{folder}: a model of federation {manifest.federation[:64]!r}; this device is of {federation!r}. Take one that "
            "your own federation exported"
        )
    if manifest.model not in manifest.files:
        raise ModelRefused(f"{folder}: its manifest lists {sorted(manifest.files)}, and no {manifest.model}")
    return Bundle(manifest, data, signature, {name: _listed(folder, name, one) for name, one in manifest.files.items()})


def _proved(folder: Path, data: bytes, signature: bytes, signers: Mapping[str, Ed25519PublicKey]) -> str:
    for name, key in signers.items():
        try:
            key.verify(signature, statement(data))
        except InvalidSignature:
            continue
        return name
    raise BadSignature(
        f"{folder}: {MANIFEST} is not signed by {' or '.join(signers)}: it was changed, or comes from another federation; get "
        "it again from your operator"
    )


def _listed(folder: Path, name: str, said: File) -> bytes:
    if not _NAME.fullmatch(name):
        raise ModelRefused(f"{folder}: its manifest lists the file {name[:64]!r}, which is no name of a file handed over")
    content = _content(folder / name, said.bytes)
    found = entry(content)
    if found != said:
        raise ModelRefused(
            f"{folder / name}: {found.bytes} bytes with SHA-256 {found.sha256[:16]}...; the manifest says {said.bytes} bytes "
            f"with {said.sha256[:16]}...: get it again"
        )
    return content


def _content(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise ModelRefused(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(content) > limit:
        raise ModelRefused(f"{path}: more than the {limit} bytes that are expected")
    return content


def differ(check: Check, outputs: Array) -> float:
    """The largest difference between these outputs and what the manifest says; infinite where shapes or values do not fit."""
    said = np.array(check.outputs, dtype=np.float64)
    found = np.asarray(outputs, dtype=np.float64).reshape(len(outputs), -1)
    if said.shape != found.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(said - found).max(initial=0.0))
