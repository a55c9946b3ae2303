"""Updates of a round between their admission and their aggregation: in memory while they are few, in a file when not."""

import os
import tempfile
from dataclasses import dataclass
from types import TracebackType

from edgehold.core.contract import Payload
from edgehold.core.vectors import Bytes

MEMORY = 256 << 20
"""Bytes of bodies that stay in memory."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Bytes of a file."""

    file: int
    start: int
    size: int

    def read(self, start: int, stop: int) -> bytes:
        return os.pread(self.file, stop - start, self.start + start)


class Shelf:
    """memory: bytes of bodies that stay in memory; the rest goes to a temporary file without a name."""

    def __init__(self, memory: int = MEMORY) -> None:
        self._left = memory
        self._file: int | None = None
        self._end = 0

    def put(self, header: bytes, body: bytes) -> Payload:
        """The payload, its body wherever there is room."""
        self._left -= len(body)
        if self._left >= 0:
            return Payload(header, Bytes(body))
        if self._file is None:
            handle, path = tempfile.mkstemp(prefix="edgehold-updates-")
            os.unlink(path)
            self._file = handle
        place = _Place(self._file, self._end, len(body))
        view = memoryview(body)
        while view:
            written = os.pwrite(self._file, view, self._end)
            self._end += written
            view = view[written:]
        return Payload(header, place)

    def __enter__(self) -> "Shelf":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            os.close(self._file)
