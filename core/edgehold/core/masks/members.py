"""Whether an advert is a client's of this federation: chain, names, key, signature, attempt."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from edgehold.core.errors import IdentityError
from edgehold.core.identity import MALFORMED, identity_of
from edgehold.core.keys import fingerprint
from edgehold.core.masks import sealing
from edgehold.core.masks.messages import Advert
from edgehold.core.masks.terms import Terms

Sign: TypeAlias = Callable[[bytes], bytes]
"""Bytes -> their Ed25519 signature (64 bytes)."""


def fault(advert: Advert, terms: Terms, roots: Sequence[x509.Certificate], now_s: float) -> tuple[str, str]:
    """One word and a sentence for what is wrong with an advert; two empty ones where nothing is. now_s: since 1970."""
    who = repr(advert.client[:64])
    if advert.transcript != terms.transcript:
        return "unequal_transcripts", f"the advert of {who} is for another attempt, model or plan than this one"
    if any(len(part) != 32 for part in (advert.mask_key, advert.seal_key, advert.seed_commitment, advert.signing_key)):
        return "malformed_advert", f"the advert of {who} has keys that are not 32 bytes long"
    try:
        certificate = x509.load_der_x509_certificate(advert.certificate)
        if not any(_issued(certificate, root) for root in roots):
            return "forged_certificate", f"the certificate of {who} is not signed by a root of this federation"
        identity = identity_of(certificate.public_bytes(Encoding.PEM))
    except (ValueError, *MALFORMED):
        return "forged_certificate", f"the certificate of {who} is not one"
    except IdentityError as error:
        return "forged_certificate", f"the certificate of {who}: {error.message}"
    now = datetime.fromtimestamp(now_s, UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        return "expired_certificate", f"the certificate of {who} is not valid now; its holder must renew it"
    if (identity.federation, identity.role, identity.name) != (terms.federation, "client", advert.client):
        return "foreign_certificate", f"the certificate beside {who} is that of {identity.uri}"
    if fingerprint(advert.signing_key) != identity.signing_fingerprint:
        return "foreign_key", f"the signing key beside {who} is not the one its certificate names"
    try:
        Ed25519PublicKey.from_public_bytes(advert.signing_key).verify(advert.signature, advert.signing_input())
    except (InvalidSignature, ValueError):
        return "forged_signature", f"the advert of {who} is not signed by its client"
    if any(_low_order(key) for key in (advert.mask_key, advert.seal_key)):
        return "weak_key", f"the advert of {who} has a key with which everybody shares the same secret"
    return "", ""


def _issued(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


_ANYBODY = sealing.loaded(bytes(range(32)))
"""Whose key does not matter: a public key of low order leaves no secret with any."""


def _low_order(public: bytes) -> bool:
    try:
        sealing.agreed(_ANYBODY, public)
    except ValueError:
        return True
    return False
