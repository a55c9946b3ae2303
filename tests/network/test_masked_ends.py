"""How a masked round may end when nothing goes as planned: the run fails over the sum, or is stopped over its own commit."""

import asyncio
import contextlib
import sqlite3
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import StatusCode
from tests.support import wire
from tests.support.masked_hands import Hand, meeting
from tests.support.waiting import eventually

from edgehold.client.data.synthetic import make_task
from edgehold.core.masks.sums import GroupSum
from edgehold.defenses.baselines.fedavg.server import FedAvgServer
from edgehold.proto.v1 import admin_pb2 as pb
from edgehold.proto.v1.masks_pb2 import AdvertiseResponse, ShareResponse
from edgehold.server.rounds.driver import Driver
from edgehold.server.store import records

VALUES, CLIENTS = 100, 8
PLAN = """
[run]
name = "run"
rounds = 1
task = "synthetic"
[cohort]
size = 8
quorum = 8
over_select = 1.0
[method]
name = "fedavg"
[weights]
by = "equal"
[evaluation]
every = 0
[privacy]
masked = true
[masks]
clip = 4.0
group_least = 8
step_deadline_s = 2.0
"""
START = make_task(VALUES).initial(0)


async def played(hands: list[Hand]) -> None:
    """All steps of all devices, each of which adds 1000 steps of the grid, up to their reveals."""
    for hand in hands:
        await hand.device.task("run")
        hand.begin()
        hand.vector = np.full(VALUES, hand.terms.largest // 2 + 1000)
        await hand.send(hand.advertise(), AdvertiseResponse)
    for hand in hands:
        await hand.roster()
        await hand.send(hand.share(), ShareResponse)
    for hand in hands:
        await hand.boxes()
        assert (await hand.upload()).status is StatusCode.OK
    for hand in hands:
        await hand.asked()
        await hand.revealed()


def model(home: Path, info: pb.RunInfo) -> Any:
    return np.frombuffer((home / "blobs" / info.model_digest.hex()).read_bytes(), "<f4")


def test_a_run_that_fails_over_its_sum_lets_its_devices_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would hold their secrets, and do nothing else for the run, for as long as the connection lasts. Resumed, the round
    has a set of survivors that nobody answers any more: it is void.
    """
    usual, broken = FedAvgServer.fold, [True]

    def fold(half: FedAvgServer, state: Any, groups: list[GroupSum], *more: Any) -> Any:
        if broken and broken.pop():
            raise RuntimeError("planted")
        return usual(half, state, groups, *more)

    monkeypatch.setattr(FedAvgServer, "fold", fold)

    async def play() -> None:
        async with meeting(tmp_path, CLIENTS, VALUES) as (place, hands):
            await wire.submit(place.stub, PLAN)
            await played(hands)
            assert (await wire.finished(place.stub, "run")).state == "failed"
            for hand in hands:
                code = await asyncio.wait_for(_ended(hand), 10)
                assert code is StatusCode.ABORTED
                answer = await hand.ask(hand.reveal())
                assert (answer.status, answer.code) == (StatusCode.FAILED_PRECONDITION, "stale")
            await place.stub.unary("ResumeRun", pb.ResumeRunRequest(run="run"), pb.ResumeRunResponse)
            info = await wire.finished(place.stub, "run")
            assert (info.state, info.rounds_done) == ("finished", 1)
            assert np.array_equal(model(place.home, info), START)

    asyncio.run(play())


async def _ended(hand: Hand) -> StatusCode:
    stream = hand.streams["Reveal"]
    with contextlib.suppress(grpc.aio.AioRpcError):
        while isinstance(await stream.read(), bytes):
            pass
    return await stream.code()  # type: ignore[no-any-return]


def test_a_run_that_is_stopped_over_its_commit_has_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is in the writer's hands when the operator stops the run: the void one that follows must not replace it."""
    usual, again = records.commit_round, Driver._commit
    entered, go = threading.Event(), threading.Event()
    commits: list[Driver] = []

    def commit_round(*arguments: Any) -> bool:
        entered.set()
        assert go.wait(20)
        return usual(*arguments)

    async def let_go() -> None:
        go.set()

    async def commit(driver: Driver, *arguments: Any) -> None:
        commits.append(driver)
        if len(commits) == 2:
            # Its turn comes when this commit waits for the journal.
            commits[0].__dict__["let_go"] = asyncio.create_task(let_go())
        await again(driver, *arguments)

    monkeypatch.setattr(records, "commit_round", commit_round)
    monkeypatch.setattr(Driver, "_commit", commit)

    async def play() -> None:
        async with meeting(tmp_path, CLIENTS, VALUES) as (place, hands):
            await wire.submit(place.stub, PLAN)
            await played(hands)
            await eventually(entered.is_set, what="the commit")
            await place.stub.unary("StopRun", pb.StopRunRequest(run="run"), pb.StopRunResponse)
            info = next(one for one in (await wire.status(place.stub)).runs if one.run == "run")
            assert (info.state, info.rounds_done, len(commits)) == ("stopped", 1, 2)
            step = 1000 * hands[0].terms.grid.step
            assert np.abs(model(place.home, info) - START - step).max() < 2**-22
            assert info.latest.facts["mask_survivors"] == CLIENTS
            with sqlite3.connect(f"file:{place.home / 'journal.db'}?mode=ro", uri=True) as db:
                assert db.execute("SELECT COUNT(*) FROM audit WHERE event='round_committed'").fetchone() == (1,)
            db.close()

    asyncio.run(play())
