"""How a device gets its identity and keeps it fresh. Keys are made here and never leave."""

import time
from collections.abc import Callable
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgehold.client.identity import Credentials, assemble, channel, save
from edgehold.core import keys
from edgehold.core.errors import IdentityError, TransferError
from edgehold.core.identity import peer_host
from edgehold.proto.channel import Stub, client_options
from edgehold.proto.v1 import enrolment_pb2 as pb

_ENROLMENT = pb.DESCRIPTOR.services_by_name["EnrolmentService"]
_RENEWAL = pb.DESCRIPTOR.services_by_name["RenewalService"]

JITTER_SHARE = 1 / 12
"""Renewals spread over this share of a certificate's life: two hours of a day."""


async def enrol(bundle: keys.Bundle, folder: Path, now: Callable[[], float] = time.time) -> Credentials:
    """Make keys, trade the bundle's token for a certificate, check it, save it in `folder`.

    `ConfigError`: the bundle is damaged. `IdentityError`: the token was not accepted, the listener does not belong to the
    federation in the bundle, or it answered with something that is not ours. `Busy`, `TransferError`: try again later.
    """
    root = bundle.root_certificate()
    signing_key = Ed25519PrivateKey.generate()
    tls_key = keys.new_tls_key()
    csr = keys.make_csr(tls_key)
    request = pb.EnrolRequest(
        client_id=bundle.client_id,
        token=bundle.token,
        csr=csr,
        signing_key=keys.public_bytes(signing_key),
        signing_proof=signing_key.sign(keys.enrol_statement(bytes.fromhex(bundle.root_fingerprint), bundle.client_id, csr)),
    )
    # The only root trusted here is the one in the bundle: the token goes to nobody else.
    tls = grpc.ssl_channel_credentials(root.public_bytes(Encoding.PEM))
    async with grpc.aio.secure_channel(bundle.enrol_address, tls, options=client_options()) as link:
        try:
            reply = await Stub(link, _ENROLMENT).unary("Enrol", request, pb.EnrolResponse)
        except TransferError as error:
            if "CERTIFICATE_VERIFY_FAILED" in error.message:
                raise IdentityError(
                    f"{bundle.enrol_address} does not show a certificate of federation {bundle.federation} (root "
                    f"{bundle.root_fingerprint}); the token was not sent; check the address or ask for a new bundle"
                ) from None
            if "Hostname Verification" in error.message:
                raise IdentityError(
                    f"{bundle.enrol_address} shows a certificate of federation {bundle.federation} for other host names; "
                    "use an address the server is configured with, or have the operator add this one"
                ) from None
            raise
    given = reply.credentials
    roots = _roots(given.roots)
    if root not in roots:
        raise IdentityError("the reply does not trust the federation's root in the bundle")
    credentials = assemble(
        server_address=bundle.server_address,
        renew_address=bundle.renew_address,
        key_pem=keys.key_pem(tls_key),
        chain_pem=given.certificate_chain,
        roots_pem=given.roots,
        signing_key=signing_key,
        server_signing_key=given.server_signing_key,
    )
    _check(credentials, [root], bundle.federation, bundle.client_id, now())
    save(credentials, folder)
    return credentials


async def renew(credentials: Credentials, folder: Path, now: Callable[[], float] = time.time) -> Credentials:
    """Trade the certificate for a fresh one with a new TLS key and the same signing key; save it in `folder`.

    `IdentityError`: the roster refuses, or the reply is not ours. `Busy`, `TransferError`: try again before it expires.
    """
    tls_key = keys.new_tls_key()
    request = pb.RenewRequest(csr=keys.make_csr(tls_key))
    async with channel(credentials, credentials.renew_address) as link:
        try:
            reply = await Stub(link, _RENEWAL).unary("Renew", request, pb.RenewResponse)
        except TransferError:
            # A server that refuses an expired certificate just hangs up; asked first, because our clock may be the wrong one.
            if credentials.expires_s <= now():
                raise IdentityError("the certificate has expired; enrol again with a new token") from None
            raise
    given = reply.credentials
    # Sent by a listener that a root we already trust vouches for, so it may name new roots.
    renewed = assemble(
        server_address=credentials.server_address,
        renew_address=credentials.renew_address,
        key_pem=keys.key_pem(tls_key),
        chain_pem=given.certificate_chain,
        roots_pem=given.roots,
        signing_key=credentials.signing_key,
        server_signing_key=given.server_signing_key,
    )
    _check(renewed, _roots(given.roots), credentials.federation, credentials.client_id, now())
    save(renewed, folder)
    return renewed


def renew_at(credentials: Credentials, jitter: float) -> float:
    """When to renew, in seconds since 1970: two thirds of life, later by `jitter` (0 to 1) of a twelfth of life.

    jitter: drawn anew for every renewal, so that a fleet enrolled at once does not renew at once.
    """
    life = credentials.expires_s - credentials.issued_s
    return credentials.issued_s + life * (2 / 3 + JITTER_SHARE * jitter)


def _roots(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise IdentityError("the reply holds no root certificates") from None


def _check(credentials: Credentials, roots: list[x509.Certificate], federation: str, client_id: str, now: float) -> None:
    """Pass when the certificate comes from one of the roots, is for us and not yet over; else `IdentityError`."""
    if (credentials.federation, credentials.client_id) != (federation, client_id):
        raise IdentityError(
            f"the certificate is for client {credentials.client_id!r} of {credentials.federation!r}; "
            f"expected {client_id!r} of {federation!r}"
        )
    certificate = x509.load_pem_x509_certificate(credentials.chain_pem)
    if not any(_issued_by(certificate, root) for root in roots):
        raise IdentityError("the certificate does not come from a trusted root")
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        raise IdentityError("the certificate does not say what it is for; client use is expected") from None
    if list(usage) != [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]:
        raise IdentityError("the certificate is for another use than a client's: calling, and being read by peers")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if names.get_values_for_type(x509.DNSName) != [peer_host(federation, client_id)]:
        raise IdentityError("the certificate names other hosts than a client's certificate does")
    # Its start is not compared: only the server judges this certificate, by its own clock.
    if credentials.expires_s <= now:
        raise IdentityError(f"the certificate expired {now - credentials.expires_s:.0f} s ago by this device's clock; set it")


def _issued_by(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
