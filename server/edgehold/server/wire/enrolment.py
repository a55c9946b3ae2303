"""How a device becomes a client and stays one: enrolment behind a token, renewal behind the certificate it has.

Two listeners, because enrolment must accept callers without a certificate and renewal must not.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from edgehold.core import keys
from edgehold.core.errors import BadSignature, FlError, IdentityError, JournalError, RejectedUpdate, WrongShape
from edgehold.core.identity import BACKDATE_S, Identity
from edgehold.proto.listen import Tls, peer_identity, server_credentials, server_options, start
from edgehold.proto.rpc import Caller, service
from edgehold.proto.strict import exactly
from edgehold.proto.strict import name as legal_name
from edgehold.proto.v1 import enrolment_pb2 as pb
from edgehold.server.identity.ca import LIFE_S, CertificateAuthority
from edgehold.server.identity.tokens import EventLimit, Issued, Tokens

log = logging.getLogger("edgehold.server.wire.enrolment")

RENEWALS_PER_HOUR = 60
"""Per client; a client needs fewer than two a day."""

_ENROLMENT = pb.DESCRIPTOR.services_by_name["EnrolmentService"]
_RENEWAL = pb.DESCRIPTOR.services_by_name["RenewalService"]


@dataclass(frozen=True, slots=True)
class Issuer:
    """What both listeners share.

    server_signing_key: raw Ed25519 public key (32 bytes) with which the server signs tasks; life_s: of client certificates.
    refused: hears of every refusal (method, caller's name or "-", error). broken: a disk failure, the process must stop.
    """

    authority: CertificateAuthority
    tokens: Tokens
    server_signing_key: bytes
    life_s: float = LIFE_S["client"]
    refused: Callable[[str, str, FlError], None] = field(default=lambda method, name, error: None)
    broken: Callable[[JournalError], None] = field(default=lambda error: None)

    def credentials(self, client: str, key: ec.EllipticCurvePublicKey, signing_fingerprint: bytes) -> pb.Credentials:
        """A recorded certificate and what goes with it. Blocks on the disk."""
        certificate = self.authority.issue("client", client, key, signing_fingerprint, life_s=self.life_s)
        start, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        self.tokens.record(Issued(f"{certificate.serial_number:x}", client, start + BACKDATE_S, end))
        return pb.Credentials(
            certificate_chain=certificate.public_bytes(Encoding.PEM),
            roots=self.authority.trusted_pem(),
            federation=self.authority.federation,
            server_signing_key=self.server_signing_key,
        )


class Enrolment:
    """EnrolmentService: no caller is known yet; the token decides, and only after everything else is in order."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    async def enrol(self, request: pb.EnrolRequest, caller: Caller) -> pb.EnrolResponse:
        """A first certificate. `WrongShape`, `BadSignature`, `IdentityError` for the token, `Busy` after too many failures."""
        return pb.EnrolResponse(credentials=await asyncio.to_thread(self._enrol, request, caller.peer))

    def _enrol(self, request: pb.EnrolRequest, peer: str) -> pb.Credentials:
        client = legal_name(request.client_id, "client_id")
        signing_key = exactly(request.signing_key, 32, "signing_key")
        key = csr_key(request.csr)
        roots = [keys.fingerprint(root.public_bytes(Encoding.DER)) for root in self._issuer.authority.roots()]
        _check_proof(signing_key, request.signing_proof, [keys.enrol_statement(root, client, request.csr) for root in roots])
        # Last, so that no mistake of an honest device burns its token.
        self._issuer.tokens.redeem(request.token, client, peer)
        credentials = self._issuer.credentials(client, key, keys.fingerprint(signing_key))
        log.info("enrolled client %s from %s", client, peer)
        return credentials

    def admit(self, context: grpc.aio.ServicerContext[Any, Any], method: str) -> Caller:
        """Anybody, without a name."""
        return Caller(None, context.peer(), context)

    def refused(self, caller: Caller | None, method: str, error: FlError) -> None:
        """Log and pass on a refusal."""
        _refused(self._issuer, caller, method, error)

    def broken(self, error: JournalError) -> None:
        """Pass on a disk failure."""
        self._issuer.broken(error)


class Renewal:
    """RenewalService: a client of this federation exchanges its certificate for a fresh one with a new TLS key.

    may_renew: the roster's say, `IdentityError` to refuse; called on the event loop for every call.
    """

    def __init__(self, issuer: Issuer, may_renew: Callable[[Identity], object]) -> None:
        self._issuer = issuer
        self._may_renew = may_renew
        self._limit = EventLimit(RENEWALS_PER_HOUR, 1_000_000, 3600.0, issuer.authority.now)

    async def renew(self, request: pb.RenewRequest, caller: Caller) -> pb.RenewResponse:
        """A fresh certificate for the caller; name and signing key are those of the presented one, whatever it asks for."""
        identity = caller.identity
        assert identity is not None  # admit saw to it
        self._limit.check(identity.name)
        key = csr_key(request.csr)
        (presented,) = caller.context.auth_context()["x509_pem_cert"]
        if key == x509.load_pem_x509_certificate(presented).public_key():
            raise WrongShape("the request holds the TLS key already in use; make a new key for every renewal")
        self._limit.count(identity.name)
        credentials = await asyncio.to_thread(self._issuer.credentials, identity.name, key, identity.signing_fingerprint)
        log.info("renewed client %s", identity.name)
        return pb.RenewResponse(credentials=credentials)

    def admit(self, context: grpc.aio.ServicerContext[Any, Any], method: str) -> Caller:
        """The client whose certificate the handshake verified, if the roster lets it renew."""
        identity = peer_identity(context)
        caller = Caller(identity, context.peer(), context)
        try:
            if identity.federation != self._issuer.authority.federation or identity.role != "client":
                raise IdentityError(f"{identity.uri} is no client of federation {self._issuer.authority.federation}")
            # The handshake checked this once; a connection may outlive its certificate.
            if identity.expires_s <= self._issuer.authority.now():
                raise IdentityError("the certificate has expired; enrol again with a new token")
            self._may_renew(identity)
        except FlError as error:
            # Reported here, where the name is known; the service layer knows a caller only once it is admitted.
            _refused(self._issuer, caller, method, error)
            raise
        return caller

    def refused(self, caller: Caller | None, method: str, error: FlError) -> None:
        """Log and pass on a refusal; those of `admit` are reported already, undecodable requests come without a caller."""
        if caller is not None or isinstance(error, RejectedUpdate):
            _refused(self._issuer, caller, method, error)

    def broken(self, error: JournalError) -> None:
        """Pass on a disk failure."""
        self._issuer.broken(error)


def csr_key(csr: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key a PKCS#10 request (DER) proves possession of; nothing else in it counts.

    `WrongShape` when it does not parse or holds another kind of key, `BadSignature` when that key did not sign it.
    """
    try:
        request = x509.load_der_x509_csr(csr)
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not keys.is_p256(key):
            raise WrongShape("the certificate request holds a key that is not ECDSA P-256")
        signed = request.is_signature_valid
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm, InternalError):
        raise WrongShape(f"a certificate request of {len(csr)} bytes that is no PKCS#10 (DER)") from None
    if not signed:
        raise BadSignature("the certificate request is not signed by the key it holds")
    return key


def own_tls(
    authority: CertificateAuthority, name: str, signing_fingerprint: bytes, hosts: tuple[str, ...]
) -> Callable[[], Tls]:
    """TLS of a listener that runs beside the authority: made in memory, renewed at two thirds of life and after a rotation.

    signing_fingerprint: SHA-256 of the server's signing key. hosts: names and addresses of the listener beside localhost.
    """
    lock = threading.Lock()
    held: tuple[x509.Certificate, float, bytes, bytes] | None = None

    def read() -> Tls:
        nonlocal held
        root = authority.current()
        with lock:
            if held is None or held[0] != root or authority.now() >= held[1]:
                key = keys.new_tls_key()
                certificate = authority.issue("server", name, key.public_key(), signing_fingerprint, hosts=hosts)
                renew_s = authority.now() + LIFE_S["server"] * 2 / 3
                held = (root, renew_s, keys.key_pem(key), certificate.public_bytes(Encoding.PEM))
            return Tls(held[2], held[3], authority.trusted_pem())

    return read


async def start_enrolment(issuer: Issuer, address: str, tls: Callable[[], Tls]) -> tuple[grpc.aio.Server, int]:
    """Listen for devices with tokens. address: host:port, port 0 for any. Returns the server and its port."""
    enrolment = Enrolment(issuer)
    handler = service(_ENROLMENT, enrolment, enrolment)
    return await start([handler], address, server_credentials(tls, client_certificates=False), server_options())


async def start_renewal(
    issuer: Issuer, address: str, tls: Callable[[], Tls], may_renew: Callable[[Identity], object]
) -> tuple[grpc.aio.Server, int]:
    """Listen for clients whose certificate comes to its end; mutual TLS. Returns the server and its port."""
    renewal = Renewal(issuer, may_renew)
    handler = service(_RENEWAL, renewal, renewal)
    return await start([handler], address, server_credentials(tls, client_certificates=True), server_options())


def _check_proof(signing_key: bytes, proof: bytes, statements: list[bytes]) -> None:
    """Pass when `proof` is a signature of `signing_key` over one of the statements (one per trusted root)."""
    key = Ed25519PublicKey.from_public_bytes(signing_key)
    for statement in statements:
        try:
            return key.verify(proof, statement)
        except InvalidSignature:
            continue
    raise BadSignature("signing_proof does not verify; sign root fingerprint, client id and request with the signing key")


def _refused(issuer: Issuer, caller: Caller | None, method: str, error: FlError) -> None:
    name, peer = (caller.name, caller.peer) if caller else ("-", "-")
    # Our own words may quote the sender's: escaped and cut.
    log.warning("refused %s by %s from %s: %s: %.256s", method, name, peer, error.code, ascii(error.message))
    issuer.refused(method, name, error)
