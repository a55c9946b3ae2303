"""A device reads its peers' letters: asked for here, checked by `letters`, handed to the method as bytes.

A letter that cannot be had, or is not what it must be, is left out, with its reason in the log; the round goes on without it.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

import grpc

from edgehold.client.keep import Keep
from edgehold.client.letters import Expected, Incoming, Signed, signed, two_words
from edgehold.client.transfer import Backoff, closing, pause
from edgehold.core.errors import Corrupted, FlError, IdentityError, JournalError, NotFound, PeerGone, TransferError, WrongShape
from edgehold.core.logs import event, peer_text
from edgehold.proto.channel import Stub
from edgehold.proto.strict import host_port
from edgehold.proto.v1 import mailbox_pb2, peers_pb2
from edgehold.proto.v1.control_pb2 import TaskAssignment, TaskId
from edgehold.proto.v1.mailbox_pb2 import FetchRequest, FetchResponse, FindRequest, FindResponse, Letterhead
from edgehold.proto.v1.peers_pb2 import ReadRequest, ReadResponse

log = logging.getLogger("edgehold.client.reading")

Dial: TypeAlias = "Callable[[str, str], grpc.aio.Channel]"
"""Address and name of a peer -> a channel on which nobody else can answer."""

PEERS = peers_pb2.DESCRIPTOR.services_by_name["PeerService"]
CALLS_AT_ONCE = 4
CALL_S = 5.0
"""A sender that moves nothing for so long is not waited for: there may be somebody else to ask."""
SERVICE = mailbox_pb2.DESCRIPTOR.services_by_name["MailboxService"]


class Reading:
    """The letters of one task. had: whole and checked, by sender; left_out: why the others are not.

    mailbox: the stub in force now (renewal replaces it). stall_s: nothing arriving for so long is an interruption.
    """

    def __init__(self, task: TaskId, expected: Expected, keep: Keep, mailbox: Callable[[], Stub], stall_s: float) -> None:
        self.task = task
        self.expected = expected
        self.had: dict[str, bytes] = {}
        self.left_out: dict[str, FlError] = {}
        self._keep = keep
        self._mailbox = mailbox
        self._stall_s = stall_s
        self._calls = asyncio.Semaphore(CALLS_AT_ONCE)
        self._words: dict[str, list[Signed]] = {}

    def missing(self, chosen: Sequence[str]) -> list[str]:
        """Those of the chosen whose letter is not here yet."""
        return [sender for sender in chosen if sender not in self.had]

    async def relay(self, chosen: Sequence[str]) -> None:
        """Fetch letters from the server, going on where a stream broke off. Raises what ends the whole task, as `Stale`."""
        left, coming, backoff = list(chosen), _Coming(), Backoff()
        while left:
            try:
                await self._stream(left, coming, backoff)
                for sender in left:
                    self.leave_out(sender, NotFound(f"the server has the letter of {sender!r} no more"))
                return
            except _Unfit as unfit:
                self.leave_out(left.pop(0), unfit.error)
                coming.clear()
            except TimeoutError:
                await pause(backoff, PeerGone(f"nothing arrived for {self._stall_s:g} s"), "letters_interrupted")
            except NotFound as error:
                for sender in left:
                    self.leave_out(sender, error)
                return
            except (TransferError, IdentityError) as error:
                await pause(backoff, error, "letters_interrupted")

    async def direct(self, chosen: Sequence[str], assignment: TaskAssignment, dial: Dial, patience_s: float) -> bool:
        """Read letters from their senders; returns whether the server has the others. Where it has not, senders that cannot be
        reached are tried again for `patience_s`, and then left out.
        """
        shown = TaskAssignment()
        shown.CopyFrom(assignment)
        shown.ClearField("inline_body")
        loop, backoff = asyncio.get_running_loop(), Backoff()
        ends = loop.time() + patience_s
        wait = list(chosen)
        while True:
            places, relayed = await self._find(wait)
            tries = await asyncio.gather(*(self._from(one, places.get(one, ""), shown, dial) for one in wait))
            failed = {one: error for one, error in zip(wait, tries, strict=True) if error is not None}
            if relayed:
                for sender, error in failed.items():
                    event(log, logging.INFO, "sender_not_read", sender=sender, code=error.code, reason=peer_text(error.message))
                return True
            # Who cannot be reached may come back; who brought other bytes than it signed brings no better ones.
            gone = [one for one, error in failed.items() if isinstance(error, TransferError) and type(error) is not Corrupted]
            again = gone if loop.time() < ends else []
            for sender in failed.keys() - set(again):
                self.leave_out(sender, failed[sender])
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
                request = FindRequest(task=self.task, senders=chosen)
                found = await self._mailbox().unary("Find", request, FindResponse)
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
                await self.judge(one.head, sender)
            except JournalError:
                raise
            except FlError as error:
                event(log, logging.WARNING, "letterhead_unfit", sender=sender, code=error.code, reason=peer_text(error.message))
        return places, found.relayed

    async def _from(self, sender: str, address: str, shown: TaskAssignment, dial: Dial) -> FlError | None:
        """Read one letter from its sender; why not, otherwise."""
        try:
            if not address:
                raise PeerGone(f"no address of {sender!r} is known; is it connected, and has it a [peers] table?")
            host_port(address, "peer address")
            async with self._calls, dial(address, sender) as channel:
                self.had[sender] = await self._read(Stub(channel, PEERS), sender, shown)
            return None
        except JournalError:
            raise
        except TimeoutError:
            return PeerGone(f"{sender!r} sent nothing for {CALL_S:g} s")
        except FlError as error:
            return error

    async def _read(self, stub: Stub, sender: str, shown: TaskAssignment) -> bytes:
        loop = asyncio.get_running_loop()
        request, coming = ReadRequest(task=shown, digest=self.expected.listing[sender]), _Coming()
        async with asyncio.timeout(CALL_S) as stall, closing(stub.stream("Read", request, ReadResponse)) as messages:
            async for message in messages:
                if message.HasField("head"):
                    coming.begin(await self.judge(message.head, sender))
                whole = coming.take(message.offset, message.data)
                if whole is not None:
                    return whole
                stall.reschedule(loop.time() + CALL_S)
        raise PeerGone(f"{sender!r} stopped in the middle of its letter")

    async def _stream(self, left: list[str], coming: "_Coming", backoff: Backoff) -> None:
        """One stream. Who is done leaves `left`; `_Unfit` is about its first."""
        loop = asyncio.get_running_loop()
        request = FetchRequest(task=self.task, senders=left, offset=coming.offset)
        async with (
            asyncio.timeout(self._stall_s) as stall,
            closing(self._mailbox().stream("Fetch", request, FetchResponse)) as messages,
        ):
            async for message in messages:
                if message.HasField("head"):
                    self._skip_to(message.head.manifest.client_id, left, coming)
                    try:
                        coming.begin(await self.judge(message.head, left[0]))
                    except JournalError:
                        raise
                    except FlError as error:
                        raise _Unfit(error) from None
                if not left:
                    return
                try:
                    whole = coming.take(message.offset, message.data)
                except FlError as error:
                    raise _Unfit(error) from None
                if whole is not None:
                    self.had[left.pop(0)] = whole
                    coming.clear()
                backoff.reset()
                stall.reschedule(loop.time() + self._stall_s)

    def _skip_to(self, sender: str, left: list[str], coming: "_Coming") -> None:
        """Letters come in the order asked for, so that those before this one are not at the server any more."""
        if sender not in left:
            raise _Unfit(WrongShape(f"the server sent a letter of {peer_text(sender)!r}, who was not asked for now"))
        while left[0] != sender:
            self.leave_out(left[0], NotFound(f"the server has the letter of {left[0]!r} no more"))
            left.pop(0)
            coming.clear()

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


class _Unfit(Exception):
    """The letter that is coming in is not what it must be; nothing is wrong with the connection."""

    def __init__(self, error: FlError) -> None:
        super().__init__(error.message)
        self.error = error


class _Coming:
    """The letter that is coming in, over as many streams as it takes."""

    def __init__(self) -> None:
        self._letter: Incoming | None = None

    @property
    def offset(self) -> int:
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
