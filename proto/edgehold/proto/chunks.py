"""Messages that end in a chunk: how large it is, put together with one copy of its bytes, taken apart with none."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from edgehold.core.errors import TooLarge, WrongShape
from edgehold.proto.strict import CHUNK_LIMIT, decode

M = TypeVar("M", bound=Message)

_LENGTH_DELIMITED = 2
_SKIPPED = {1: 8, 5: 4}
"""Wire type -> bytes of a field of fixed length."""


@dataclass(frozen=True, slots=True)
class Chunk(Generic[M]):
    """head: the message without its `data`; data: those bytes where they arrived, not copied."""

    head: M
    data: memoryview


def chunk_bytes(whole: int) -> int:
    """How many bytes a sender puts into one message of a transfer of `whole` bytes: about an eighth, 256 KiB to 1 MiB.

    Either end holds a few messages of every stream: with many clients at once, large chunks of a small model would be more than
    their updates. For a large model small ones would take more time. A receiver accepts any chunk up to `CHUNK_LIMIT`.
    """
    largest_power_of_two = 1 << (whole // 8).bit_length() >> 1
    return min(max(largest_power_of_two, CHUNK_LIMIT // 4), CHUNK_LIMIT)


def with_data(message: Message, data: bytes) -> bytes:
    """The serialized message with its last field, `data`, set to these bytes; it must be empty in `message`."""
    if not data:
        return message.SerializeToString()
    return b"".join((message.SerializeToString(), _opening(message, len(data)), data))


def split(kind: type[M], raw: bytes, limit: int) -> Chunk[M]:
    """A message of `kind` from `raw`, its `data` apart. Accepts and refuses exactly what `strict.decode` does, in its words."""
    if len(raw) > limit:
        raise TooLarge(f"{kind.DESCRIPTOR.name} of {len(raw)} bytes; at most {limit} are accepted")
    at = _data_at(kind, raw)
    if at:
        begins, stops = at
        head = decode(kind, raw[:begins], limit)
        # Said twice: what would count is the last, but no honest sender says it twice.
        if head.data:  # type: ignore[attr-defined]
            raise WrongShape(f"{kind.DESCRIPTOR.name}: its data stand there twice; redundant encodings are refused")
        return Chunk(head, memoryview(raw)[stops:])
    # Another order of fields, or what is no message at all: the decoder knows.
    head = decode(kind, raw, limit)
    data = head.data  # type: ignore[attr-defined]
    head.ClearField("data")
    return Chunk(head, memoryview(data))


def _data_at(kind: type[Message], raw: bytes) -> tuple[int, int] | None:
    """Where the field `data` begins and its bytes do, if it is whole, not empty and the message's last."""
    tag = kind.DESCRIPTOR.fields_by_name["data"].number << 3 | _LENGTH_DELIMITED
    at, end = 0, len(raw)
    while at < end:
        begins = at
        found, at = _read_varint(raw, at)
        wire = found & 7
        if wire == 0:
            _, at = _read_varint(raw, at)
        elif wire in _SKIPPED:
            at += _SKIPPED[wire]
        elif wire == _LENGTH_DELIMITED:
            length, at = _read_varint(raw, at)
            if found == tag and length and at + length == end and raw[begins:at] == _opening(kind, length):
                return begins, at
            at += length
        else:
            return None
    return None


def _opening(kind: Message | type[Message], length: int) -> bytes:
    """What stands before `data` of that length."""
    tag = kind.DESCRIPTOR.fields_by_name["data"].number << 3 | _LENGTH_DELIMITED
    return _varint(tag) + _varint(length)


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    """The number and where it ends; past the end of `raw` where it is none."""
    value = 0
    for place, byte in enumerate(raw[at : at + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    return 0, len(raw) + 1


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
