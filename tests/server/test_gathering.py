"""Who is waited for: the asked alone are looked at, however many belong to the federation."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgehold.core.plan import Plan, parse_plan
from edgehold.defenses import registry
from edgehold.server.identity.roster import Member, MemberState
from edgehold.server.rounds.board import Board, OpenRound
from edgehold.server.rounds.floor import Floor
from edgehold.server.rounds.gathering import Gathering
from edgehold.server.rounds.sessions import Sessions
from edgehold.server.rounds.tally import Tally


def plan() -> Plan:
    text = """
        [run]
        name = "r"
        rounds = 1
        task = "t"
        [cohort]
        size = 2
        join_deadline_s = 60.0
        [method]
        name = "fedavg"
    """
    return parse_plan(text, registry.method)[0]


class Members:
    """A roster that counts how often all of it is read."""

    def __init__(self, clients: str) -> None:
        self.read = 0
        self.members = {client: Member(client, "active", b"", b"", 0.0, (), 0.0, 0, 0) for client in clients}

    def __iter__(self) -> Iterator[Member]:
        self.read += 1
        return iter(self.members.values())

    def may_run(self, client: str, task: str) -> bool:
        return client in self.members and self.members[client].may_take_part(task)


class Bed:
    """A gathering for task "t" over the clients a to f, all of them connected."""

    def __init__(self) -> None:
        self.roster, self.sessions, self.board = Members("abcdef"), Sessions(), Board()
        floor = SimpleNamespace(roster=self.roster, sessions=self.sessions, board=self.board)
        self.gathering = Gathering(cast(Floor, floor), plan())
        self.sessions.on_change(self.gathering.client_moved)
        self.open = {client: self.sessions.open(client) for client in "abcdef"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_settling_reads_the_asked_and_not_the_federation(clock: list[float]) -> None:
    bed, tally = Bed(), Tally(frozenset("abc"), 3, 1)
    bed.gathering.settle(tally)
    assert (tally.pending, tally.lost, bed.roster.read) == (frozenset("abc"), set(), 0)


def test_who_is_gone_for_the_join_deadline_is_lost_and_who_comes_back_is_not(clock: list[float]) -> None:
    bed, tally = Bed(), Tally(frozenset("abc"), 3, 1)
    for client in "abf":  # f was not asked
        bed.sessions.close(bed.open[client])
    bed.gathering.settle(tally)
    clock[0] += 59.0
    bed.gathering.settle(tally)
    assert tally.lost == set()
    bed.sessions.open("b")
    clock[0] += 1.0
    bed.gathering.settle(tally)
    assert tally.lost == {"a"}


def test_who_was_asked_before_a_restart_and_never_came_is_lost_too(clock: list[float]) -> None:
    bed, tally = Bed(), Tally(frozenset("ag"), 2, 1)
    bed.roster.members["g"] = Member("g", "active", b"", b"", 0.0, (), 0.0, 0, 0)
    bed.gathering.settle(tally)  # seen missing for the first time
    clock[0] += 60.0
    bed.gathering.settle(tally)
    assert tally.lost == {"g"}


@pytest.mark.parametrize(("state", "tasks"), [("suspended", ()), ("revoked", ()), ("active", ("other",))])
def test_who_may_not_take_part_any_more_counts_no_more(clock: list[float], state: MemberState, tasks: tuple[str, ...]) -> None:
    bed, tally = Bed(), Tally(frozenset("abc"), 3, 1, admitted={"a"})
    for client in "ab":
        bed.roster.members[client].state, bed.roster.members[client].allowed_tasks = state, tasks
    bed.gathering.settle(tally)
    assert (tally.admitted, tally.lost) == (set(), {"a", "b"})
    del bed.roster.members["c"]
    bed.gathering.settle(tally)
    assert tally.lost == {"a", "b", "c"}


def test_whoever_owes_an_update_is_not_asked_for_another(tmp_path: Path) -> None:
    bed = Bed()

    def opened(run: str, tally: Tally) -> OpenRound:
        unread: Any = None
        return OpenRound(run, 1, 1, b"", b"", "t", unread, unread, unread, tally, b"", tmp_path, {})

    bed.board.post(opened("one", Tally(frozenset("abc"), 3, 1, admitted={"a"}, lost={"b"})))
    bed.board.post(opened("two", Tally(frozenset("d"), 1, 1)))
    assert bed.board.owing == frozenset("cd")
    assert bed.gathering.available(without={"e"}) == ["a", "b", "f"]
    bed.sessions.close(bed.open["f"])
    assert bed.gathering.available(()) == ["a", "b", "e"]
