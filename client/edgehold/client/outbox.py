"""Updates that are about to leave: one file each, named by its digest, complete before a byte of it is sent.

A resend reads the same file, so a device never says two different things about one task and never draws noise twice.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgehold.core.errors import Busy
from edgehold.core.files import sync, sync_folder

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Parcel:
    """An update at rest. digest: SHA-256 of the file; length in bytes; kind: the codec's payload kind."""

    digest: bytes
    length: int
    kind: str


class Outbox:
    """The folder of files `<sha256>.update`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder

    def path(self, digest: bytes) -> Path:
        """Where the update with this digest lies."""
        return self._folder / f"{digest.hex()}.update"

    def write(self, blocks: Iterable[bytes | memoryview], kind: str, durable: bool) -> Parcel:
        """Store an update, as it comes. durable: when this returns it survives a power cut, not only the death of the process.

        `Busy` when the disk has no room for it; `JournalError` when a sync fails, after which nothing on it can be trusted.
        """
        try:
            return self._write(blocks, kind, durable)
        except OSError as error:
            raise Busy(f"the device cannot store its update: {error.strerror}") from None

    def _write(self, blocks: Iterable[bytes | memoryview], kind: str, durable: bool) -> Parcel:
        handle, temporary = tempfile.mkstemp(dir=self._folder, suffix=".tmp")
        try:
            digest = hashlib.sha256()
            with open(handle, "wb") as file:
                for block in blocks:
                    digest.update(block)
                    file.write(block)
                length = file.tell()
                if durable:
                    file.flush()
                    sync(file.fileno(), self._folder)
            os.replace(temporary, self.path(digest.digest()))
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        if durable:
            sync_folder(self._folder)
        return Parcel(digest.digest(), length, kind)

    def holds(self, parcel: Parcel) -> bool:
        """Whether the file is there and is what the digest says (a power cut can leave an unsynced file short or empty)."""
        digest = hashlib.sha256()
        try:
            with self.path(parcel.digest).open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
        except OSError:
            return False
        return digest.digest() == parcel.digest

    def drop(self, digest: bytes) -> None:
        """Forget an update; fine if it is gone already."""
        self.path(digest).unlink(missing_ok=True)

    def sweep(self, wanted: set[bytes]) -> None:
        """Remove every file that is neither the update of a `wanted` digest nor ours to keep: left-overs of a crash."""
        names = {self.path(digest).name for digest in wanted}
        for path in self._folder.iterdir():
            if path.suffix in (".tmp", ".update") and path.name not in names:
                path.unlink(missing_ok=True)
