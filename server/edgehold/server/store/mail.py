"""The letters of a run: the updates of its last committed round, which the devices of the next round read.

The ordinary upload is the letter: its sealed file stays where it is in the spool of its round, with what its sender signed in
the journal, until the next round commits. Every reader gets the same bytes, and checks the sender's own signature on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgehold.proto.v1.mailbox_pb2 import Letterhead
from edgehold.server.store import records
from edgehold.server.store.journal import Journal
from edgehold.server.store.records import LetterRow
from edgehold.server.store.spool import RoundKeys, SealedFile


@dataclass(frozen=True, slots=True)
class Letter:
    """One letter. file: its sealed bytes; None where they are not kept here, or lost with the round's key."""

    head: Letterhead
    length: int
    _path: Path
    _key: bytes | None
    _upload: bytes

    def open(self) -> SealedFile | None:
        """The bytes, by a handle of the reader's own, which it closes; None when they are not here."""
        if self._key is None or not self._path.exists():
            return None
        file = SealedFile(self._path, self._key, self._upload)
        if file.size == self.length:
            return file
        file.close()
        return None


class Mail:
    """What the devices of an open round may read. over: name of the round that the letters are of, "" without letters.

    relayed: whether the bytes are kept here; otherwise only what their senders signed is.
    """

    def __init__(self, letters: Mapping[str, Letter], over: str = "", relayed: bool = True) -> None:
        self.letters = letters
        self.over = over
        self.relayed = relayed

    @classmethod
    def of(cls, journal: Journal, run: str, keys: RoundKeys, spool: Path, relayed: bool) -> "Mail":
        """The letters as the journal has them. relayed: what the plan says, where there are none yet."""
        rows = records.letters(journal, run)
        if not rows:
            return cls({}, relayed=relayed)
        over = records.name_of(rows[0].key)
        key = keys.find(over) if rows[0].relayed else None
        return cls({row.client: _letter(row, spool / over, key) for row in rows}, over, rows[0].relayed)


def _letter(row: LetterRow, folder: Path, key: bytes | None) -> Letter:
    return Letter(Letterhead.FromString(row.head), row.length, folder / row.upload.hex(), key, row.upload)
