"""The rounds that are open now: what was asked of whom, and what has come in."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgehold.core.contract import Uploads
from edgehold.core.errors import Stale
from edgehold.core.vectors import Schema
from edgehold.proto.v1.control_pb2 import TaskAssignment, TaskId
from edgehold.server.rounds.masked import MaskedRound
from edgehold.server.rounds.tally import Tally
from edgehold.server.store.blobs import FileBlob
from edgehold.server.store.mail import Mail
from edgehold.server.store.spool import SealedFile


@dataclass(slots=True)
class OpenRound:
    """One attempt at one round while updates come in. updates: client -> its sealed file and the
    update read from it. uploads: how they are read. changed: set whenever the tally may decide anew.
    rejected: clients whose update was refused. mail: the letters of the round before, for methods whose devices read them.
    masks: the masked sum, where updates are summed under masks; its steps go on after the last upload. since_s: monotonic time
    at which the attempt began (again, after a restart); deadline_s: seconds it may take to collect what it waits for.
    """

    run: str
    round: int
    attempt: int
    nonce: bytes
    plan_digest: bytes
    task: str
    base: FileBlob
    schema: Schema
    uploads: Uploads[Any]
    tally: Tally
    key: bytes
    folder: Path
    assignments: dict[str, TaskAssignment]
    updates: dict[str, tuple[SealedFile, Any]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    rejected: set[str] = field(default_factory=set)
    mail: Mail | None = None
    masks: MaskedRound | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    since_s: float = field(default_factory=time.monotonic)
    deadline_s: float = 0.0

    @property
    def id(self) -> TaskId:
        """What clients call this round."""
        return TaskId(run=self.run, round=self.round, attempt=self.attempt, nonce=self.nonce)

    def close(self) -> None:
        """Let go of the files of the admitted updates."""
        for file, _ in self.updates.values():
            file.close()

    def wake(self) -> None:
        """Let the run look at its tally."""
        self.changed.set()


class Board:
    """Open rounds by (run, round, attempt), and which client owes an update to which."""

    def __init__(self) -> None:
        self._rounds: dict[tuple[str, int, int], OpenRound] = {}
        self._masked: dict[tuple[str, int, int], OpenRound] = {}
        self._under_way: dict[tuple[str, int, int], OpenRound] = {}

    def begin(self, opened: OpenRound) -> None:
        """A round is under way until `forget`: it collects, then it closes."""
        self._under_way[opened.run, opened.round, opened.attempt] = opened

    @property
    def under_way(self) -> list[OpenRound]:
        """Rounds that are neither committed nor abandoned, oldest first."""
        return list(self._under_way.values())

    def collects(self, opened: OpenRound) -> bool:
        """Whether the round still takes updates."""
        return (opened.run, opened.round, opened.attempt) in self._rounds

    def post(self, opened: OpenRound) -> None:
        """A round's tasks go out."""
        self._rounds[opened.run, opened.round, opened.attempt] = opened

    def take_down(self, opened: OpenRound) -> None:
        """The round takes no more updates."""
        self._rounds.pop((opened.run, opened.round, opened.attempt), None)

    def unmask(self, opened: OpenRound) -> None:
        """The steps of a masked sum may be played from now on, until `forget`."""
        self._masked[opened.run, opened.round, opened.attempt] = opened

    def forget(self, opened: OpenRound) -> None:
        """The round is over."""
        self.take_down(opened)
        for rounds in (self._masked, self._under_way):
            rounds.pop((opened.run, opened.round, opened.attempt), None)

    def find(self, task: TaskId) -> OpenRound:
        """The open round a message speaks of; `Stale` when there is none, or its nonce is another."""
        return self._found(self._rounds, task)

    def find_masked(self, task: TaskId) -> OpenRound:
        """The round whose masked sum a message speaks of: still open, or closing. It may be one without masks."""
        return self._found(self._masked if (task.run, task.round, task.attempt) in self._masked else self._rounds, task)

    @staticmethod
    def _found(rounds: Mapping[tuple[str, int, int], OpenRound], task: TaskId) -> OpenRound:
        opened = rounds.get((task.run, task.round, task.attempt))
        if opened is None:
            raise Stale(f"run {task.run!r} round {task.round} attempt {task.attempt} is not open here; drop this task")
        if opened.nonce != task.nonce:
            raise Stale(f"run {task.run!r} round {task.round}: the nonce is not the one given out; drop this task")
        return opened

    def owed_by(self, client: str) -> list[OpenRound]:
        """Open rounds that still wait for this client."""
        return [opened for opened in self._rounds.values() if client in opened.tally.pending]

    @property
    def owing(self) -> frozenset[str]:
        """Clients that some open round still waits for."""
        return frozenset[str]().union(*(opened.tally.pending for opened in self._rounds.values()))

    def shut_out(self, client: str) -> None:
        """A client is revoked or suspended: no round that is still open counts it."""
        for opened in self._rounds.values():
            opened.tally.drop(client)
            opened.wake()

    def serves(self, client: str, digest: bytes) -> OpenRound | None:
        """An open round whose base model this client was told to fetch."""
        for opened in self._rounds.values():
            if client in opened.tally.selected and opened.base.digest == digest:
                return opened
        return None
