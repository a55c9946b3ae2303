"""Keys that two members have in common, and what they seal for each other.

X25519, then HKDF-SHA256 with everything the key is for in its info. A sealing key serves one message in one direction, a mask
key one stream: nonces are zero, and never met twice.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edgehold.core.manifest import signing_input
from edgehold.core.masks import shamir

KEY_BYTES = 32
BOX_BYTES = 2 * shamir.SHARE_BYTES + 16
"""A sealed pair of shares: of the self-seed, of the mask key; tag."""
_NONCE = bytes(12)


def loaded(private: bytes) -> X25519PrivateKey:
    """The key of 32 private bytes. Loading takes as long as agreeing with another: once for all others, not once for each."""
    return X25519PrivateKey.from_private_bytes(private)


def public_of(private: bytes) -> bytes:
    """The X25519 public key of 32 private bytes."""
    return loaded(private).public_key().public_bytes_raw()


def agreed(private: X25519PrivateKey, public: bytes) -> bytes:
    """The shared secret, 32 bytes; `ValueError` for a public key that leaves no secret (of low order)."""
    return private.exchange(X25519PublicKey.from_public_bytes(public))


def derived(secret: bytes, label: str, *bound: bytes | str | int) -> bytes:
    """A 32-byte key for one purpose."""
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=signing_input(f"mask {label} v1", bound)).derive(secret)


def pair_key(private: X25519PrivateKey, public: bytes, transcript: bytes, roster: bytes, one: str, other: str) -> bytes:
    """Mask key of two members, the same from both sides. roster: its digest."""
    return derived(agreed(private, public), "pair key", transcript, roster, *sorted((one, other)))


def self_key(seed: bytes, transcript: bytes, roster: bytes, client: str) -> bytes:
    """Key of the mask that a member puts on for itself."""
    return derived(seed, "self key", transcript, roster, client)


def seal(key: bytes, seed_share: int, mask_share: int) -> bytes:
    """The pair of shares under a `box_key`, `BOX_BYTES` long."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, shamir.encode(seed_share) + shamir.encode(mask_share), None)


def opened(key: bytes, box: bytes) -> tuple[int, int] | None:
    """Inverse of `seal`; None for a box that was sealed for another, in another group or attempt, or changed since.

    `WrongShape` where its sender sealed what are no shares.
    """
    try:
        plain = ChaCha20Poly1305(key).decrypt(_NONCE, box, None)
    except InvalidTag:
        return None
    half = shamir.SHARE_BYTES
    return shamir.decode(plain[:half]), shamir.decode(plain[half:])


def box_key(private: X25519PrivateKey, public: bytes, transcript: bytes, roster: bytes, sender: str, receiver: str) -> bytes:
    """Key of the box that `sender` seals for `receiver`; the AEAD needs no other binding than this key."""
    return derived(agreed(private, public), "box key", transcript, roster, sender, receiver)
