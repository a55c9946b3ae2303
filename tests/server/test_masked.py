"""A masked round on the server against a real journal: what is durable before anything leaves, and who is told what when."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support.masked import (
    FEDERATION,
    NOW_S,
    SERVER,
    VALUE,
    Memory,
    authority,
    client,
    identity,
    masked,
    names,
    roots,
    terms,
)
from tests.support.masked_table import KEY, TASK, Table, caller, held, served

from edgehold.core import keys
from edgehold.core.errors import ConfigError, Interrupted, Stale, WrongShape
from edgehold.core.masks.draw import MOST_ASKED, Entrant
from edgehold.core.masks.gathering import Gathering
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.proto.masks import reveal_to
from edgehold.proto.v1.masks_pb2 import RevealRequest, RevealResponse
from edgehold.server.rounds import masked as module
from edgehold.server.rounds.tally import wanted
from edgehold.server.store import records

VECTOR = np.arange(37) % 4


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates of the tests are valid at their own time alone."""
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: NOW_S))


def play(scene: Callable[[], Awaitable[None]], table: Table) -> None:
    try:
        asyncio.run(scene())  # type: ignore[arg-type]
    finally:
        table.journal.close()


def test_a_message_that_has_arrived_is_durable_before_its_step_closes(tmp_path: Path) -> None:
    """The driver may run between two steps of a handler: a draw with an advert that the journal then refuses would be another
    one after a restart, and its devices would be told they were late.
    """
    table = Table(tmp_path)

    async def scene() -> None:
        found = await table.advertised(without=1)
        last = table.devices[table.who[-1]].advert
        arriving, drawing = asyncio.create_task(found.advert(last)), asyncio.create_task(found.draw())
        await asyncio.gather(arriving, drawing)
        assert found.groups[0].roster.ids == table.who
        assert table.again().groups[0].roster == found.groups[0].roster
        found = table.round
        for who in table.who[:-1]:
            await found.shares(who, table.devices[who].share(found.groups[0].roster, NOW_S))
        who = table.who[-1]
        boxes = table.devices[who].share(found.groups[0].roster, NOW_S)
        await asyncio.gather(asyncio.create_task(found.shares(who, boxes)), asyncio.create_task(found.close_shares()))
        assert table.again().sharers == frozenset(table.who)

    play(scene, table)


def test_no_roster_leaves_before_the_draw_is_durable(tmp_path: Path) -> None:
    """Killed in between, the server would take more adverts and draw other groups, which devices refuse."""
    table = Table(tmp_path)

    async def scene() -> None:
        found = await table.advertised(without=1)
        holding, go = await held(table.journal)
        drawing = asyncio.create_task(found.draw())
        while not found.groups:
            await asyncio.sleep(0)
        early = found.roster_of(table.who[0])
        go.set()
        await asyncio.gather(holding, drawing)
        assert early is None
        assert found.roster_of(table.who[0]) == found.groups[0].roster
        with pytest.raises(Stale):
            found.roster_of(table.who[-1])

    play(scene, table)


def test_no_masked_vector_is_taken_of_a_device_that_has_not_shared(tmp_path: Path) -> None:
    """It could not be summed, and would stand in the tally for one that can."""
    table = Table(tmp_path)
    silent = table.who[0]

    async def scene() -> None:
        found = await table.advertised()
        for who in table.who:
            with pytest.raises(Stale):
                found.expects(who)
        await found.draw()
        for who in table.who[1:]:
            await found.shares(who, table.devices[who].share(found.groups[0].roster, NOW_S))
            with pytest.raises(Stale):
                found.expects(who)
        await found.close_shares()
        for who in table.who[1:]:
            found.expects(who)
        for who in (silent, "stranger"):
            with pytest.raises(Stale):
                found.expects(who)

    play(scene, table)


def test_with_every_group_lost_nobody_waits(tmp_path: Path) -> None:
    table = Table(tmp_path)

    async def scene() -> None:
        found = await table.shared()
        assert found.survivors_of(table.who[0]) is None
        blob = masked(table.devices[table.who[0]], VECTOR)
        found.freeze({table.who[0]: (bytes(32), blob.size)}, SERVER.sign)
        assert found.enough, "nothing will ever come that this could wait for"
        with pytest.raises(Stale, match="too few"):
            found.survivors_of(table.who[0])
        form: Any = None
        outcome = await asyncio.to_thread(found.settle, {}, form)
        assert (outcome.sums, outcome.lost) == ([], [table.who])

    play(scene, table)


