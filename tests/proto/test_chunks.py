"""Framing by hand gives the bytes protobuf would."""

import os

import pytest

from edgehold.proto.chunks import with_data
from edgehold.proto.strict import CHUNK_LIMIT, CHUNK_MESSAGE_LIMIT, decode
from edgehold.proto.v1.transfer_pb2 import DownloadResponse, Manifest, UploadRequest


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, CHUNK_LIMIT])
def test_a_framed_chunk_is_the_serialized_message(size: int) -> None:
    data = os.urandom(size)
    manifest = Manifest(federation="clinics", payload_length=size)
    assert with_data(DownloadResponse(offset=size), data) == DownloadResponse(offset=size, data=data).SerializeToString()
    whole = UploadRequest(manifest=manifest, signature=b"s" * 64, offset=7, data=data)
    framed = with_data(UploadRequest(manifest=manifest, signature=b"s" * 64, offset=7), data)
    assert framed == whole.SerializeToString()
    assert decode(UploadRequest, framed, CHUNK_MESSAGE_LIMIT) == whole
