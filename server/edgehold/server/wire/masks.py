"""MaskService: the steps of a masked sum. What a device waits for comes on the stream of the step before it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from edgehold.core.errors import IdentityError, OutsideLaw, Stale
from edgehold.proto.masks import advert_from, boxes_from, boxes_to, reveal_from, roster_to, survivors_to
from edgehold.proto.rpc import Caller
from edgehold.proto.v1.control_pb2 import TaskId
from edgehold.proto.v1.masks_pb2 import (
    AdvertiseRequest,
    AdvertiseResponse,
    MaskBoxes,
    MaskReceipt,
    RevealRequest,
    RevealResponse,
    ShareRequest,
    ShareResponse,
    SurvivorsRequest,
    SurvivorsResponse,
)
from edgehold.server.identity.roster import Roster
from edgehold.server.rounds.board import Board
from edgehold.server.rounds.masked import MaskedRound

T = TypeVar("T")

BEAT_S = 5.0
"""A stream that waits says so this often."""
_RECEIPT = MaskReceipt()


class MaskService:
    """For devices that have a task of the round, and for nobody else."""

    def __init__(self, roster: Roster, board: Board, beat_s: float = BEAT_S) -> None:
        self._roster = roster
        self._board = board
        self._beat_s = beat_s

    def _enter(self, caller: Caller, task: TaskId) -> MaskedRound:
        if caller.identity is None:
            raise IdentityError("masked sums need a client certificate")
        member, opened = self._roster.require(caller.identity), self._board.find_masked(task)
        if opened.masks is None:
            raise OutsideLaw(f"run {opened.run!r}: its updates travel without masks")
        if member.id not in opened.tally.selected:
            raise Stale(f"run {opened.run!r} round {opened.round}: client {member.id!r} was not selected")
        return opened.masks

    async def advertise(self, request: AdvertiseRequest, caller: Caller) -> AsyncIterator[AdvertiseResponse]:
        """Step 1: a receipt for the keys, then the group."""
        advert = advert_from(request.advert)
        if advert.client != caller.name:
            raise IdentityError(f"the advert speaks for {advert.client!r}, the certificate for {caller.name!r}")
        masked = self._enter(caller, request.task)
        masked.meter.moved("keys", request.ByteSize())
        await masked.advert(advert)
        async for roster in self._awaited(caller, masked, lambda: masked.roster_of(caller.name)):
            reply = AdvertiseResponse(receipt=_RECEIPT) if roster is None else AdvertiseResponse(roster=roster_to(roster))
            masked.meter.moved("keys", reply.ByteSize())
            yield reply

    async def share(self, request: ShareRequest, caller: Caller) -> AsyncIterator[ShareResponse]:
        """Step 2: a receipt for the shares, then those of the others."""
        boxes = boxes_from(request.boxes)
        masked = self._enter(caller, request.task)
        masked.meter.moved("shares", request.ByteSize())
        await masked.shares(caller.name, boxes)
        async for found in self._awaited(caller, masked, lambda: masked.boxes_of(caller.name)):
            reply = ShareResponse(receipt=_RECEIPT) if found is None else ShareResponse(boxes=MaskBoxes(boxes=boxes_to(found)))
            masked.meter.moved("shares", reply.ByteSize())
            yield reply

    async def survivors(self, request: SurvivorsRequest, caller: Caller) -> AsyncIterator[SurvivorsResponse]:
        """Step 4: the set of the caller's group."""
        masked = self._enter(caller, request.task)
        async for found in self._awaited(caller, masked, lambda: masked.survivors_of(caller.name)):
            reply = SurvivorsResponse(waiting=_RECEIPT) if found is None else SurvivorsResponse(set=survivors_to(found))
            masked.meter.moved("reveals", reply.ByteSize())
            yield reply

    async def reveal(self, request: RevealRequest, caller: Caller) -> AsyncIterator[RevealResponse]:
        """Step 5: taken at once; the stream ends when the round is committed."""
        answer = reveal_from(request, caller.name)
        masked = self._enter(caller, request.task)
        masked.meter.moved("reveals", request.ByteSize())
        masked.reveal(answer)
        async for over in self._awaited(caller, masked, masked.is_committed):
            yield RevealResponse(over=bool(over))

    async def _awaited(self, caller: Caller, masked: MaskedRound, found: Callable[[], T | None]) -> AsyncIterator[T | None]:
        """What is found; until then None, at once and at every beat. Who is shut out meanwhile is not told."""
        while True:
            stepped = masked.stepped
            if (value := found()) is not None:
                break
            yield None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._beat_s):
                    await stepped.wait()
            if caller.identity is not None:
                self._roster.require(caller.identity)
        yield value
