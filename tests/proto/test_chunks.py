"""Framing by hand gives the bytes protobuf would."""

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehold.core.errors import RejectedUpdate, TooLarge, WrongShape
from edgehold.proto.chunks import chunk_bytes, split, with_data
from edgehold.proto.strict import CHUNK_LIMIT, CHUNK_MESSAGE_LIMIT, decode
from edgehold.proto.v1.transfer_pb2 import DownloadResponse, Manifest, UploadRequest

MIB = 1 << 20


@pytest.mark.parametrize(
    ("whole", "chunk"),
    [(0, MIB // 4), (1, MIB // 4), (4 * MIB - 1, MIB // 4), (4 * MIB, MIB // 2), (8 * MIB - 1, MIB // 2), (8 * MIB, MIB),
     (1 << 40, MIB)],
)  # fmt: skip
def test_a_small_model_travels_in_small_chunks_and_none_is_more_than_a_receiver_takes(whole: int, chunk: int) -> None:
    assert chunk_bytes(whole) == chunk <= CHUNK_LIMIT


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, CHUNK_LIMIT])
def test_a_framed_chunk_is_the_serialized_message(size: int) -> None:
    data = os.urandom(size)
    manifest = Manifest(federation="clinics", payload_length=size)
    assert with_data(DownloadResponse(offset=size), data) == DownloadResponse(offset=size, data=data).SerializeToString()
    whole = UploadRequest(manifest=manifest, signature=b"s" * 64, offset=7, data=data)
    framed = with_data(UploadRequest(manifest=manifest, signature=b"s" * 64, offset=7), data)
    assert framed == whole.SerializeToString()
    assert decode(UploadRequest, framed, CHUNK_MESSAGE_LIMIT) == whole


def outcome(call: Any) -> tuple[str, bytes, bytes] | type[Exception]:
    """What came of a decoder: the message without its data, and its data; or what it raised."""
    try:
        found = call()
    except RejectedUpdate as error:
        return type(error)
    head, data = (found.head, bytes(found.data)) if hasattr(found, "head") else (found, bytes(found.data))
    head.ClearField("data")
    return type(head).__name__, head.SerializeToString(deterministic=True), data


def same(raw: bytes, limit: int = CHUNK_MESSAGE_LIMIT) -> None:
    """Both decoders say the same of these bytes."""
    for kind in (UploadRequest, DownloadResponse):
        assert outcome(lambda kind=kind: split(kind, raw, limit)) == outcome(lambda kind=kind: decode(kind, raw, limit))


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "signature": st.binary(max_size=70), "offset": st.integers(0, 2**64 - 1), "data": st.binary(max_size=300),
        "ledger_lines": st.integers(0, 2**64 - 1), "ledger_hash": st.binary(max_size=40),
    },
)  # fmt: skip


@given(FIELDS, st.booleans())
def test_taking_apart_is_decoding(fields: dict[str, Any], last: bool) -> None:
    data = fields.pop("data", b"") if last else b""
    raw = with_data(UploadRequest(**fields), data)
    found = split(UploadRequest, raw, CHUNK_MESSAGE_LIMIT)
    assert (found.head, bytes(found.data)) == (UploadRequest(**{**fields, "data": b""}), data or fields.get("data", b""))
    same(raw)


@given(
    FIELDS, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255), st.sampled_from(["set", "insert", "cut"])), max_size=4)
)
def test_whatever_is_broken_is_refused_alike(fields: dict[str, Any], changes: list[tuple[int, int, str]]) -> None:
    raw = bytearray(with_data(UploadRequest(**{**fields, "data": b""}), fields.get("data", b"")))
    for place, value, how in changes:
        at = place % (len(raw) + 1)
        if how == "insert":
            raw[at:at] = bytes([value])
        elif how == "cut":
            del raw[at : at + value % 5]
        elif at < len(raw):
            raw[at] = value
    same(bytes(raw))


@pytest.mark.parametrize(
    "raw",
    [
        b"\x22\x00",  # data that are empty are not said
        b"\x22\x01a\x22\x01b",  # twice
        b"\x22\x81\x00a",  # their length in more bytes than it needs
        b"\xa2\x00\x01a",  # their tag
        b"\x22\x02a",  # less than was said
        b"\x22\x01a\x18\x05",  # another field after them, which is lawful
        b"\x18\x85\x00\x22\x01a",  # an offset in more bytes than it needs
        b"\x30\x01\x22\x01a",  # a field nobody knows
        b"\x22" + b"\xff" * 12,
        b"\x23\x24\x22\x01a",  # groups
        b"\x25abcd\x22\x01a",  # wire type 5 for data
        b"",
    ],
)
def test_every_other_way_to_say_it(raw: bytes) -> None:
    same(raw)


def test_nothing_is_copied_and_the_limit_holds() -> None:
    raw = with_data(UploadRequest(offset=5), b"a" * 1000)
    found = split(UploadRequest, raw, len(raw))
    assert found.data.obj is raw
    with pytest.raises(TooLarge):
        split(UploadRequest, raw, len(raw) - 1)
    with pytest.raises(WrongShape, match="twice"):
        split(UploadRequest, b"\x22\x01a" + raw, CHUNK_MESSAGE_LIMIT)
