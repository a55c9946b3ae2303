"""Content-addressed files: written once, synced, named by their SHA-256, never changed."""

import hashlib
import os
import secrets
import threading
import weakref
from collections.abc import Iterable
from io import FileIO
from pathlib import Path

import numpy as np

from edgehold.core.errors import NotFound, WrongShape
from edgehold.core.files import sync, sync_folder
from edgehold.core.vectors import Array, Blob, Vector, blocks


class FileBlob:
    """A file read by position; open for as long as somebody holds the object. digest: SHA-256 of its bytes."""

    def __init__(self, path: Path, digest: bytes) -> None:
        self.path = path
        self.digest = digest
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._handle)
        self.size = os.fstat(self._handle).st_size

    def __reduce__(self) -> tuple[type["FileBlob"], tuple[Path, bytes]]:
        return FileBlob, (self.path.absolute(), self.digest)  # another process opens it itself

    def read(self, start: int, stop: int) -> bytes:
        """Bytes start..stop."""
        return os.pread(self._handle, stop - start, start)


def file_blob(blob: Blob) -> FileBlob:
    """A blob that must be a stored one, because it was written through the given space."""
    assert isinstance(blob, FileBlob), "written elsewhere than through the given space"
    return blob


class BlobStore:
    """A folder of blobs. Also the `Space` in which methods write new vectors."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: weakref.WeakSet[FileBlob] = weakref.WeakSet()
        self._lock = threading.Lock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in folder.glob("*.tmp"):
            left.unlink()

    def _path(self, digest: bytes) -> Path:
        return self._folder / digest.hex()

    def open(self, digest: bytes) -> FileBlob:
        """The blob with this digest; `NotFound` when it is not (or no longer) here."""
        with self._lock:
            return self._hold(digest)

    def _hold(self, digest: bytes) -> FileBlob:
        try:
            blob = FileBlob(self._path(digest), digest)
        except FileNotFoundError:
            raise NotFound(f"no blob {digest.hex()[:16]} in this store") from None
        self._held.add(blob)
        return blob

    def sink(self, size: int, dtype: str = "<f4") -> "FileSink":
        """A sink for exactly `size` values of one type."""
        return FileSink(self, size, dtype)

    def put(self, values: Array) -> FileBlob:
        """Store a small array whole."""
        sink = self.sink(values.size, values.dtype.newbyteorder("<").str)
        sink.write(values.reshape(-1))
        return file_blob(sink.finish().blob)

    def keep(self, blob: Blob) -> FileBlob:
        """Store the bytes of a blob from elsewhere."""
        sink = self.sink(blob.size, "|u1")
        for start, stop in blocks(blob.size, 1 << 20):
            sink.write(np.frombuffer(blob.read(start, stop), dtype=np.uint8))
        return file_blob(sink.finish().blob)

    def keep_only(self, digests: Iterable[bytes]) -> int:
        """Delete every blob not among `digests` (orphans of a crash, models past their time); returns how many."""
        wanted = {digest.hex() for digest in digests}
        gone = [path for path in self._folder.iterdir() if path.name not in wanted and not path.name.endswith(".tmp")]
        for path in gone:
            path.unlink(missing_ok=True)
        return len(gone)

    def drop(self, digests: Iterable[bytes]) -> None:
        """Delete these blobs, except those that somebody has open: two runs may have come to the same bytes, and one of
        them may be about to commit what the other lets go. `keep_only` gets them at the next start.
        """
        with self._lock:
            held = {blob.digest for blob in self._held}
            for digest in digests:
                if digest not in held:
                    self._path(digest).unlink(missing_ok=True)

    def _publish(self, temporary: Path, digest: bytes) -> FileBlob:
        with self._lock:
            os.rename(temporary, self._path(digest))
            blob = self._hold(digest)
        sync_folder(self._folder)
        return blob


class FileSink:
    """Values appended to a temporary file; `finish` syncs it and gives it its name."""

    def __init__(self, store: BlobStore, size: int, dtype: str) -> None:
        self._store = store
        self._left = size
        self._dtype = np.dtype(dtype)
        self._temporary = store._folder / f"{secrets.token_hex(16)}.tmp"
        self._file = open(self._temporary, "xb", buffering=0)  # noqa: SIM115 - closed in finish or with the object
        self._leave = weakref.finalize(self, _give_up, self._file, self._temporary)
        self._hash = hashlib.sha256()

    def write(self, values: Array) -> None:
        """Append values, cast to the sink's type."""
        self._left -= len(values)
        data = np.ascontiguousarray(values, dtype=self._dtype).view(np.uint8).data
        self._hash.update(data)
        done = 0
        while done < len(data):
            done += self._file.write(data[done:])

    def finish(self) -> Vector:
        """Sync and publish; the vector's blob is the `FileBlob`."""
        if self._left:
            raise WrongShape(f"{self._left} values are missing from a vector being written")
        sync(self._file.fileno(), self._temporary)
        self._file.close()
        self._leave.detach()
        return Vector(self._store._publish(self._temporary, self._hash.digest()), self._dtype.str)


def _give_up(file: FileIO, temporary: Path) -> None:
    """A sink that is never finished (its round failed) leaves nothing behind."""
    file.close()
    temporary.unlink(missing_ok=True)
