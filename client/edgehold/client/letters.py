"""Is this letter what its sender signed, and what the order lists? Pure checks of what peers or the server bring.

A letter is a peer's whole update of the round before. Three authorities must agree on it: the enrolment authority, whose
certificate says whose the signing key is; the sender, who signed a manifest; the server, whose signed order lists the digest.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edgehold.core.contract import HEADER_LIMIT
from edgehold.core.errors import BadSignature, Corrupted, EquivocationError, IdentityError, Stale, TooLarge, WrongShape
from edgehold.core.identity import MALFORMED, Identity, identity_of
from edgehold.core.keys import fingerprint
from edgehold.core.manifest import SUPPORTED_VERSIONS, UploadStatement
from edgehold.proto.statements import statement_of
from edgehold.proto.strict import exactly
from edgehold.proto.v1.mailbox_pb2 import Letterhead

CERTIFICATE_LIMIT = 8 << 10
"""Bytes a sender's certificate may have, PEM."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A letterhead whose signature holds. issued_s: of the certificate, seconds since 1970."""

    head: Letterhead
    statement: UploadStatement
    key: bytes
    issued_s: float


@dataclass(frozen=True, slots=True)
class Expected:
    """What a device knows of the letters of a round before it has one.

    round: the one they were sent in; kind: the codec's; bytes_: shortest and longest legal body; longest: what the device's
    owner lets in; listing: sender -> digest; roots: trusted roots, PEM.
    """

    federation: str
    plan_digest: bytes
    run: str
    round: int
    kind: str
    bytes_: tuple[int, int]
    longest: int
    listing: Mapping[str, bytes]
    roots: bytes = field(repr=False)

    def fits(self, sender: str, statement: UploadStatement) -> None:
        """Return if the statement is about the letter that the order lists for the sender; else the refusal that says why."""
        where = f"the letter of {sender!r}"
        if statement.protocol_version not in SUPPORTED_VERSIONS:
            raise Stale(f"{where} is of protocol version {statement.protocol_version}", supported_versions=SUPPORTED_VERSIONS)
        if (statement.run, statement.round, statement.plan_digest) != (self.run, self.round, self.plan_digest):
            raise Stale(
                f"{where} was sent to round {statement.round} of run {statement.run!r}; expected round {self.round} of "
                f"{self.run!r} under this plan"
            )
        if statement.payload_kind != self.kind:
            raise WrongShape(f"{where} is of kind {statement.payload_kind!r}; expected {self.kind!r}")
        least, most = self.bytes_
        limit = min(self.longest, 4 + HEADER_LIMIT + most)
        if statement.payload_length > limit:
            raise TooLarge(f"{where} has {statement.payload_length} bytes; at most {limit} are accepted")
        if statement.payload_length < 4 + least:
            raise WrongShape(f"{where} has {statement.payload_length} bytes; expected a body of {least} and its header")
        if statement.payload_digest != self.listing[sender]:
            raise EquivocationError(
                f"{where}: signed is {statement.payload_digest.hex()[:16]}, the order lists {self.listing[sender].hex()[:16]}"
            )


def signed(head: Letterhead, sender: str, federation: str, roots_pem: bytes) -> Signed:
    """The letterhead as a statement of this sender, whatever it says; `IdentityError` or `BadSignature` when it is not."""
    statement, key = statement_of(head.manifest), exactly(head.signing_key, 32, "signing key")
    exactly(head.signature, 64, "signature")
    if (statement.client_id, statement.federation) != (sender, federation):
        raise IdentityError(
            f"a letter of {statement.client_id!r} of {statement.federation!r}; expected one of {sender!r} of {federation!r}"
        )
    identity = _vouched(head.certificate, roots_pem)
    if (identity.federation, identity.role, identity.name) != (federation, "client", sender):
        raise IdentityError(f"the letter of {sender!r} comes with the certificate of {identity.uri}")
    if identity.signing_fingerprint != fingerprint(key):
        raise IdentityError(f"the certificate of {sender!r} names another signing key than its letter")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(head.signature, statement.signing_input())
    except InvalidSignature:
        raise BadSignature(f"the letter of {sender!r} is not signed by the key in its certificate") from None
    return Signed(head, statement, key, identity.issued_s)


def _vouched(certificate_pem: bytes, roots_pem: bytes) -> Identity:
    """Whose certificate it is, if one of the roots issued it. Its end is not asked: a signature outlives it."""
    if len(certificate_pem) > CERTIFICATE_LIMIT:
        raise TooLarge(f"a certificate of {len(certificate_pem)} bytes; at most {CERTIFICATE_LIMIT} are accepted")
    identity = identity_of(certificate_pem)
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        for root in x509.load_pem_x509_certificates(roots_pem):
            try:
                certificate.verify_directly_issued_by(root)
                return identity
            except (ValueError, TypeError, InvalidSignature):
                continue
    except (ValueError, *MALFORMED):
        pass
    raise IdentityError(f"the certificate of {identity.uri} does not come from a root that this device trusts")


def two_words(one: UploadStatement, other: UploadStatement) -> bool:
    """Whether a sender signed two different payloads for one task: proof that it lies, whoever shows it."""
    same = one._replace(
        payload_kind=other.payload_kind, payload_length=other.payload_length, payload_digest=other.payload_digest
    )
    return same == other and one.payload_digest != other.payload_digest


class Incoming:
    """One letter as its bytes come in. data: what is here; the head must be judged before the first byte is taken."""

    def __init__(self, found: Signed) -> None:
        self.found = found
        self.data = bytearray()

    @property
    def whole(self) -> bool:
        """Whether every declared byte is here."""
        return len(self.data) == self.found.statement.payload_length

    def take(self, offset: int, data: bytes) -> None:
        """The next bytes; `WrongShape` when they do not follow, `Corrupted` when the last ones do not fit the digest."""
        said = self.found.statement
        if offset != len(self.data) or offset + len(data) > said.payload_length or (not data and not self.whole):
            raise WrongShape(
                f"{len(data)} bytes at {offset} of the letter of {said.client_id!r}; expected some at {len(self.data)}, and "
                f"{said.payload_length} in all"
            )
        self.data += data
        if self.whole and hashlib.sha256(self.data).digest() != said.payload_digest:
            raise Corrupted(f"the letter of {said.client_id!r} has other bytes than its sender signed")
