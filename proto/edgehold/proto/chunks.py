"""Messages that end in a chunk, put together with one copy of its bytes instead of two."""

from google.protobuf.message import Message

_LENGTH_DELIMITED = 2


def with_data(message: Message, data: bytes) -> bytes:
    """The serialized message with its last field, `data`, set to these bytes; it must be empty in `message`."""
    if not data:
        return message.SerializeToString()
    tag = message.DESCRIPTOR.fields_by_name["data"].number << 3 | _LENGTH_DELIMITED
    return b"".join((message.SerializeToString(), _varint(tag), _varint(len(data)), data))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
