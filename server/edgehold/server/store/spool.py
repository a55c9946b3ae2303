"""Uploads on disk, sealed: readable only with a round key that lives in memory-backed storage.

Killing the process loses nothing; pulling the plug loses the key, and with it every upload of the round, which then
starts again as a new attempt. Therefore spool files are never synced.
"""

import contextlib
import hashlib
import os
import secrets
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edgehold.core.errors import ConfigError, Conflicting, Corrupted
from edgehold.core.vectors import SLACK, blocks

SALT = 16
_READ = 1 << 20
_PART = 1 << 16
"""Bytes unsealed at a time: from the file to their place they stay in the second-level cache."""


class RoundKeys:
    """Keys by name in a folder that must not outlive the machine's memory."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"store.keys_folder = {str(folder)!r}: {error.strerror}; it must be a folder in memory-backed storage "
                "(a tmpfs such as /dev/shm), so that round keys are gone when the power is"
            ) from None
        self._folder = folder

    def create(self, name: str) -> bytes:
        """A fresh key, or the one there already is (after a restart)."""
        key = self.find(name)
        if key is None:
            key = secrets.token_bytes(32)
            temporary = self._folder / f"{name}.tmp"
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(key)
            os.rename(temporary, self._folder / name)
        return key

    def find(self, name: str) -> bytes | None:
        """The key, or None when it is gone."""
        with contextlib.suppress(FileNotFoundError):
            return (self._folder / name).read_bytes()
        return None

    def destroy(self, name: str) -> None:
        """Forget a key: whatever it sealed is lost for good."""
        (self._folder / name).unlink(missing_ok=True)

    def destroy_all_but(self, names: set[str]) -> None:
        """Forget the keys of rounds that are over."""
        for path in self._folder.iterdir():
            if path.name not in names:
                path.unlink(missing_ok=True)


class SealedFile:
    """One upload: salt, then the payload under AES-256-CTR with a key of its own. Readable as a `Blob`.

    size: bytes of payload received so far. The payload digest is checked when it is whole, so the cipher need not
    authenticate.
    """

    def __init__(self, path: Path, round_key: bytes, name: bytes) -> None:
        self._path = path
        self._handle = -1
        self._readers: list[CipherContext] = []  # free ones: making one costs as much as unsealing 32 KiB
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        salt = os.pread(self._handle, SALT, 0)
        if len(salt) < SALT:
            salt = secrets.token_bytes(SALT)
            try:
                os.pwrite(self._handle, salt, 0)
            except OSError:
                self.discard()
                raise
        self._key = HKDF(hashes.SHA256(), 32, salt, b"edgehold spool v1" + name).derive(round_key)
        self.size = max(0, os.fstat(self._handle).st_size - SALT)
        self._cipher: CipherContext | None = None
        self._hash: hashlib._Hash | None = None

    def _cipher_at(self, offset: int) -> CipherContext:
        counter = (offset // 16).to_bytes(16, "big")
        context = Cipher(AES256(self._key), CTR(counter)).encryptor()
        context.update(bytes(offset % 16))
        return context

    def read(self, start: int, stop: int) -> bytes:
        """Payload bytes start..stop."""
        return self._cipher_at(start).update(os.pread(self._handle, stop - start, SALT + start))

    def read_into(self, start: int, stop: int, out: memoryview) -> None:
        """Payload bytes start..stop as `edgehold.core.vectors.Filling` says."""
        context = self._reader_at(start)
        sealed = memoryview(bytearray(min(_PART, stop - start)))
        for lo, hi in blocks(stop - start, _PART):
            part = sealed[: hi - lo]
            got = os.preadv(self._handle, [part], SALT + start + lo)
            if got != hi - lo:
                raise Corrupted(f"a spooled upload ends {hi - lo - got} bytes short of {stop}; the round begins again")
            context.update_into(part, out[lo : hi + SLACK])
        self._readers.append(context)

    def _reader_at(self, offset: int) -> CipherContext:
        """A cipher that no other thread has."""
        try:
            context = self._readers.pop()
        except IndexError:
            return self._cipher_at(offset)
        context.reset_nonce((offset // 16).to_bytes(16, "big"))
        if offset % 16:
            context.update(bytes(offset % 16))
        return context

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process reads the same file with the same key: for nodes that work on blocks and see the same folder."""
        return SealedFile._reopened, (self._path.absolute(), self._key, self.size)

    @classmethod
    def _reopened(cls, path: Path, key: bytes, size: int) -> "SealedFile":
        file = cls.__new__(cls)
        file._path, file._key, file.size = path, key, size
        file._readers, file._cipher, file._hash, file._handle = [], None, None, -1
        try:
            file._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(
                f"spool file {path}: {error.strerror}; every node that works on blocks of a round must see the server's spool"
                " in the same place, and may have to be allowed more open files (ulimit -n)"
            ) from None
        return file

    def append(self, data: bytes | memoryview) -> None:
        """Add bytes at the end."""
        if self._cipher is None or self._hash is None:
            self._cipher = self._cipher_at(self.size)
            self._hash = hashlib.sha256()
            for start, stop in blocks(self.size, _READ):
                self._hash.update(self.read(start, stop))
        self._hash.update(data)
        sealed = memoryview(self._cipher.update(data))
        while sealed:
            written = os.pwrite(self._handle, sealed, SALT + self.size)
            self.size += written
            sealed = sealed[written:]

    def match(self, offset: int, data: bytes | memoryview) -> None:
        """`Conflicting` unless these bytes are the ones already received at `offset`."""
        if self.read(offset, offset + len(data)) != bytes(data):
            raise Conflicting(
                f"bytes {offset} to {offset + len(data)} were received before with other content; "
                "the upload is discarded, send it again from 0",
                retry_after_s=0.0,
            )

    def digest(self) -> bytes:
        """SHA-256 of the payload received so far."""
        if self._hash is None:
            self.append(b"")
        assert self._hash is not None
        return self._hash.digest()

    def verify(self, digest: bytes) -> None:
        """`Corrupted` unless the payload has this SHA-256."""
        if self.digest() != digest:
            raise Corrupted("the payload does not match its declared digest; the upload is discarded", retry_after_s=0.0)

    def close(self) -> None:
        """Let go of the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __del__(self) -> None:
        self.close()  # on a node nobody else does

    def discard(self) -> None:
        """Close and delete."""
        self.close()
        self._path.unlink(missing_ok=True)
