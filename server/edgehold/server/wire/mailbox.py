"""MailboxService: the devices of a round read the updates of the round before, as their senders signed them."""

from collections.abc import AsyncIterator, Sequence

from edgehold.core.errors import IdentityError, NotFound, OutsideLaw, Stale, WrongShape
from edgehold.proto.chunks import chunk_bytes, with_data
from edgehold.proto.rpc import Caller
from edgehold.proto.strict import name
from edgehold.proto.v1.control_pb2 import TaskId
from edgehold.proto.v1.mailbox_pb2 import FetchRequest, FetchResponse, FindRequest, FindResponse, Sender
from edgehold.server.identity.roster import Roster
from edgehold.server.rounds.board import Board, OpenRound
from edgehold.server.rounds.sessions import Sessions
from edgehold.server.store.mail import Letter, Mail
from edgehold.server.threads import offload


class MailboxService:
    """Letters for those who have a task of the round that reads them, and for nobody else."""

    def __init__(self, roster: Roster, board: Board, sessions: Sessions) -> None:
        self._roster = roster
        self._board = board
        self._sessions = sessions

    def _enter(self, caller: Caller, task: TaskId) -> tuple[OpenRound, Mail]:
        if caller.identity is None:
            raise IdentityError("the mailbox needs a client certificate")
        member, opened = self._roster.require(caller.identity), self._board.find(task)
        if member.id not in opened.tally.selected:
            raise Stale(f"run {opened.run!r} round {opened.round}: client {member.id!r} was not selected")
        if opened.mail is None:
            raise OutsideLaw(f"run {opened.run!r}: its method has no letters between devices")
        return opened, opened.mail

    def _chosen(self, opened: OpenRound, mail: Mail, senders: Sequence[str]) -> dict[str, Letter]:
        """The letters asked for, in that order; `NotFound` for a sender whose update did not count in the round before."""
        if len(set(senders)) < len(senders):
            raise WrongShape(f"{len(senders)} senders, some of them twice; name each once")
        for sender in senders:
            if name(sender, "sender") not in mail.letters:
                raise NotFound(f"run {opened.run!r} round {opened.round}: no letter of {sender!r} from the round before")
        return {sender: mail.letters[sender] for sender in senders}

    async def find(self, request: FindRequest, caller: Caller) -> FindResponse:
        """Letterheads, and addresses of those senders who are connected now and offer to be read directly."""
        opened, mail = self._enter(caller, request.task)
        found = self._chosen(opened, mail, request.senders)
        return FindResponse(
            senders=[Sender(head=one.head, address=self._address(sender)) for sender, one in found.items()],
            relayed=mail.relayed,
        )

    def _address(self, sender: str) -> str:
        return self._sessions.address(sender) if self._roster.is_active(sender) else ""

    async def fetch(self, request: FetchRequest, caller: Caller) -> AsyncIterator[bytes]:
        """The letters whose bytes are here, one after the other: serialized `FetchResponse`s."""
        opened, mail = self._enter(caller, request.task)
        chosen = self._chosen(opened, mail, request.senders)
        if not mail.relayed:
            raise NotFound(f"run {opened.run!r}: letters are not kept here; its plan has their senders asked")
        start = request.offset
        for sender, letter in chosen.items():
            if start > letter.length:
                raise WrongShape(f"offset {start}; the letter of {sender!r} has {letter.length} bytes")
            async for message in self._letter(caller, request.task, letter, start):
                opened.bytes_down += len(message)
                yield message
            start = 0

    async def _letter(self, caller: Caller, task: TaskId, letter: Letter, start: int) -> AsyncIterator[bytes]:
        file = letter.open()
        if file is None:
            return  # gone with the round's key; the reader goes on without it
        try:
            head, at = FetchResponse(head=letter.head, offset=start), start
            while True:
                # Before each chunk: who was shut out, and a round that is over, end the stream.
                self._enter(caller, task)
                stop = min(at + chunk_bytes(letter.length), letter.length)
                data = await offload(stop - at, file.read, at, stop)
                yield with_data(head, data)
                head, at = FetchResponse(offset=stop), stop
                if at >= letter.length:
                    return
        finally:
            file.close()
