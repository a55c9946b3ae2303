"""Letters from their senders: the server says where they are, and each proves by its certificate that it is the one."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import grpc

from edgehold.client.reading import Coming, Reading
from edgehold.client.transfer import Backoff, closing, pause
from edgehold.core.errors import Corrupted, FlError, IdentityError, JournalError, NotFound, PeerGone, TransferError
from edgehold.core.logs import event, peer_text
from edgehold.proto.channel import Stub
from edgehold.proto.strict import host_port
from edgehold.proto.v1 import peers_pb2
from edgehold.proto.v1.control_pb2 import TaskAssignment
from edgehold.proto.v1.mailbox_pb2 import FindRequest, FindResponse
from edgehold.proto.v1.peers_pb2 import ReadRequest, ReadResponse

log = logging.getLogger("edgehold.client.direct")

Dial: TypeAlias = "Callable[[str, str], grpc.aio.Channel]"
"""Address and name of a peer -> a channel on which nobody else can answer."""

SERVICE = peers_pb2.DESCRIPTOR.services_by_name["PeerService"]
CALLS_AT_ONCE = 4
CALL_S = 5.0
SLOWEST_BYTES = 256 << 10
"""A sender gets CALL_S for its head, and as long again for so many bytes each: no trickle holds a round up."""


@dataclass(frozen=True)
class Direct:
    """How a device reads senders. mailbox: the stub in force now (renewal replaces it); task: shown to senders, without body;
    patience_s: how long senders that cannot be reached are tried again where the server has no letters.
    """

    reading: Reading
    mailbox: Callable[[], Stub]
    dial: Dial
    task: TaskAssignment
    patience_s: float

    async def read(self, chosen: Sequence[str]) -> bool:
        """Read what can be had from the chosen senders; returns whether the server has the rest. Otherwise it is left out."""
        loop, backoff, calls = asyncio.get_running_loop(), Backoff(), asyncio.Semaphore(CALLS_AT_ONCE)
        ends, wait = loop.time() + self.patience_s, list(chosen)
        while True:
            places, relayed = await self._find(wait)
            tries = await asyncio.gather(*(self._from(one, places.get(one, ""), calls) for one in wait))
            failed = {one: error for one, error in zip(wait, tries, strict=True) if error is not None}
            if relayed:
                for sender, error in failed.items():
                    event(log, logging.INFO, "sender_not_read", sender=sender, code=error.code, reason=peer_text(error.message))
                return True
            # Who cannot be reached may come back; who brought other bytes than it signed brings no better ones.
            gone = [one for one, error in failed.items() if isinstance(error, TransferError) and type(error) is not Corrupted]
            again = gone if loop.time() < ends else []
            for sender in sorted(failed.keys() - set(again)):
                self.reading.leave_out(sender, failed[sender])
            if not again:
                return False
            wait = again
            await asyncio.sleep(min(backoff.after(None), 1.0))

    async def _find(self, chosen: Sequence[str]) -> tuple[dict[str, str], bool]:
        """Addresses of senders, and whether the server has their letters. What they signed is judged here too: it stands beside
        what they show themselves.
        """
        backoff = Backoff()
        while True:
            try:
                request = FindRequest(task=self.reading.task, senders=chosen)
                found = await self.mailbox().unary("Find", request, FindResponse)
                break
            except NotFound as error:
                event(log, logging.WARNING, "letters_unknown", code=error.code, reason=peer_text(error.message))
                return {}, False
            except (TransferError, IdentityError) as error:
                await pause(backoff, error, "letters_interrupted")
        places = {}
        for one in found.senders:
            sender = one.head.manifest.client_id
            if sender not in chosen:
                continue
            places[sender] = one.address
            try:
                await self.reading.judge(one.head, sender)
            except JournalError:
                raise
            except FlError as error:
                event(log, logging.WARNING, "letterhead_unfit", sender=sender, code=error.code, reason=peer_text(error.message))
        return places, found.relayed

    async def _from(self, sender: str, address: str, calls: asyncio.Semaphore) -> FlError | None:
        """Read one letter from its sender; why not, otherwise."""
        try:
            if not address:
                raise PeerGone(f"no address of {sender!r} is known; is it connected, and has it a [peers] table?")
            host_port(address, "peer address")
            async with calls, self.dial(address, sender) as channel:
                self.reading.had[sender] = await self._read(Stub(channel, SERVICE), sender)
            return None
        except JournalError:
            raise
        except TimeoutError:
            return PeerGone(f"{sender!r} is too slow; its letter is not waited for")
        except FlError as error:
            return error

    async def _read(self, stub: Stub, sender: str) -> bytes:
        loop = asyncio.get_running_loop()
        request, coming = ReadRequest(task=self.task, digest=self.reading.expected.listing[sender]), Coming()
        async with asyncio.timeout(CALL_S) as limit, closing(stub.stream("Read", request, ReadResponse)) as messages:
            async for message in messages:
                if message.HasField("head"):
                    coming.begin(await self.reading.judge(message.head, sender))
                    if not coming.offset:
                        length = message.head.manifest.payload_length
                        limit.reschedule(loop.time() + CALL_S * (1 + length / SLOWEST_BYTES))
                whole = coming.take(message.offset, message.data)
                if whole is not None:
                    return whole
        raise PeerGone(f"{sender!r} stopped in the middle of its letter")
