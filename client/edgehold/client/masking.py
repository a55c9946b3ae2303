"""A device in a masked sum: from a stored update to its masked vector, and from the counted vector to what unmasks the sum.

After each step the machine's state is in the keep, sealed, before anything of the step leaves; a device that was killed goes on
where it was. What it refuses is an audit line in its log, and a second set of survivors is met with silence.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import Message

from edgehold.client.accounts import Accounts
from edgehold.client.identity import Credentials
from edgehold.client.keep import Keep, TaskKey
from edgehold.client.link import Link
from edgehold.client.outbox import Outbox, Parcel
from edgehold.client.refusals import names
from edgehold.client.shelf import Shelf
from edgehold.client.transfer import Backoff, closing, pause
from edgehold.client.worker import TrainingThread, Workbench
from edgehold.core.contract import Container, Payload
from edgehold.core.crashpoints import reach
from edgehold.core.errors import IdentityError, JournalError, MaskRefused, PeerGone, TransferError
from edgehold.core.keys import public_bytes
from edgehold.core.logs import event
from edgehold.core.masks.client import MaskClient
from edgehold.core.masks.messages import Box, Roster, Survivors
from edgehold.core.masks.noise import SharedNoise, noised, sensitivities
from edgehold.core.masks.terms import Terms
from edgehold.core.masks.upload import KIND
from edgehold.core.vectors import Array, Bytes
from edgehold.proto.masks import advert_to, boxes_from, boxes_to, reveal_to, roster_from, survivors_from
from edgehold.proto.terms import terms_of
from edgehold.proto.v1.control_pb2 import TaskAssignment
from edgehold.proto.v1.masks_pb2 import (
    AdvertiseRequest,
    AdvertiseResponse,
    RevealRequest,
    RevealResponse,
    ShareRequest,
    ShareResponse,
    SurvivorsRequest,
    SurvivorsResponse,
)

log = logging.getLogger("edgehold.client.masking")

M = TypeVar("M", bound=Message)
T = TypeVar("T")


class Who(Protocol):
    """Identity and connection in force now (renewal replaces them)."""

    def __call__(self) -> tuple[Credentials, Link]: ...


class Masking:
    """All masked sums of one client. stall_s: a stream that says nothing for so long is begun again."""

    def __init__(
        self, keep: Keep, outbox: Outbox, shelf: Shelf, who: Who, training: TrainingThread, bench: Workbench,
        accounts: Accounts, stall_s: float,
    ) -> None:  # fmt: skip
        self._keep, self._outbox, self._shelf, self._who, self._stall_s = keep, outbox, shelf, who, stall_s
        self._training, self._bench, self._accounts = training, bench, accounts

    async def vector(self, key: TaskKey, assignment: TaskAssignment, plain: Parcel) -> Parcel:
        """Steps 1 to 3: the masked vector of a stored update, stored. Nothing else than it may ever be uploaded for this task.

        Raises the `MaskRefused` that says why this device does not take part, or the server's final answer (`Stale`).
        """
        return await _audited(assignment, self._vector(key, assignment, plain))

    async def unmask(self, key: TaskKey, assignment: TaskAssignment) -> None:
        """Steps 4 and 5, once the masked vector is counted: give what unmasks the sum over one set, until the round is over.

        Raises `MaskRefused` for a set that this device does not answer, `Stale` when the round is over without it.
        """
        await _audited(assignment, self._unmask(key, assignment))

    async def _vector(self, key: TaskKey, assignment: TaskAssignment, plain: Parcel) -> Parcel:
        machine, parcel = await asyncio.to_thread(self._machine, key, assignment)
        if parcel is not None:
            return parcel
        if machine.phase == "advertised":
            reach("advert_stored")
            request = AdvertiseRequest(task=assignment.id, advert=advert_to(machine.advert))
            roster = await self._ask(request, AdvertiseResponse, lambda found: self._roster(found, assignment))
            boxes = await asyncio.to_thread(machine.share, roster, time.time())
            await self._store(key, machine)
            reach("shares_stored")
        else:
            boxes = await asyncio.to_thread(machine.share_again)
        if machine.phase == "shared":
            shared = ShareRequest(task=assignment.id, boxes=boxes_to(boxes))
            sealed = await self._ask(shared, ShareResponse, _boxes)
            await asyncio.to_thread(machine.receive, sealed)
            await self._store(key, machine)
            reach("boxes_stored")
        parcel = await self._training.run(lambda: self._masked(key, assignment, machine, plain))
        event(log, logging.INFO, "masked", bytes=parcel.length, members=len(machine.members), **names(assignment.id))
        reach("masked_stored")
        return parcel

    async def _unmask(self, key: TaskKey, assignment: TaskAssignment) -> None:
        machine, _ = await asyncio.to_thread(self._machine, key, assignment)
        survivors = await self._ask(SurvivorsRequest(task=assignment.id), SurvivorsResponse, _survivors)
        answer = await asyncio.to_thread(machine.reveal, survivors)
        await self._store(key, machine)
        reach("reveal_not_sent")
        request = reveal_to(answer, RevealRequest(task=assignment.id))
        await self._ask(request, RevealResponse, lambda found: found.over or None)
        event(log, logging.INFO, "revealed", survivors=len(survivors.clients), **names(assignment.id))

    def _machine(self, key: TaskKey, assignment: TaskAssignment) -> tuple[MaskClient, Parcel | None]:
        """The machine where it stands; new at step 1, and stored then. And the masked vector, where there is one."""
        mine, _ = self._who()
        roots, server_key = x509.load_pem_x509_certificates(mine.roots_pem), mine.server_signing_key.public_bytes_raw()
        if (known := self._keep.masked(key)) is not None:
            state, parcel = known
            machine = MaskClient.restore(state, roots=roots, server_key=server_key, journal=self._keep)
            return machine, parcel if parcel is not None and self._outbox.holds(parcel) else None
        terms = terms_of(assignment)
        machine = MaskClient.advertise(
            terms,
            mine.client_id,
            certificate=x509.load_pem_x509_certificate(mine.chain_pem).public_bytes(Encoding.DER),
            signing_key=public_bytes(mine.signing_key),
            sign=mine.signing_key.sign,
            roots=roots,
            server_key=server_key,
            journal=self._keep,
            renewed=terms.variance > 0,
        )
        self._keep.mask(key, machine.dump())
        return machine, None

    def _masked(self, key: TaskKey, assignment: TaskAssignment, machine: MaskClient, plain: Parcel) -> Parcel:
        """The masked vector, made from the stored update; for the training thread."""
        terms = terms_of(assignment)
        vector = self._bench.vector(assignment, self._outbox.path(plain.digest).read_bytes(), terms)
        if (noise := SharedNoise.of(terms)) is not None:
            vector = self._noised(assignment, noise, terms, len(machine.members), vector)
        blocks = (block.data for block in machine.mask(vector))

        def note(parcel: Parcel) -> bool:
            reach("masked_not_stored")
            self._keep.mask(key, machine.dump(), parcel)
            return True

        parcel = self._shelf.put(_framed(blocks), KIND, True, note)
        assert parcel is not None  # `note` raises where it is no longer wanted
        return parcel

    def _noised(
        self, assignment: TaskAssignment, noise: SharedNoise, terms: Terms, members: int, vector: Iterator[Array]
    ) -> Iterator[Array]:
        """The vector with this device's share of the noise, which is charged before any is drawn."""
        # Forms keep to the norm as the vector lies on the grid, whatever rounding did to it.
        sensitivity, absolute = sensitivities(terms.entries, terms.norm / terms.grid.step)
        released = (noise.event(terms.entries, members, sensitivity, absolute),)
        if not self._accounts.charge(assignment, released):
            raise JournalError("noise of a masked sum does not fit the privacy ledger; nothing was released")
        reach("noise_charged")
        source = noise.drawn(members)
        return (noised(block, source) for block in vector)

    def _roster(self, found: AdvertiseResponse, assignment: TaskAssignment) -> Roster | None:
        return roster_from(found.roster, terms_of(assignment)) if found.HasField("roster") else None

    async def _store(self, key: TaskKey, machine: MaskClient) -> None:
        await asyncio.to_thread(self._keep.mask, key, machine.dump())

    async def _ask(self, request: Message, reply: type[M], take: Callable[[M], T | None]) -> T:
        """What a step's stream brings in the end; begun again, with the same message, where it breaks off."""
        method, backoff, loop = request.DESCRIPTOR.name.removesuffix("Request"), Backoff(), asyncio.get_running_loop()
        while True:
            try:
                async with (
                    asyncio.timeout(self._stall_s) as stall,
                    closing(self._who()[1].masks.stream(method, request, reply)) as events,
                ):
                    async for message in events:
                        stall.reschedule(loop.time() + self._stall_s)
                        backoff.reset()
                        if (found := take(message)) is not None:
                            return found
                error: TransferError | IdentityError = PeerGone("the stream ended before its answer")
            except TimeoutError:
                error = PeerGone(f"nothing arrived for {self._stall_s:g} s")
            except (TransferError, IdentityError) as interruption:
                error = interruption
            await pause(backoff, error, "masked_sum_interrupted", step=method)


def _boxes(found: ShareResponse) -> tuple[Box, ...] | None:
    return boxes_from(found.boxes.boxes) if found.HasField("boxes") else None


def _survivors(found: SurvivorsResponse) -> Survivors | None:
    return survivors_from(found.set) if found.HasField("set") else None


def _framed(blocks: Iterator[Any]) -> Iterator[bytes | memoryview]:
    """As any update travels: a header, here an empty one, and the body."""
    yield Container.prefix(Payload(b"", Bytes(b"")))
    yield from blocks


async def _audited(task: TaskAssignment, step: Awaitable[T]) -> T:
    """The result of a step; a refusal leaves its audit line first."""
    try:
        return await step
    except MaskRefused as error:
        event(log, logging.WARNING, "mask_refused", audit=error.audit, **names(task.id))
        raise
