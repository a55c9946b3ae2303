"""Who a certificate belongs to. The URI in its subject alternative name is the only identity there is.

edgehold://FEDERATION/client/NAME      a device
edgehold://FEDERATION/server/NAME      the server
edgehold://FEDERATION/operator/NAME    somebody who may administer the server
"""

from dataclasses import dataclass
from typing import Literal, cast, get_args

from cryptography import x509

from edgehold.core.errors import IdentityError

Role = Literal["client", "server", "operator"]

SIGNING_KEY_OID = x509.ObjectIdentifier("1.3.6.1.4.1.58270.1.1")
"""Certificate extension with the SHA-256 of the holder's Ed25519 signing key (32 bytes)."""

BACKDATE_S = 300.0
"""Certificates start this long before they are issued, so that a device whose clock is a little behind accepts them."""

MALFORMED = (x509.InvalidVersion, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
"""What `cryptography` raises beside ValueError for a certificate that is not what it should be."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a verified certificate says of its holder. Times are seconds since 1970, UTC.

    issued_s: start of validity, BACKDATE_S before the certificate was issued.
    """

    federation: str
    role: Role
    name: str
    signing_fingerprint: bytes
    issued_s: float
    expires_s: float

    @property
    def uri(self) -> str:
        """The subject alternative name."""
        return f"edgehold://{self.federation}/{self.role}/{self.name}"


def peer_host(federation: str, client: str) -> str:
    """The DNS name in a client's certificate by which its peers know it, wherever it listens.

    Below `.invalid`, which no real host can have (RFC 2606): a client's certificate never passes for a server's.
    """
    return f"{client}.client.{federation}.invalid"


def identity_of(certificate_pem: bytes) -> Identity:
    """The identity in a PEM certificate whose chain is already verified; `IdentityError` when it carries none of ours."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        scheme, _, rest = uri.partition("://")
        federation, role, name = rest.split("/")
        if scheme != "edgehold" or role not in get_args(Role):
            raise ValueError(uri)
        extension = certificate.extensions.get_extension_for_oid(SIGNING_KEY_OID).value
        fingerprint = cast(x509.UnrecognizedExtension, extension).value
    except (ValueError, *MALFORMED):
        raise IdentityError("the certificate names nobody of this federation") from None
    return Identity(
        federation,
        cast(Role, role),
        name,
        fingerprint,
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )
