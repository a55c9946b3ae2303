"""Messages between the clients of one round: stored once, sealed, the same bytes for every reader.

A sender that could tell each reader something else would defeat methods in which peers judge each other; here it cannot,
and each reader checks the sender's own signature, so neither can the server.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from edgehold.core.errors import Duplicate
from edgehold.proto.v1.mailbox_pb2 import FetchResponse
from edgehold.server.store.spool import SealedFile

PREFIX = "mail-"


class Mail:
    """The mail of one round. folder, key: of the round's spool; what is there already is taken up again."""

    def __init__(self, folder: Path, key: bytes) -> None:
        self._folder = folder
        self._key = key
        self._letters: dict[str, SealedFile] = {}
        self._arrived = asyncio.Event()
        self._closed = False
        for path in sorted(folder.glob(f"{PREFIX}*")):
            self._take(path.name.removeprefix(PREFIX))

    def _open(self, sender: str) -> SealedFile:
        return SealedFile(self._folder / f"{PREFIX}{sender}", self._key, f"{PREFIX}{sender}".encode())

    def _take(self, sender: str) -> None:
        """Take up a letter written before a restart; one that was cut short is dropped, its sender will post it again."""
        file = self._open(sender)
        length = int.from_bytes(file.read(0, 4), "little") if file.size >= 4 else -1
        if file.size == 4 + length:
            self._letters[sender] = file
        else:
            file.discard()

    def post(self, sender: str, letter: FetchResponse) -> None:
        """Store a sender's letter; `Duplicate` when it has another one here."""
        if sender in self._letters:
            if self.read(sender).manifest.payload_digest != letter.manifest.payload_digest:
                raise Duplicate(f"{sender!r} has already sent its peers another message this round")
            return
        data = letter.SerializeToString()
        file = self._open(sender)
        file.append(len(data).to_bytes(4, "little") + data)
        self._letters[sender] = file
        self._arrived.set()

    def read(self, sender: str) -> FetchResponse:
        """A sender's letter."""
        file = self._letters[sender]
        return FetchResponse.FromString(file.read(4, file.size))

    async def follow(self, expected: frozenset[str]) -> AsyncIterator[FetchResponse]:
        """Every letter: those here in sender order, then each as it comes, until the expected have come or the round ends."""
        told: set[str] = set()
        while True:
            self._arrived.clear()
            for sender in sorted(self._letters.keys() - told):
                told.add(sender)
                yield self.read(sender)
            if self._closed or told >= expected:
                return
            await self._arrived.wait()

    def close(self) -> None:
        """The round is over."""
        self._closed = True
        for file in self._letters.values():
            file.close()
        self._letters.clear()
        self._arrived.set()
