"""The letters of one task as they are judged: whose word counts, what is left out and why, and what proves a liar.

`relaying` fetches them from the server, `direct` from their senders. A letter that cannot be had, or is not what it must be, is
left out, with its reason in the log; the round goes on without it.
"""

import asyncio
import logging
from collections.abc import Sequence

from edgehold.client.keep import Keep
from edgehold.client.letters import Expected, Incoming, Signed, signed, two_words
from edgehold.core.errors import FlError, WrongShape
from edgehold.core.logs import event, peer_text
from edgehold.proto.v1.control_pb2 import TaskId
from edgehold.proto.v1.mailbox_pb2 import Letterhead

log = logging.getLogger("edgehold.client.reading")


class Reading:
    """had: whole and checked letters, by sender; left_out: why the others are not here."""

    def __init__(self, task: TaskId, expected: Expected, keep: Keep) -> None:
        self.task = task
        self.expected = expected
        self.had: dict[str, bytes] = {}
        self.left_out: dict[str, FlError] = {}
        self._keep = keep
        self._words: dict[str, list[Signed]] = {}

    def missing(self, chosen: Sequence[str]) -> list[str]:
        """Those of the chosen whose letter is not here yet."""
        return [sender for sender in chosen if sender not in self.had]

    async def judge(self, head: Letterhead, sender: str) -> Signed:
        """The letterhead, when it is signed by the sender, by the key known for it, and for the letter that the order lists."""
        expected = self.expected
        found = signed(head, sender, expected.federation, expected.roots)
        await asyncio.to_thread(self._keep.pin, sender, found.key, found.issued_s)
        self._witness(found)
        expected.fits(sender, found.statement)
        return found

    def _witness(self, found: Signed) -> None:
        """Two different payloads signed for one task are proof against their sender: it goes to the log whole."""
        words = self._words.setdefault(found.statement.client_id, [])
        if any(found.statement == one.statement for one in words):
            return
        words.append(found)
        for one in words[:-1]:
            if two_words(one.statement, found.statement):
                event(
                    log, logging.ERROR, "equivocation", sender=found.statement.client_id, run=peer_text(found.statement.run),
                    round=found.statement.round, attempt=found.statement.attempt, signing_key=found.key.hex(),
                    one=one.head.manifest.SerializeToString().hex(), one_signature=one.head.signature.hex(),
                    other=found.head.manifest.SerializeToString().hex(), other_signature=found.head.signature.hex(),
                )  # fmt: skip

    def leave_out(self, sender: str, error: FlError) -> None:
        """Do without a letter."""
        self.left_out[sender] = error
        event(
            log, logging.WARNING, "letter_left_out", sender=sender, code=error.code, reason=peer_text(error.message),
            run=peer_text(self.task.run), round=self.task.round,
        )  # fmt: skip


class Coming:
    """The letter that is coming in, over as many streams as it takes."""

    def __init__(self) -> None:
        self._letter: Incoming | None = None

    @property
    def offset(self) -> int:
        """Bytes that are here."""
        return len(self._letter.data) if self._letter else 0

    def begin(self, found: Signed) -> None:
        """A head; on a further stream it must be the same one."""
        if self._letter is None:
            self._letter = Incoming(found)
        elif self._letter.found.statement != found.statement:
            raise WrongShape(f"the letter of {found.statement.client_id!r} goes on under another head than it began with")

    def take(self, offset: int, data: bytes) -> bytes | None:
        """The next bytes; the letter once it is whole."""
        if self._letter is None:
            raise WrongShape(f"{len(data)} bytes of a letter without its head")
        self._letter.take(offset, data)
        return bytes(self._letter.data) if self._letter.whole else None

    def clear(self) -> None:
        """The next letter is another one."""
        self._letter = None
