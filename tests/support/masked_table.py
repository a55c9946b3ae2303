"""A masked round on a real journal, the service in front of it, and its devices in memory."""

import asyncio
import threading
from pathlib import Path
from typing import Any

from tests.support.masked import (
    NOW_S,
    VALUE,
    Memory,
    client,
    identity,
    names,
    roots,
    terms,
)

from edgehold.core.identity import Identity
from edgehold.core.masks.client import MaskClient
from edgehold.proto.rpc import Caller
from edgehold.proto.v1.control_pb2 import TaskId
from edgehold.server.rounds.board import Board
from edgehold.server.rounds.masked import MaskedRound
from edgehold.server.store import masks, records
from edgehold.server.store.journal import Journal
from edgehold.server.wire.masks import MaskService

RUN, KEY = "run", ("run", 3, 1)


class Table:
    """A planned masked round of some devices; `again` is the server after a restart."""

    def __init__(self, folder: Path, count: int = 9, **changed: Any) -> None:
        self.journal, self.who = Journal(folder), names(count)
        self.terms = terms(self.who, **changed)
        self.devices: dict[str, MaskClient] = {who: client(who, self.terms, Memory()) for who in self.who}
        self.round: MaskedRound

    async def plan(self) -> MaskedRound:
        def change(db: Any) -> None:
            records.plan_round(db, KEY, b"n" * 32, self.who, b"m" * 32)
            masks.plan(db, KEY, VALUE, dict.fromkeys(self.who, 0))

        await self.journal.write(change)
        return self.again()

    def again(self) -> MaskedRound:
        row = masks.find(self.journal, KEY)
        assert row is not None
        self.round = MaskedRound(self.journal, KEY, self.terms, row, roots, asyncio.Event())
        return self.round

    async def advertised(self, without: int = 0) -> MaskedRound:
        """All adverts but those of the last few."""
        found = await self.plan()
        await asyncio.gather(*(found.advert(one.advert) for one in list(self.devices.values())[: len(self.who) - without]))
        return found

    async def shared(self, silent: frozenset[str] = frozenset()) -> MaskedRound:
        """Groups drawn, boxes of all but the silent ones delivered."""
        found = await self.advertised()
        await found.draw()
        for who, one in self.devices.items():
            roster = found.roster_of(who)
            assert roster is not None
            boxes = one.share(roster, NOW_S)
            if who not in silent:
                await found.shares(who, boxes)
        await found.close_shares()
        for who in found.masking:
            boxes_ = found.boxes_of(who)
            assert boxes_ is not None
            self.devices[who].receive(boxes_)
        return found


async def held(journal: Journal) -> tuple["asyncio.Task[None]", threading.Event]:
    """Keep the journal's writer busy until the event is set."""
    entered, go = threading.Event(), threading.Event()

    def wait(db: Any) -> None:
        entered.set()
        assert go.wait(20)

    task = asyncio.create_task(journal.write(wait))
    assert await asyncio.to_thread(entered.wait, 20)
    return task, go


class Open:
    """As much of an open round as the service looks at."""

    def __init__(self, table: Table) -> None:
        self.run, self.round, self.attempt = KEY
        self.nonce, self.masks, self.mail = b"n" * 32, table.round, None
        self.tally = type("Tally", (), {"selected": frozenset(table.who)})()


class Admits:
    """A roster that knows everybody."""

    def require(self, identity_: Identity) -> Any:
        return type("Member", (), {"id": identity_.name})()


TASK = TaskId(run=RUN, round=3, attempt=1, nonce=b"n" * 32)


def served(table: Table) -> MaskService:
    board: Any = Board()
    board.unmask(Open(table))
    roster: Any = Admits()
    return MaskService(roster, board, beat_s=0.01)


def caller(who: str) -> Caller:
    key = identity(who)
    context: Any = None
    return Caller(Identity("lab", "client", who, key.public, 0.0, 1e12), "here", context)
