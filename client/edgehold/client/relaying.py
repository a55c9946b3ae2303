"""Letters from the server: one stream for all of them, begun again where it broke off."""

import asyncio
from collections.abc import Callable, Sequence

from edgehold.client.reading import Coming, Reading
from edgehold.client.transfer import Backoff, closing, pause
from edgehold.core.errors import FlError, IdentityError, JournalError, NotFound, PeerGone, TransferError, WrongShape
from edgehold.core.logs import peer_text
from edgehold.proto.channel import Stub
from edgehold.proto.v1 import mailbox_pb2
from edgehold.proto.v1.mailbox_pb2 import FetchRequest, FetchResponse

SERVICE = mailbox_pb2.DESCRIPTOR.services_by_name["MailboxService"]


class _Unfit(Exception):
    """The letter that is coming in is not what it must be; nothing is wrong with the connection."""

    def __init__(self, error: FlError) -> None:
        super().__init__(error.message)
        self.error = error


async def relay(reading: Reading, mailbox: Callable[[], Stub], chosen: Sequence[str], stall_s: float) -> None:
    """Fetch letters from the server, going on where a stream broke off. Raises what ends the whole task, as `Stale`.

    mailbox: the stub in force now (renewal replaces it). stall_s: nothing arriving for so long is an interruption.
    """
    left, coming, backoff = list(chosen), Coming(), Backoff()
    while left:
        try:
            await _stream(reading, mailbox(), left, coming, backoff, stall_s)
            for sender in left:
                reading.leave_out(sender, NotFound(f"the server has the letter of {sender!r} no more"))
            return
        except _Unfit as unfit:
            reading.leave_out(left.pop(0), unfit.error)
            coming.clear()
        except TimeoutError:
            await pause(backoff, PeerGone(f"nothing arrived for {stall_s:g} s"), "letters_interrupted")
        except NotFound as error:
            for sender in left:
                reading.leave_out(sender, error)
            return
        except (TransferError, IdentityError) as error:
            await pause(backoff, error, "letters_interrupted")


async def _stream(reading: Reading, mailbox: Stub, left: list[str], coming: Coming, backoff: Backoff, stall_s: float) -> None:
    """One stream. Who is done leaves `left`; `_Unfit` is about its first."""
    loop = asyncio.get_running_loop()
    request = FetchRequest(task=reading.task, senders=left, offset=coming.offset)
    async with (
        asyncio.timeout(stall_s) as stall,
        closing(mailbox.stream("Fetch", request, FetchResponse)) as messages,
    ):
        async for message in messages:
            if message.HasField("head"):
                _skip_to(reading, message.head.manifest.client_id, left, coming)
                try:
                    coming.begin(await reading.judge(message.head, left[0]))
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
                reading.had[left.pop(0)] = whole
                coming.clear()
            backoff.reset()
            stall.reschedule(loop.time() + stall_s)


def _skip_to(reading: Reading, sender: str, left: list[str], coming: Coming) -> None:
    """Letters come in the order asked for, so that those before this one are not at the server any more."""
    if sender not in left:
        raise _Unfit(WrongShape(f"the server sent a letter of {peer_text(sender)!r}, who was not asked for now"))
    while left[0] != sender:
        reading.leave_out(left[0], NotFound(f"the server has the letter of {left[0]!r} no more"))
        left.pop(0)
        coming.clear()
