"""One reader, two senders and a server's mailbox over real mutual TLS, each of whom may lie as a test tells it to."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from edgehold.client import identity
from edgehold.client.config import PeersTable
from edgehold.client.direct import Direct
from edgehold.client.identity import Credentials, assemble
from edgehold.client.keep import Keep, TaskKey
from edgehold.client.letters import Expected
from edgehold.client.outbox import Outbox
from edgehold.client.peering import Doorkeeper, open_listener
from edgehold.client.policy import Policy
from edgehold.client.reading import Reading
from edgehold.client.relaying import SERVICE as MAILBOX
from edgehold.client.relaying import relay
from edgehold.core import keys
from edgehold.core.contract import Container, Payload
from edgehold.core.identity import Role
from edgehold.core.manifest import PROTOCOL_VERSION, TaskStatement, UploadStatement
from edgehold.core.vectors import Bytes
from edgehold.proto import listen
from edgehold.proto.channel import Stub
from edgehold.proto.chunks import with_data
from edgehold.proto.rpc import Caller, service
from edgehold.proto.statements import manifest_of
from edgehold.proto.v1.control_pb2 import TaskAssignment, TaskId
from edgehold.proto.v1.mailbox_pb2 import FetchRequest, FetchResponse, FindRequest, FindResponse, Letterhead, Sender
from edgehold.server.identity.ca import CertificateAuthority

FEDERATION, RUN, KIND = "fed", "run", "adding/1"
NAMES = ("reader", "liar", "honest")
CHUNK = 1000
BODY = 4000


@dataclass
class Letter:
    """What travels; a test changes what it likes."""

    head: Letterhead
    data: bytes


@dataclass
class Rig:
    """letters: by sender, as the mailbox has them; addresses: of senders that listen; spoil: what the mailbox does to them."""

    folder: Path
    stack: AsyncExitStack
    letters: dict[str, Letter] = field(default_factory=dict)
    listing: dict[str, bytes] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    relayed: bool = True
    spoil: Callable[[FetchResponse], FetchResponse | None] = lambda message: message

    async def open(self) -> None:
        self.policy = Policy(allowed_methods=("*",), allowed_tasks=("*",), allow_peers=True)
        self.ca = CertificateAuthority.create(self.folder / "ca", FEDERATION)
        self.server_key = Ed25519PrivateKey.generate()
        self.signing = {name: Ed25519PrivateKey.generate() for name in NAMES}
        self.who = {name: self.credentials(name) for name in NAMES}
        self.keep = Keep(self.folder / "keep.db")
        self.stack.callback(self.keep.close)
        for sender in NAMES[1:]:
            self.put(sender, self.payload(sender))
        server = self.tls(self.credentials("server", role="server"))
        handler = service(MAILBOX, self, Doorkeeper(FEDERATION))
        found, port = await self.serve([handler], server)
        self.channel = identity.channel(self.who["reader"], f"localhost:{port}")
        self.stack.push_async_callback(self.channel.close)

    async def serve(self, handlers: Any, tls: listen.Tls) -> Any:
        credentials = listen.server_credentials(lambda: tls, client_certificates=True)
        server, port = await listen.start(handlers, "localhost:0", credentials, listen.server_options())
        self.stack.push_async_callback(server.stop, None)
        return server, port

    @staticmethod
    def tls(mine: Credentials) -> listen.Tls:
        return listen.Tls(mine.key_pem, mine.chain_pem, mine.roots_pem)

    # ---- identities

    def credentials(
        self, name: str, role: Role = "client", signing: Ed25519PrivateKey | None = None, at_s: float = 0.0, **more: Any
    ) -> Credentials:
        key, signing = keys.new_tls_key(), signing or self.signing.get(name) or Ed25519PrivateKey.generate()
        self.ca.now = lambda: time.time() + at_s
        fingerprint = keys.fingerprint(keys.public_bytes(signing))
        chain = self.ca.issue(role, name, key.public_key(), fingerprint, **more).public_bytes(Encoding.PEM)
        parts: dict[str, Any] = {
            "server_address": "", "renew_address": "", "key_pem": keys.key_pem(key), "chain_pem": chain,
            "roots_pem": self.ca.trusted_pem(), "signing_key": signing,
            "server_signing_key": keys.public_bytes(self.server_key),
        }  # fmt: skip
        if role == "client":
            return assemble(**parts)
        like = replace(self.credentials("reader"), client_id=name, signing_key=signing)
        return replace(like, key_pem=parts["key_pem"], chain_pem=chain)

    # ---- letters

    @staticmethod
    def payload(sender: str, more: bytes = b"") -> bytes:
        body = (hashlib.sha256(sender.encode() + more).digest() * (BODY // 32 + 1))[:BODY]
        return Container.prefix(Payload(bytes(8), Bytes(body))) + body

    def head(self, sender: str, data: bytes, mine: Credentials | None = None, **changes: Any) -> Letterhead:
        """The head as it should be but for changes of the statement. mine: whose key and certificate stand for the sender."""
        mine = mine or self.who[sender]
        statement = UploadStatement(
            PROTOCOL_VERSION, FEDERATION, bytes(32), RUN, 1, 1, bytes(32), sender, bytes(32), KIND, len(data),
            hashlib.sha256(data).digest(),
        )  # fmt: skip
        statement = statement._replace(**changes)
        return Letterhead(
            manifest=manifest_of(statement), signature=mine.signing_key.sign(statement.signing_input()),
            signing_key=keys.public_bytes(mine.signing_key), certificate=mine.chain_pem,
        )  # fmt: skip

    def put(self, sender: str, data: bytes) -> None:
        self.letters[sender] = Letter(self.head(sender, data), data)
        self.listing[sender] = hashlib.sha256(data).digest()

    # ---- the server's mailbox

    async def find(self, request: FindRequest, caller: Caller) -> FindResponse:
        found = [Sender(head=self.letters[one].head, address=self.addresses.get(one, "")) for one in request.senders]
        return FindResponse(senders=found, relayed=self.relayed)

    async def fetch(self, request: FetchRequest, caller: Caller) -> AsyncIterator[bytes]:
        start = request.offset
        for sender in request.senders:
            letter = self.letters[sender]
            for at in range(start, max(len(letter.data), start + 1), CHUNK):
                message = FetchResponse(offset=at, head=letter.head if at == start else None)
                message.data = letter.data[at : at + CHUNK]
                spoiled = self.spoil(message)
                if spoiled is not None:
                    data, spoiled.data = spoiled.data, b""
                    yield with_data(spoiled, data)
            start = 0

    # ---- the reader

    def expected(self) -> Expected:
        roots = self.who["reader"].roots_pem
        return Expected(FEDERATION, bytes(32), RUN, 1, KIND, (BODY, BODY), 1 << 20, self.listing, roots)

    def reading(self) -> Reading:
        return Reading(self.task("reader").id, self.expected(), self.keep)

    def mailbox(self) -> Stub:
        return Stub(self.channel, MAILBOX)

    async def relay(self, *senders: str) -> Reading:
        """Read from the mailbox."""
        reading = self.reading()
        await relay(reading, self.mailbox, senders, 2.0)
        return reading

    def task(self, client: str, **changes: Any) -> TaskAssignment:
        """A task that the server signed for a client."""
        statement = TaskStatement(
            PROTOCOL_VERSION, FEDERATION, bytes(32), RUN, 2, 1, bytes(32), client, bytes(32), 4,
            hashlib.sha256(b"header").digest(), bytes(32), bytes(32), "numbers", "adding", b"",
        )  # fmt: skip
        statement = statement._replace(**changes)
        return TaskAssignment(
            id=TaskId(run=statement.run, round=statement.round, attempt=statement.attempt, nonce=statement.nonce),
            protocol_version=statement.protocol_version, federation=statement.federation, plan_digest=statement.plan_digest,
            task=statement.task, method=statement.method, header=b"header", base_digest=statement.base_digest,
            base_length=statement.base_length, roster_digest=statement.roster_digest, deadline_s=60.0,
            schema_digest=statement.schema_digest, signature=self.server_key.sign(statement.signing_input()),
        )  # fmt: skip

    async def direct(self, *senders: str, patience_s: float = 0.0) -> Reading:
        """Read from senders, and from the mailbox what they did not bring, as a device does."""
        reading = self.reading()
        dial = lambda address, peer: identity.channel(self.who["reader"], address, peer)  # noqa: E731
        if await Direct(reading, self.mailbox, dial, self.task("reader"), patience_s).read(senders):
            await relay(reading, self.mailbox, reading.missing(senders), 2.0)
        return reading

    async def listens(self, sender: str) -> str:
        """The sender's own real listener, with its letter; returns its address."""
        home = self.folder / sender
        home.mkdir()
        keep, outbox = Keep(home / "keep.db"), Outbox(home / "outbox")
        self.stack.callback(keep.close)
        data = self.letters[sender].data
        payload = Container.split(Bytes(data))
        parcel = outbox.write(Container.blocks(payload), KIND, durable=False)
        task, key = self.task(sender, round=1), TaskKey(RUN, 1, 1, bytes(32))
        await asyncio.to_thread(keep.receive, key, task.SerializeToString(), 10)
        await asyncio.to_thread(keep.trained, key, parcel, b"")
        await asyncio.to_thread(keep.acknowledge, key)
        server, address = await open_listener(
            PeersTable(listen="127.0.0.1:0"), keep, outbox, lambda: self.who[sender], lambda: self.policy
        )
        self.stack.push_async_callback(server.stop, None)
        self.addresses[sender] = address
        return address


@asynccontextmanager
async def rig(folder: Path) -> AsyncIterator[Rig]:
    """A rig, closed at the end."""
    async with AsyncExitStack() as stack:
        found = Rig(folder, stack)
        await found.open()
        yield found
