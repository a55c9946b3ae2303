"""Keys and the files they lie in: 0600 and ours or refused, replaced whole, never seen half-written.

Ed25519 keys sign statements; ECDSA P-256 keys speak TLS. A bundle is what an operator hands to a device: one line of text.
"""

import base64
import binascii
import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgehold.core.errors import ConfigError, IdentityError, JournalError
from edgehold.core.files import sync_folder
from edgehold.core.manifest import signing_input
from edgehold.core.plan import Name

POINTER = "current"
"""File in a versioned folder that names the subfolder in force."""

_VERSION = re.compile(r"v-[0-9a-f]{16}")


def read_private(path: Path) -> bytes:
    """A key file's bytes; `IdentityError` when it is missing, not ours, or open to group or others."""
    try:
        return _read_private(path)
    except FileNotFoundError:
        raise IdentityError(f"{path}: no such key file") from None


def write_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put `data` at `path`, owned by the process user with exactly `mode`, synced; readers see the old file or the new one.

    `JournalError` when the disk does not take it.
    """
    # A hidden name of its own: the file is never visible under `path` with missing bytes or a wider mode.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            _create(temporary, data, mode)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise JournalError(f"{path}: cannot be written: {error.strerror}") from None


def save_version(folder: Path, files: Mapping[str, tuple[bytes, int]]) -> None:
    """Replace all files of a versioned folder at once. files: name -> (bytes, mode). `JournalError` when the disk refuses.

    A key and its certificate lie in two files, and no file system renames two files in one step. So each generation gets a
    subfolder of its own, and one rename of the pointer puts it in force: killed before it, the old pair is still whole;
    killed after it, the new one is. Older generations are removed, so that no retired key stays on disk.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # One writer at a time: removing older generations must not hit one that is being written.
            fcntl.flock(handle, fcntl.LOCK_EX)
            version = folder / f"v-{secrets.token_hex(8)}"
            version.mkdir(mode=0o700)
            for name, (data, mode) in files.items():
                _create(version / name, data, mode)
            sync_folder(version)
            write_file(folder / POINTER, version.name.encode(), 0o644)
            for old in folder.iterdir():
                if _VERSION.fullmatch(old.name) and old != version:
                    shutil.rmtree(old)
        finally:
            os.close(handle)
    except OSError as error:
        raise JournalError(f"{folder}: cannot be written: {error.strerror}") from None


def load_version(folder: Path, private: Iterable[str], public: Iterable[str]) -> dict[str, bytes]:
    """Files of the generation in force, by name, all of the same generation.

    private: names that must pass `read_private`. `IdentityError` when there is no complete generation.
    """
    private, public = tuple(private), tuple(public)
    seen = None
    while True:
        try:
            version = (folder / POINTER).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            raise IdentityError(f"{folder}: holds no identity; enrol first") from None
        if not _VERSION.fullmatch(version):
            raise IdentityError(f"{folder / POINTER}: damaged; enrol again")
        try:
            found = {name: _read_private(folder / version / name) for name in private}
            return found | {name: (folder / version / name).read_bytes() for name in public}
        except FileNotFoundError as error:
            # A writer may have replaced the generation since the pointer was read; look again if it points elsewhere now.
            if version == seen:
                raise IdentityError(f"{error.filename}: missing; enrol again") from None
            seen = version


def new_tls_key() -> ec.EllipticCurvePrivateKey:
    """A fresh ECDSA P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    """A private key as PEM PKCS8, not encrypted: the file's mode protects it."""
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def tls_key(pem: bytes, source: str) -> ec.EllipticCurvePrivateKey:
    """The ECDSA P-256 key in PEM PKCS8; `IdentityError` naming `source` when it is none."""
    key = _private_key(pem, source)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not is_p256(key.public_key()):
        raise IdentityError(f"{source}: not an ECDSA P-256 key")
    return key


def signing_key(pem: bytes, source: str) -> Ed25519PrivateKey:
    """The Ed25519 key in PEM PKCS8; `IdentityError` naming `source` when it is none."""
    key = _private_key(pem, source)
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(f"{source}: not an Ed25519 key")
    return key


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The raw public key, 32 bytes."""
    return key.public_key().public_bytes_raw()


def fingerprint(public: bytes) -> bytes:
    """SHA-256 (32 bytes) of a raw Ed25519 public key (32 bytes), or of a certificate's DER."""
    return hashlib.sha256(public).digest()


