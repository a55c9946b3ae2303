"""ControlService: one stream per client on which tasks reach it at once."""

from collections.abc import AsyncIterator, Callable

from edgehold.core.errors import ERRORS, IdentityError, Stale, WrongShape
from edgehold.core.logs import peer_text
from edgehold.core.manifest import PROTOCOL_VERSION, SUPPORTED_VERSIONS
from edgehold.proto.rpc import Caller
from edgehold.proto.strict import exactly, host_port, name, text
from edgehold.proto.v1.control_pb2 import ConnectRequest, ConnectResponse, DeclineRequest, DeclineResponse, Welcome
from edgehold.server.identity.roster import Roster
from edgehold.server.rounds.board import Board
from edgehold.server.rounds.sessions import Sessions


class ControlService:
    """outstanding: the tasks a client that connects still owes; declined: told of every decline."""

    def __init__(
        self,
        federation: str,
        epoch: int,
        roster: Roster,
        sessions: Sessions,
        board: Board,
        declined: Callable[[str, str], None],
    ) -> None:
        self._welcome = ConnectResponse(
            welcome=Welcome(federation=federation, protocol_version=PROTOCOL_VERSION, boot_epoch=epoch)
        )
        self._roster = roster
        self._sessions = sessions
        self._board = board
        self._declined = declined

    async def connect(self, request: ConnectRequest, caller: Caller) -> AsyncIterator[ConnectResponse]:
        """Welcome, the tasks still owed, then whatever comes."""
        if request.protocol_version not in SUPPORTED_VERSIONS:
            raise Stale(
                f"protocol version {request.protocol_version} is not spoken here; supported: {SUPPORTED_VERSIONS}",
                supported_versions=SUPPORTED_VERSIONS,
            )
        if caller.identity is None:
            raise IdentityError("the control stream needs a client certificate")
        text(request.software, "software")
        if name(request.client_id, "client id") != caller.identity.name:
            raise IdentityError(f"the message speaks for {request.client_id!r}, the certificate for {caller.name!r}")
        address = host_port(request.peer_address, "peer address") if request.peer_address else ""
        await self._roster.introduce(caller.identity, exactly(request.signing_key, 32, "signing key"))
        session = self._sessions.open(caller.name, address)
        try:
            yield self._welcome
            for opened in self._board.owed_by(caller.name):
                yield ConnectResponse(task=opened.assignments[caller.name])
            while (event := await session.next()) is not None:
                yield event
            # Revoked or suspended while connected: say so; otherwise a plain end of stream.
            self._roster.require(caller.identity)
        finally:
            self._sessions.close(session)

    async def decline(self, request: DeclineRequest, caller: Caller) -> DeclineResponse:
        """Count the caller out of the round."""
        if request.code not in ERRORS:
            raise WrongShape(f"code {request.code[:64]!r} is not one of {', '.join(sorted(ERRORS))}")
        reason = text(request.reason, "reason")
        opened = self._board.find(request.id)
        if caller.name not in opened.tally.selected:
            raise Stale("you were not selected for this round")
        opened.tally.lose(caller.name, f"{peer_text(reason)} [{request.code}]")
        self._declined(caller.name, request.code)
        opened.wake()
        return DeclineResponse()
