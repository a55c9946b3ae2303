"""Masked rounds over a transport that hangs up, repeats and reorders, on a server that is killed at any moment.

The real service, the real round, the real journal, the real machines of the devices, which refuse whatever does not fit what
they were told before. No receipt is lost, nobody is ever told of two groups or two sets of survivors, and what comes out is
the sum over the survivors, or nothing. EDGEHOLD_SIM_SEEDS sets how many rounds are played.
"""

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest
from tests.support.masked import NOW_S, SERVER, lawful, masked
from tests.support.masked_table import TASK, Table, caller, served

from edgehold.core.errors import FlError, GroupLost, Interrupted, Stale, TransferError
from edgehold.core.masks.sums import GroupSum
from edgehold.core.vectors import Array, Bytes
from edgehold.proto.masks import advert_to, boxes_from, boxes_to, reveal_to, roster_from, survivors_from
from edgehold.proto.v1.masks_pb2 import AdvertiseRequest, RevealRequest, ShareRequest, SurvivorsRequest
from edgehold.server.rounds import masked as module
from edgehold.server.rounds.masked import MaskedRound, Outcome

SEEDS = max(1, int(os.environ.get("EDGEHOLD_SIM_SEEDS", "2000")) // 20)
T = TypeVar("T")


class Killed(Exception):
    """The server dies."""


class World:
    """One attempt from its plan to its end. receipts: of masked vectors, durable as in the journal of a real round."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.table = Table(folder, self.rng.randint(8, 13), entries=37)
        chance = np.random.default_rng(seed)
        self.vectors = {who: chance.integers(0, 4, 37) for who in self.table.who}
        self.receipts: dict[str, Bytes] = {}
        self.frozen: tuple[str, ...] | None = None
        self.handlers: set[asyncio.Task[Any]] = set()
        self.up, self.over = asyncio.Event(), False
        self.told: dict[str, set[bytes]] = {"roster": set(), "set": set()}
        self.acknowledged: dict[str, set[str]] = {"advert": set(), "share": set()}
        self.outcome: Outcome | None = None
        self.seen: Counter[str] = Counter()

    @property
    def round(self) -> MaskedRound:
        return self.table.round

    async def handled(self, begin: Callable[[Any], AsyncIterator[Any]], take: Callable[[Any], T | None]) -> T:
        """What one call of a device brings; it may be cut off at any moment, unnoticed by the device or by the server."""

        async def handler() -> T:
            async with contextlib.aclosing(begin(served(self.table))) as stream:  # type: ignore[type-var]
                async for message in stream:
                    if (found := take(message)) is not None:
                        return found
            raise Interrupted("the stream ended")

        await self.up.wait()
        work = asyncio.create_task(handler())
        self.handlers.add(work)
        work.add_done_callback(self.handlers.discard)
        fate = self.rng.random()
        if fate < 0.2:
            for _ in range(self.rng.randint(0, 8)):
                await asyncio.sleep(0)
            if fate < 0.1:
                work.cancel()
            else:
                work.add_done_callback(lambda one: one.cancelled() or one.exception())
                raise Interrupted("the connection is gone; the server has not noticed")
        try:
            return await work
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            raise Interrupted("the connection is gone") from None

    async def asked(self, begin: Callable[[Any], AsyncIterator[Any]], take: Callable[[Any], T | None]) -> T:
        """The same, until there is an answer."""
        while True:
            try:
                return await self.handled(begin, take)
            except TransferError:
                self.seen["interrupted"] += 1
                await asyncio.sleep(0)

    # ---- a device

    async def device(self, who: str) -> None:
        """All steps, or as far as it gets."""
        machine, me = self.table.devices[who], caller(who)
        vanishes = self.rng.choice((None,) * 12 + (1, 2, 3, 4))

        def roster(message: Any) -> Any:
            if message.HasField("receipt"):
                self.acknowledged["advert"].add(who)
            return message.roster if message.HasField("roster") else None

        def boxes(message: Any) -> Any:
            if message.HasField("receipt"):
                self.acknowledged["share"].add(who)
            return message.boxes if message.HasField("boxes") else None

        try:
            await self.pause(30)
            if vanishes == 1:
                return
            first = AdvertiseRequest(task=TASK, advert=advert_to(machine.advert))
            group = roster_from(await self.asked(lambda service: service.advertise(first, me), roster), self.table.terms)
            self.told["roster"].add(group.digest)
            sealed = ShareRequest(task=TASK, boxes=boxes_to(machine.share(group, NOW_S)))
            await self.pause(10)
            if vanishes == 2:
                return
            found = await self.asked(lambda service: service.share(sealed, me), boxes)
            machine.receive(boxes_from(found.boxes))
            blob = masked(machine, self.vectors[who])
            await self.pause(10)
            if vanishes == 3:
                return
            await self.upload(who, blob)
            asked = SurvivorsRequest(task=TASK)
            there = await self.asked(
                lambda service: service.survivors(asked, me), lambda m: m.set if m.HasField("set") else None
            )
            survivors = survivors_from(there)
            self.told["set"].add(survivors.digest)
            answer = reveal_to(machine.reveal(survivors), RevealRequest(task=TASK))
            if vanishes == 4:
                return
            await self.asked(lambda service: service.reveal(answer, me), lambda message: message.over or None)
            self.seen["to the end"] += 1
        except Stale:
            self.seen["stale"] += 1

    async def upload(self, who: str, blob: Bytes) -> None:
        """A receipt is durable at once here; admission has tests of its own."""
        while True:
            await self.up.wait()
            if self.frozen is not None:
                raise Stale("the round has closed")
            self.round.expects(who)
            self.receipts[who] = blob
            return

    async def pause(self, most: int) -> None:
        for _ in range(self.rng.randint(0, most)):
            await asyncio.sleep(0)

    # ---- the server

    async def drive(self) -> None:
        """As the run's driver, whose deadlines are counted in turns."""
        found = self.round
        if found.step == "advertise":
            await self.until(lambda: len(found.advertised) == len(self.table.who))
            await found.draw()
            assert found.advertised >= self.acknowledged["advert"], "a receipt was given for keys that are not in the draw"
        if found.step == "share":
            await self.until(lambda: found.sharers == found.advertised)
            await found.close_shares()
            assert found.sharers >= self.acknowledged["share"], "a receipt was given for shares that nobody gets"
        if self.frozen is None:
            await self.until(lambda: found.masking <= self.receipts.keys())
            self.frozen = tuple(sorted(self.receipts))
        found.freeze({who: (b"d" * 32, self.receipts[who].size) for who in self.frozen}, SERVER.sign)
        await self.until(lambda: found.enough and not found.silent)
        uploads: dict[str, Any] = {who: self.receipts[who] for who in self.frozen}
        form: Any = SimpleNamespace(law=lawful)
        self.outcome = await asyncio.to_thread(found.settle, uploads, form)
        found.commit()

    async def until(self, true: Callable[[], bool]) -> None:
        for _ in range(self.rng.randint(20, 400)):
            if true():
                return
            await asyncio.sleep(0)

    async def serve(self) -> None:
        """Driven, killed, and started again from the journal."""
        await self.table.plan()
        for _ in range(self.rng.choice((0, 0, 1, 2, 4))):
            self.up.set()
            driving = asyncio.create_task(self.drive())
            for _ in range(self.rng.randint(1, 250)):
                if driving.done():
                    break
                await asyncio.sleep(0)
            if driving.done():
                break
            # What it was about to write may be written all the same, or not.
            self.up.clear()
            driving.cancel()
            for one in list(self.handlers):
                one.cancel()
            await asyncio.gather(driving, *self.handlers, return_exceptions=True)
            self.table.again()
            self.seen["killed"] += 1
        else:
            self.up.set()
            driving = asyncio.create_task(self.drive())
        try:
            await driving
        except GroupLost:
            self.round.end("too few came")
            self.seen["lost"] += 1

    async def play(self) -> None:
        async with asyncio.timeout(60):
            devices = [asyncio.create_task(self.device(who)) for who in self.table.who]
            await self.serve()
            await asyncio.gather(*devices)
            await asyncio.gather(*self.handlers, return_exceptions=True)
        self.check()

    def check(self) -> None:
        assert len(self.told["roster"]) <= 1, "devices were told of two groups"
        assert len(self.told["set"]) <= 1, "devices were told of two sets"
        if self.outcome is None:
            return
        assert not self.outcome.void
        assert self.outcome.suspects == ()
        for one in self.outcome.sums:
            assert one.survivors == self.frozen
            total: Array = sum((self.vectors[who] for who in one.survivors), np.zeros(37, np.int64))
            assert np.array_equal(whole(one), total)
            self.seen["summed"] += 1
        self.seen["masked for ever"] += len(self.outcome.lost)


def whole(found: GroupSum) -> Array:
    return np.concatenate(list(found.blocks()))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_receipt_is_lost_and_nobody_hears_two_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: NOW_S))
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        world = World(folder, seed)
        try:
            asyncio.run(world.play())
        except (AssertionError, FlError, TimeoutError) as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        finally:
            world.table.journal.close()
        seen += world.seen
    # The dice must have shown every kind of trouble, or nothing was tested.
    assert {"killed", "interrupted", "stale", "summed", "to the end", "lost", "masked for ever"} <= seen.keys(), seen
    assert seen["summed"] > SEEDS / 3, seen
