"""What is signed: a label and length-prefixed fields, so that no two statements share their bytes.

Ed25519 over these bytes, by the client for each upload and by the server for each task (security model, section 3).
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

PROTOCOL_VERSION = 1
SUPPORTED_VERSIONS = (1,)


def signing_input(label: str, fields: Sequence[bytes | str | int]) -> bytes:
    """Label and fields, each prefixed with its length (4 bytes little-endian); integers as 8 bytes little-endian."""
    out = bytearray()
    for value in (f"edgehold {label}", *fields):
        data = value.encode() if isinstance(value, str) else value.to_bytes(8, "little") if isinstance(value, int) else value
        out += len(data).to_bytes(4, "little") + data
    return bytes(out)


class UploadStatement(NamedTuple):
    """The twelve fields a client signs before a byte of payload leaves it."""

    protocol_version: int
    federation: str
    plan_digest: bytes
    run: str
    round: int
    attempt: int
    nonce: bytes
    client_id: str
    base_digest: bytes
    payload_kind: str
    payload_length: int
    payload_digest: bytes

    def signing_input(self) -> bytes:
        """Bytes to sign."""
        return signing_input("upload v1", self)

    def digest(self) -> bytes:
        """SHA-256 of the signed bytes: names the upload."""
        return hashlib.sha256(self.signing_input()).digest()


class TaskStatement(NamedTuple):
    """What the server signs when it gives a task: the client can hold it to its word.

    masked: transcript of the terms of the masked sum; empty where updates travel as they are.
    """

    protocol_version: int
    federation: str
    plan_digest: bytes
    run: str
    round: int
    attempt: int
    nonce: bytes
    client_id: str
    base_digest: bytes
    base_length: int
    header_digest: bytes
    roster_digest: bytes
    schema_digest: bytes
    task: str
    method: str
    masked: bytes

    def signing_input(self) -> bytes:
        """Bytes to sign."""
        return signing_input("task v1", self)


def roster_digest(clients: Sequence[str]) -> bytes:
    """SHA-256 over the selected clients in ascending order."""
    return hashlib.sha256(signing_input("roster v1", sorted(clients))).digest()
