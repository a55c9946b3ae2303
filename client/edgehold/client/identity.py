"""Who this device is: keys and certificate in a folder, and the channels they open.

The folder is versioned (`edgehold.core.keys.save_version`): tls.key, tls.pem, roots.pem, signing.key and federation.json of
one generation are replaced together, so a device killed at any moment starts again with a key that fits its certificate.
"""

from dataclasses import dataclass, field
from pathlib import Path

import grpc
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edgehold.core import keys
from edgehold.core.errors import IdentityError
from edgehold.core.identity import BACKDATE_S, identity_of, peer_host
from edgehold.proto.channel import client_options


@dataclass(frozen=True, slots=True)
class Credentials:
    """A device's identity. issued_s, expires_s: of the certificate, seconds since 1970. Addresses are `host:port`."""

    client_id: str
    federation: str
    server_address: str
    renew_address: str
    key_pem: bytes = field(repr=False)
    chain_pem: bytes = field(repr=False)
    roots_pem: bytes = field(repr=False)
    signing_key: Ed25519PrivateKey = field(repr=False)
    server_signing_key: Ed25519PublicKey = field(repr=False)
    expires_s: float
    issued_s: float


class _Federation(msgspec.Struct, frozen=True):
    """federation.json; server_signing_key in hex."""

    federation: str
    server_address: str
    renew_address: str
    server_signing_key: str


def assemble(
    *,
    server_address: str,
    renew_address: str,
    key_pem: bytes,
    chain_pem: bytes,
    roots_pem: bytes,
    signing_key: Ed25519PrivateKey,
    server_signing_key: bytes,
) -> Credentials:
    """Credentials from their parts; `IdentityError` when key, certificate and signing key do not belong together.

    server_signing_key: raw, 32 bytes. That the chain leads to a root is checked where it arrives, not here.
    """
    identity = identity_of(chain_pem)
    certificate = x509.load_pem_x509_certificate(chain_pem)
    if identity.role != "client":
        raise IdentityError(f"{identity.uri} is not a client's certificate")
    if certificate.public_key() != keys.tls_key(key_pem, "tls.key").public_key():
        raise IdentityError("the certificate is for another TLS key than the device's")
    if identity.signing_fingerprint != keys.fingerprint(keys.public_bytes(signing_key)):
        raise IdentityError("the certificate names another signing key than the device's")
    try:
        server_key = Ed25519PublicKey.from_public_bytes(server_signing_key)
    except ValueError:
        raise IdentityError(f"server signing key of {len(server_signing_key)} bytes; 32 are expected") from None
    return Credentials(
        client_id=identity.name,
        federation=identity.federation,
        server_address=server_address,
        renew_address=renew_address,
        key_pem=key_pem,
        chain_pem=chain_pem,
        roots_pem=roots_pem,
        signing_key=signing_key,
        server_signing_key=server_key,
        expires_s=identity.expires_s,
        issued_s=identity.issued_s + BACKDATE_S,
    )


def save(credentials: Credentials, folder: Path) -> None:
    """Replace the identity in `folder`, all or nothing; `JournalError` when the disk refuses."""
    about = _Federation(
        credentials.federation,
        credentials.server_address,
        credentials.renew_address,
        credentials.server_signing_key.public_bytes_raw().hex(),
    )
    keys.save_version(
        folder,
        {
            "tls.key": (credentials.key_pem, 0o600),
            "tls.pem": (credentials.chain_pem, 0o644),
            "roots.pem": (credentials.roots_pem, 0o644),
            "signing.key": (keys.key_pem(credentials.signing_key), 0o600),
            "federation.json": (msgspec.json.encode(about), 0o644),
        },
    )


def load(folder: Path) -> Credentials:
    """The identity in `folder`; `IdentityError` when there is none, it is damaged, or a key file is open to others.

    An expired certificate loads: the caller decides whether to enrol again.
    """
    found = keys.load_version(folder, ["tls.key", "signing.key"], ["tls.pem", "roots.pem", "federation.json"])
    try:
        about = msgspec.json.decode(found["federation.json"], type=_Federation)
        server_signing_key = bytes.fromhex(about.server_signing_key)
    except ValueError:
        raise IdentityError(f"{folder}: federation.json is damaged; enrol again") from None
    try:
        return assemble(
            server_address=about.server_address,
            renew_address=about.renew_address,
            key_pem=found["tls.key"],
            chain_pem=found["tls.pem"],
            roots_pem=found["roots.pem"],
            signing_key=keys.signing_key(found["signing.key"], "signing.key"),
            server_signing_key=server_signing_key,
        )
    except IdentityError as error:
        raise IdentityError(f"{folder}: {error.message}; enrol again") from None


def channel(credentials: Credentials, address: str, peer: str | None = None) -> grpc.aio.Channel:
    """A mutual TLS channel to `address` (host:port), one connection of its own. Close it.

    peer: the client that must answer there, by its certificate, whatever the address; None for the server.
    """
    tls = grpc.ssl_channel_credentials(credentials.roots_pem, credentials.key_pem, credentials.chain_pem)
    named = [("grpc.ssl_target_name_override", peer_host(credentials.federation, peer))] if peer is not None else []
    return grpc.aio.secure_channel(address, tls, options=[*client_options(), *named])
