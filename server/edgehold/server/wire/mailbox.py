"""MailboxService: peers of a round read each other through the server."""

import hashlib
from collections.abc import AsyncIterator

from edgehold.core.errors import Corrupted, IdentityError, OutsideLaw, Stale, TooLarge, WrongShape
from edgehold.proto.strict import CHUNK_LIMIT
from edgehold.proto.v1.control_pb2 import TaskId
from edgehold.proto.v1.mailbox_pb2 import FetchRequest, FetchResponse, PostRequest, PostResponse
from edgehold.server.identity.roster import Member, Roster
from edgehold.server.rounds.admission import Admission
from edgehold.server.rounds.board import Board, OpenRound
from edgehold.server.store.mail import Mail
from edgehold.server.wire.rpc import Caller


class MailboxService:
    """One signed message of at most 1 MiB per sender and round, for everybody in the cohort."""

    def __init__(self, roster: Roster, board: Board, admission: Admission) -> None:
        self._roster = roster
        self._board = board
        self._admission = admission

    def _enter(self, caller: Caller, task: TaskId) -> tuple[Member, OpenRound, Mail]:
        if caller.identity is None:
            raise IdentityError("the mailbox needs a client certificate")
        member, opened = self._roster.require(caller.identity), self._board.find(task)
        if member.id not in opened.tally.selected:
            raise Stale(f"run {opened.run!r} round {opened.round}: client {member.id!r} was not selected")
        if opened.mail is None:
            raise OutsideLaw(f"run {opened.run!r}: its method has no messages between peers")
        return member, opened, opened.mail

    async def post(self, request: PostRequest, caller: Caller) -> PostResponse:
        """Store the caller's message for its peers."""
        member, opened, mail = self._enter(caller, request.manifest.task)
        statement = self._admission.vouch(member, request.manifest, request.signature)
        self._admission.belongs(opened, statement)
        kind = f"{opened.codec.kind}/peer"
        if statement.payload_kind != kind:
            raise WrongShape(f"payload kind {statement.payload_kind!r}; expected {kind!r}")
        if len(request.data) > CHUNK_LIMIT:
            raise TooLarge(f"message of {len(request.data)} bytes; at most {CHUNK_LIMIT} are accepted")
        if len(request.data) != statement.payload_length:
            raise WrongShape(f"{len(request.data)} bytes arrived; {statement.payload_length} were declared")
        if hashlib.sha256(request.data).digest() != statement.payload_digest:
            raise Corrupted("the message does not match its declared digest", retry_after_s=0.0)
        mail.post(
            member.id,
            FetchResponse(
                manifest=request.manifest, signature=request.signature, signing_key=member.signing_key, data=request.data
            ),
        )
        return PostResponse()

    async def fetch(self, request: FetchRequest, caller: Caller) -> AsyncIterator[FetchResponse]:
        """Every peer's message, each as it comes, until all have come or the round is over."""
        member, opened, mail = self._enter(caller, request.task)
        async for letter in mail.follow(opened.tally.selected):
            if member.state != "active":
                raise IdentityError(f"client {member.id!r} is {member.state}")
            yield letter
