"""The listing of an order as bytes: who sent what in the round before. Its digest is what devices hold against each other.

Count of senders in 4 bytes, then for each sender, in ascending order, the length of its id in one byte, the id, and the SHA-256
of its update as it travelled.
"""

import hashlib
from collections.abc import Mapping

from edgehold.core.errors import OutsideLaw, WrongShape
from edgehold.core.vectors import Blob

DIGEST = 32
SENDERS_LIMIT = 100_000


def encode(listing: Mapping[str, bytes]) -> bytes:
    """The bytes. listing: in any order."""
    parts = [len(listing).to_bytes(4, "little")]
    for sender in sorted(listing):
        name = sender.encode()
        parts += [bytes([len(name)]), name, listing[sender]]
    return b"".join(parts)


def digest_of(listing: Mapping[str, bytes]) -> bytes:
    """SHA-256 of the bytes."""
    return hashlib.sha256(encode(listing)).digest()


NOBODY = digest_of({})
"""Digest of the listing of a first round."""


def decode(blob: Blob) -> tuple[dict[str, bytes], int]:
    """(listing in ascending order, bytes read), from the start of the blob; `WrongShape` or `OutsideLaw` says what is wrong."""
    data = bytes(blob.read(0, blob.size))
    count, at = int.from_bytes(data[:4], "little"), 4
    if len(data) < 4 or count > SENDERS_LIMIT:
        raise WrongShape(f"a listing of {count} senders in {len(data)} bytes; at most {SENDERS_LIMIT} are listed")
    listing: dict[str, bytes] = {}
    last = ""
    for _ in range(count):
        length = data[at] if at < len(data) else 0
        end = at + 1 + length + DIGEST
        if not length or end > len(data):
            raise WrongShape(f"sender {len(listing) + 1} of {count} has no id, or the listing ends before its digest")
        try:
            sender = data[at + 1 : at + 1 + length].decode()
        except UnicodeDecodeError:
            raise OutsideLaw(f"the id of sender {len(listing) + 1} is no UTF-8") from None
        if sender <= last:
            raise OutsideLaw(f"sender {sender!r} is listed after {last!r}; ids must ascend")
        listing[sender], last, at = data[end - DIGEST : end], sender, end
    return listing, at
