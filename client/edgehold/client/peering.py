"""What a device answers its peers: its own newest updates, on a listener of its own, over mutual TLS.

Who may read: a client of the federation with a valid certificate, that shows a task of the run's next round which the server
signed for it. The server gives such tasks to active members alone, so whom it revoked reads nothing of any later round; what
a revoked device holds already, a certificate (of one day at most) and its last task, still opens the letters of that one round.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

import grpc

from edgehold.client.assignment import verify
from edgehold.client.config import PeersTable
from edgehold.client.identity import Credentials
from edgehold.client.keep import Keep, Stored
from edgehold.client.outbox import Outbox
from edgehold.client.policy import Policy
from edgehold.client.transfer import statement_of
from edgehold.core.errors import Busy, FlError, IdentityError, JournalError, NotFound, Stale, WrongShape
from edgehold.core.identity import identity_of
from edgehold.core.keys import public_bytes
from edgehold.core.logs import event, peer_text
from edgehold.proto import listen
from edgehold.proto.chunks import chunk_bytes, with_data
from edgehold.proto.rpc import Caller, Context, certificate_of, service
from edgehold.proto.statements import manifest_of
from edgehold.proto.strict import exactly
from edgehold.proto.v1 import peers_pb2
from edgehold.proto.v1.control_pb2 import TaskAssignment
from edgehold.proto.v1.mailbox_pb2 import Letterhead
from edgehold.proto.v1.peers_pb2 import ReadRequest, ReadResponse

log = logging.getLogger("edgehold.client.peering")

SERVICE = peers_pb2.DESCRIPTOR.services_by_name["PeerService"]
AT_ONCE = 16
EACH = 2
"""Letters a device sends at the same time, to all and to each of its readers; who comes then is told to wait."""
CONNECTIONS = 64
WAIT_S = 0.5


class PeerService:
    """mine: the identity in force now (renewal replaces it); policy: the owner's word now."""

    def __init__(self, keep: Keep, outbox: Outbox, mine: Callable[[], Credentials], policy: Callable[[], Policy]) -> None:
        self._keep, self._outbox, self._mine, self._policy = keep, outbox, mine, policy
        self._readers: Counter[str] = Counter()

    async def read(self, request: ReadRequest, caller: Caller) -> AsyncIterator[bytes]:
        """The letter with this digest, from an offset on: serialized `ReadResponse`s."""
        if self._readers.total() >= AT_ONCE or self._readers[caller.name] >= EACH:
            raise Busy(f"{self._readers.total()} letters are being sent; come back", retry_after_s=WAIT_S)
        self._readers[caller.name] += 1
        try:
            async for message in self._read(request, caller):
                yield message
        finally:
            self._readers[caller.name] -= 1

    async def _read(self, request: ReadRequest, caller: Caller) -> AsyncIterator[bytes]:
        mine, digest = self._mine(), exactly(request.digest, 32, "digest")
        verify(request.task, mine, caller.name)
        self._policy().admit_peers(request.task.method)
        found = await asyncio.to_thread(self._letter, request.task, digest)
        length = found.parcel.length
        if request.offset > length:
            raise WrongShape(f"offset {request.offset}; the letter has {length} bytes")
        try:
            file = self._outbox.path(digest).open("rb")
        except OSError:
            raise NotFound("this letter is not here any more") from None
        with file:
            file.seek(request.offset)
            said, at = ReadResponse(head=self._head(found, mine), offset=request.offset), request.offset
            while True:
                data = await asyncio.to_thread(file.read, chunk_bytes(length))
                yield with_data(said, data)
                at += len(data)
                if at >= length or not data:
                    return
                said = ReadResponse(offset=at)

    def _letter(self, task: TaskAssignment, digest: bytes) -> Stored:
        """The update that the reader's task may speak of: a counted one, or one whose receipt is still on its way here. A
        server that fell before it could send that lists the update to others sooner than it tells its sender.
        """
        for found in (*self._keep.letters(), *self._keep.unsettled()):
            if found.parcel.digest == digest and found.key.run == task.id.run:
                sent = TaskAssignment.FromString(found.assignment)
                if (found.key.round + 1, sent.plan_digest) != (task.id.round, task.plan_digest):
                    raise Stale(f"run {task.id.run!r}: this letter is not of the round before round {task.id.round}")
                return found
        raise NotFound(f"run {task.id.run!r}: no such letter of this device")

    def _head(self, found: Stored, mine: Credentials) -> Letterhead:
        # Signed anew: Ed25519 gives the signature that the server has.
        statement = statement_of(TaskAssignment.FromString(found.assignment), mine.client_id, found.parcel)
        return Letterhead(
            manifest=manifest_of(statement),
            signature=mine.signing_key.sign(statement.signing_input()),
            signing_key=public_bytes(mine.signing_key),
            certificate=mine.chain_pem,
        )


class Doorkeeper:
    """Lets in clients of the federation with a certificate that has not ended, and logs every refusal."""

    def __init__(self, federation: str, now: Callable[[], float] = time.time) -> None:
        self._federation, self._now = federation, now

    def admit(self, context: Context, method: str) -> Caller:
        """The caller, or `IdentityError`."""
        caller = Caller(None, context.peer(), context)
        try:
            caller.certificate = certificate_of(context)
            found = caller.identity = identity_of(caller.certificate)
            if (found.federation, found.role) != (self._federation, "client"):
                raise IdentityError(f"{found.uri} may not read here; this is for clients of {self._federation!r}")
            if found.expires_s < self._now():
                raise IdentityError(f"{found.uri}: the certificate has expired; renew it")
        except FlError as error:
            self.refused(caller, method, error)
            raise
        return caller

    def refused(self, caller: Caller | None, method: str, error: FlError) -> None:
        """Log a refusal under the name in the caller's certificate."""
        name = caller.name if caller else "-"
        event(log, logging.WARNING, "peer_refused", peer=peer_text(name), code=error.code, reason=peer_text(error.message))

    def broken(self, error: JournalError) -> None:
        """The keep failed; the next task finds the same and ends the session."""
        event(log, logging.CRITICAL, "disk_failed", reason=error.message)


async def open_listener(
    table: PeersTable, keep: Keep, outbox: Outbox, mine: Callable[[], Credentials], policy: Callable[[], Policy]
) -> tuple[grpc.aio.Server, str]:
    """The device's listener and the address that its peers are told; `ConfigError` when it cannot be listened on."""

    def tls() -> listen.Tls:
        now = mine()
        return listen.Tls(now.key_pem, now.chain_pem, now.roots_pem)

    handler = service(SERVICE, PeerService(keep, outbox, mine, policy), Doorkeeper(mine().federation))
    credentials = listen.server_credentials(tls, client_certificates=True)
    limits = listen.server_options(max_connections=CONNECTIONS)
    server, port = await listen.start([handler], str(table.listen), credentials, limits)
    host = str(table.listen).rpartition(":")[0]
    address = table.advertise or f"{host}:{port}"
    event(log, logging.INFO, "peers_may_read", address=address)
    return server, address
