"""A model goes out in chunks of the size that its own size asks for, from wherever the client left off."""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgehold.proto.chunks import chunk_bytes
from edgehold.proto.strict import CHUNK_LIMIT
from edgehold.proto.v1.transfer_pb2 import DownloadRequest, DownloadResponse
from edgehold.server.store.blobs import BlobStore
from edgehold.server.wire.transfer import TransferService


@pytest.mark.parametrize("size", [100_000, 1_000_000, 9_000_000])
@pytest.mark.parametrize("offset", [0, 65_537])
def test_a_download_is_cut_by_the_size_of_the_whole_model(tmp_path: Path, size: int, offset: int) -> None:
    model = os.urandom(size)
    blob = BlobStore(tmp_path).put(np.frombuffer(model, np.uint8))
    opened, somebody = SimpleNamespace(base=blob, bytes_down=0), SimpleNamespace(require=lambda identity: None)
    board: Any = SimpleNamespace(serves=lambda client, digest: opened)
    caller: Any = SimpleNamespace(identity=object(), name="dev-0")

    async def fetch() -> list[DownloadResponse]:
        service = TransferService(somebody, board, SimpleNamespace())  # type: ignore[arg-type]
        request = DownloadRequest(digest=blob.digest, offset=offset)
        return [DownloadResponse.FromString(one) async for one in service.download(request, caller)]

    found = asyncio.run(fetch())
    assert b"".join(one.data for one in found) == model[offset:]
    assert [one.offset for one in found] == list(range(offset, size, chunk_bytes(size)))
    assert opened.bytes_down == size - offset
    assert max(len(one.data) for one in found) <= CHUNK_LIMIT