def is_p256(key: object) -> bool:
    """Whether a public key is an ECDSA key on P-256."""
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)


def make_csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A PKCS#10 request (DER) that proves possession of `key` and names nobody: the authority decides whose it is."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def enrol_statement(root_fingerprint: bytes, client_id: str, csr: bytes) -> bytes:
    """What a device signs with its Ed25519 key to enrol. root_fingerprint: 32 bytes; csr: DER."""
    return signing_input("enrol v1", [root_fingerprint, client_id, csr])


@dataclass(frozen=True, slots=True)
class Bundle:
    """All a device needs to enrol; confidential, because it holds the token.

    root: the federation's root certificate, DER; root_fingerprint: hex of its SHA-256, for people to compare.
    Addresses are `host:port`.
    """

    federation: Name
    client_id: Name
    token: str = field(repr=False)
    enrol_address: str
    renew_address: str
    server_address: str
    root_fingerprint: str
    root: bytes = field(repr=False)

    def root_certificate(self) -> x509.Certificate:
        """The root; `ConfigError` when it is not the one the fingerprint names."""
        if fingerprint(self.root).hex() != self.root_fingerprint:
            raise ConfigError(
                f"bundle: the root certificate has fingerprint {fingerprint(self.root).hex()}, "
                f"the bundle names {self.root_fingerprint[:64]!r}; ask the operator for a new bundle"
            )
        try:
            return x509.load_der_x509_certificate(self.root)
        except (ValueError, x509.InvalidVersion):
            raise ConfigError("bundle: the root is not a certificate; ask the operator for a new bundle") from None


_PREFIX = "edgehold1."
_CHECKSUM = 4


def encode_bundle(bundle: Bundle) -> str:
    """The bundle as one line: prefix, then base64url of JSON and the first 4 bytes of its SHA-256 (against typing errors)."""
    data = msgspec.json.encode(bundle)
    return _PREFIX + base64.urlsafe_b64encode(data + fingerprint(data)[:_CHECKSUM]).decode().rstrip("=")


def decode_bundle(text: str) -> Bundle:
    """Inverse of `encode_bundle`; white space anywhere is ignored. `ConfigError` when it is damaged, never quoting it."""
    line = "".join(text.split())
    if not line.startswith(_PREFIX):
        raise ConfigError(f'bundle: {len(line)} characters that do not start with "{_PREFIX}"; paste the whole line')
    body = line.removeprefix(_PREFIX)
    try:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", body):
            raise ValueError("alphabet")
        raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        data, checksum = raw[:-_CHECKSUM], raw[-_CHECKSUM:]
        if fingerprint(data)[:_CHECKSUM] != checksum:
            raise ValueError("checksum")
        bundle = msgspec.json.decode(data, type=Bundle)
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        # `from None`: the cause could quote the token.
        raise ConfigError("bundle: damaged or cut short; paste the whole line, or ask the operator for a new one") from None
    bundle.root_certificate()
    return bundle


def _private_key(pem: bytes, source: str) -> object:
    with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm, InternalError):
        return serialization.load_pem_private_key(pem, None)
    raise IdentityError(f"{source}: not a PEM private key")


def _read_private(path: Path) -> bytes:
    try:
        # Opened first and judged by its descriptor, so that nobody can swap the file between the check and the read.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise IdentityError(f"{path}: cannot be read: {error.strerror}; it must be a plain file of mode 0600") from None
    try:
        info = os.fstat(handle)
        mode = stat.S_IMODE(info.st_mode)
        if not stat.S_ISREG(info.st_mode):
            raise IdentityError(f"{path}: not a plain file")
        if info.st_uid != os.geteuid():
            raise IdentityError(
                f"{path}: owned by user {info.st_uid}, but this process runs as {os.geteuid()}; "
                f"run `chown {os.geteuid()} {path}` or start as its owner"
            )
        if mode & 0o077:
            raise IdentityError(f"{path}: mode {mode:04o} lets others at a private key; run `chmod 600 {path}`")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(handle)


def _create(path: Path, data: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode & 0o700)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(handle, mode)
        os.fsync(handle)
