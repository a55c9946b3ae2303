"""What virtual devices sent in the last round, as files that every process reads: for methods whose devices read each other."""

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgehold.core.contract import Codec, Container
from edgehold.core.errors import RejectedUpdate
from edgehold.core.vectors import Bytes, Schema


class Letters:
    """The updates of the last committed round, each a file named by its SHA-256. folder: where they lie."""

    def __init__(self, first: Mapping[str, bytes]) -> None:
        self._place = TemporaryDirectory(prefix="edgehold-letters-")
        self.folder = self._place.name
        self.replace(first)

    def replace(self, letters: Mapping[str, bytes]) -> None:
        """The next round reads these."""
        for path in Path(self.folder).iterdir():
            path.unlink()
        for data in letters.values():
            (Path(self.folder) / hashlib.sha256(data).hexdigest()).write_bytes(data)

    def close(self) -> None:
        """Delete them."""
        self._place.cleanup()


def read(
    folder: str, chosen: Iterable[str], listing: Mapping[str, bytes], codec: Codec[Any, Any], schema: Schema
) -> dict[str, Any]:
    """The chosen updates, decoded, in ascending order of senders; without those that are not what the order lists."""
    found = {}
    for sender in sorted(chosen):
        with contextlib.suppress(FileNotFoundError, RejectedUpdate):
            data = (Path(folder) / listing[sender].hex()).read_bytes()
            found[sender] = codec.decode_update(Container.split(Bytes(data)), schema)
    return found