@pytest.mark.parametrize("ending", ["commit", "end", "leave"])
def test_whoever_has_revealed_hears_of_every_end(tmp_path: Path, ending: str) -> None:
    """A device holds its secrets, and does nothing else for the run, until it is told that the round is over; where nobody
    drives the run any more it is to ask again.
    """
    table = Table(tmp_path)

    async def scene() -> None:
        found = await table.shared()
        uploads = {}
        for who in table.who:
            blob = masked(table.devices[who], VECTOR)
            uploads[who] = (table.devices[who].upload_digest, blob.size)
        found.freeze(uploads, SERVER.sign)
        who = table.who[0]
        survivors = found.survivors_of(who)
        assert survivors is not None
        request = reveal_to(table.devices[who].reveal(survivors), RevealRequest(task=TASK))
        stream = served(table).reveal(request, caller(who))
        assert await anext(stream) == RevealResponse(over=False)
        assert found.silent == frozenset(table.who[1:])
        rest = asyncio.create_task(_last(stream))
        await asyncio.sleep(0)
        {"commit": found.commit, "end": lambda: found.end("it was abandoned"), "leave": found.leave}[ending]()
        async with asyncio.timeout(5):
            if ending == "commit":
                assert await rest == RevealResponse(over=True)
            else:
                with pytest.raises(Stale if ending == "end" else Interrupted):
                    await rest

    play(scene, table)


async def _last(stream: Any) -> Any:
    async for one in stream:
        found = one
    return found


def test_the_first_commit_of_a_round_stands(tmp_path: Path) -> None:
    """A run may be stopped when its commit is on the way already: what ends the attempt then must not end it differently."""
    table = Table(tmp_path)

    async def scene() -> None:
        await table.plan()
        await table.journal.write(lambda db: records.freeze_round(db, KEY))
        assert await table.journal.write(lambda db: records.commit_round(db, KEY, b"a" * 32, "{}", {}))
        assert not await table.journal.write(lambda db: records.commit_round(db, KEY, b"b" * 32, "{}", {}))
        assert table.journal.read("SELECT model FROM rounds") == [(b"a" * 32,)]

    play(scene, table)


@pytest.mark.parametrize(("size", "asked"), [(3150, 4095), (3151, 4097)])
def test_no_more_devices_are_asked_than_a_roster_can_name(size: int, asked: int) -> None:
    text = (
        f'[run]\nname = "r"\nrounds = 1\ntask = "t"\n[cohort]\nsize = {size}\nover_select = 1.3\n[method]\nname = "fedavg"\n'
        '[weights]\nby = "equal"\n[privacy]\nmasked = true\n[masks]\nclip = 1.0\n'
    )
    assert wanted(size, 1.3) == asked
    if asked <= MOST_ASKED:
        parse_plan(text, registry.method)
    else:
        with pytest.raises(ConfigError, match="asks 4097 devices"):
            parse_plan(text, registry.method)


def test_no_key_is_taken_twice_whoever_comes_first() -> None:
    """Devices refuse a group with one key twice in it: whoever would spoil its group so is turned away, the first one too."""
    how = terms(names(9))
    gathering = Gathering(how, VALUE, [Entrant(who) for who in names(9)])
    mine = identity("device-000")
    honest = client("device-000", how, Memory()).advert
    twin = replace(honest, seal_key=honest.mask_key)
    with pytest.raises(WrongShape, match="in use"):
        gathering.add(replace(twin, signature=mine.key.sign(twin.signing_input())), roots(), NOW_S)
    gathering.add(honest, roots(), NOW_S)
    tls = keys.new_tls_key().public_key()
    made = authority(FEDERATION, 0).issue("client", "device-001", tls, keys.fingerprint(mine.public)).public_bytes(Encoding.DER)
    puppet = client("device-001", how, Memory(), certificate=made, signing_key=mine.public, sign=mine.key.sign)
    with pytest.raises(WrongShape, match="in use"):
        gathering.add(puppet.advert, roots(), NOW_S)
    assert gathering.adverts.keys() == {"device-000"}
