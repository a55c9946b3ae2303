"""Strict decoding of messages from outside: size first, then syntax, then nothing we do not know."""

import re
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from edgehold.core.errors import TooLarge, WrongShape

MESSAGE_LIMIT = 4 << 20
CONTROL_LIMIT = 256 << 10
CHUNK_LIMIT = 1 << 20
# A chunk message: the data, a manifest, a signature and their tags.
CHUNK_MESSAGE_LIMIT = CHUNK_LIMIT + 8192
METADATA_LIMIT = 8 << 10
TEXT_LIMIT = 256

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

ADDRESS = re.compile(r"([A-Za-z0-9.-]{1,200}|\[[0-9a-fA-F:.]{2,45}\]):([0-9]{1,5})")

M = TypeVar("M", bound=Message)


def decode(kind: type[M], data: bytes, limit: int = CONTROL_LIMIT) -> M:
    """One message of `kind` from `data`, or the refusal that says what is wrong with it.

    Refused: more than `limit` bytes (TooLarge); bytes that do not parse, text that is not UTF-8, fields we do not
    know, encodings longer than needed (WrongShape). Enums are not used on this wire.
    """
    if len(data) > limit:
        raise TooLarge(f"{kind.DESCRIPTOR.name} of {len(data)} bytes; at most {limit} are accepted")
    try:
        message = kind.FromString(data)
    except (DecodeError, UnicodeDecodeError) as error:
        raise WrongShape(f"{kind.DESCRIPTOR.name}: bytes do not decode ({str(error)[:120]})") from None
    # What we know must account for every byte: unknown fields and padded encodings leave a difference.
    message.DiscardUnknownFields()
    if message.ByteSize() != len(data):
        raise WrongShape(
            f"{kind.DESCRIPTOR.name}: {len(data)} bytes arrived, {message.ByteSize()} of them mean something here; "
            "unknown fields and redundant encodings are refused"
        )
    return message


def name(value: str, what: str) -> str:
    """`value` when it is a legal name (a key, never a path part)."""
    if not NAME.fullmatch(value):
        raise WrongShape(f"{what} {value[:64]!r} is not a name: 1 to 64 of a-z 0-9 _ - starting with a letter or digit")
    return value


def text(value: str, what: str) -> str:
    """`value` when it is at most 256 bytes of UTF-8."""
    size = len(value.encode())
    if size > TEXT_LIMIT:
        raise TooLarge(f"{what} of {size} bytes; at most {TEXT_LIMIT} are accepted")
    return value


def host_port(value: str, what: str) -> str:
    """`value` when it is host:port, with an IPv6 host in brackets and a port from 1 to 65535."""
    found = ADDRESS.fullmatch(value)
    if found is None or not 1 <= int(found[2]) <= 65535:
        raise WrongShape(f"{what} {value[:64]!r} is not host:port")
    return value


def exactly(value: bytes, length: int, what: str) -> bytes:
    """`value` when it has `length` bytes (digests, nonces, keys, signatures)."""
    if len(value) != length:
        raise WrongShape(f"{what} of {len(value)} bytes; expected {length}")
    return value
