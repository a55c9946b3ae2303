"""Keep and outbox as one: files that something still refers to stay, all others go, whoever stops where.

Between the file of an update and its line in the keep, and the other way round, nobody else may look: one lock for both.
"""

import threading
from collections.abc import Callable, Iterable

from edgehold.client.keep import Keep, Stored, TaskKey
from edgehold.client.outbox import Outbox, Parcel
from edgehold.core.errors import FlError


class Shelf:
    """letters: digests of updates that peers may still ask for. Calls block on the disk; any thread may make them."""

    def __init__(self, keep: Keep, outbox: Outbox, letters: Callable[[], set[bytes]]) -> None:
        self._keep, self._outbox, self._letters = keep, outbox, letters
        self._lock, self._tidy = threading.Lock(), False

    def put(
        self, blocks: Iterable[bytes | memoryview], kind: str, durable: bool, note: Callable[[Parcel], bool]
    ) -> Parcel | None:
        """Store an update and note it in the keep; None, and no file, where `note` says that it is no longer wanted."""
        with self._lock:
            parcel = self._outbox.write(blocks, kind, durable)
            try:
                if note(parcel):
                    return parcel
            except FlError:
                self._release(parcel)
                raise
            self._release(parcel)
            return None

    def unsettled(self) -> list[Stored]:
        """Stored updates without a receipt. At first contact the outbox is put in order before any task is looked at: what
        the power took is to be computed again if the server still wants it, and what nothing refers to goes.
        """
        entries = self._keep.unsettled()
        if self._tidy:
            return entries
        whole = []
        for entry in entries:
            if self._outbox.holds(entry.parcel):
                whole.append(entry)
            else:
                self._keep.retrain(entry.key)
        self._outbox.sweep(self._wanted(whole))
        self._tidy = True
        return whole

    def counted(self, parcel: Parcel) -> None:
        """Let go of an update that has its receipt, unless peers may ask for it; of older letters then."""
        with self._lock:
            if self._letters():
                # With a new letter an older one has had its time.
                self._outbox.sweep(self._wanted(self._keep.unsettled()))
            else:
                self._release(parcel)

    def end(self, end: Callable[[TaskKey], None], key: TaskKey) -> None:
        """Record the end of a task by `end`, a method of the keep, and only then let go of its files."""
        with self._lock:
            entry, masked = self._keep.find(key), self._keep.masked(key)
            end(key)
            for parcel in (entry and entry.parcel, masked and masked[1]):
                if parcel:
                    self._release(parcel)

    def _wanted(self, unsettled: list[Stored]) -> set[bytes]:
        return {entry.parcel.digest for entry in unsettled} | self._letters() | self._keep.masked_digests()

    def _release(self, parcel: Parcel) -> None:
        """Drop the file of an update, unless another task's update has the very same bytes. The lock must be held."""
        if all(entry.parcel.digest != parcel.digest for entry in self._keep.unsettled()) and (
            parcel.digest not in self._letters()
        ):
            self._outbox.drop(parcel.digest)
