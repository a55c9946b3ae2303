"""Where the work is done: one thread that trains, and the path from a task's bytes to an update's.

Everything heavy is imported here and only when a task asks for it, so that an idle daemon stays small.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, cast

from edgehold.client.config import ClientConfig, call
from edgehold.core.contract import (
    ClientSide,
    Codec,
    Container,
    Facts,
    Method,
    Needs,
    Payload,
    PeerClientSide,
    PrivateClientSide,
)
from edgehold.core.errors import ConfigError, FlError, JournalError, RejectedUpdate, WrongShape
from edgehold.core.masks.terms import Terms
from edgehold.core.privacy.events import Event
from edgehold.core.task import Task
from edgehold.core.vectors import Array, Bytes
from edgehold.proto.v1.control_pb2 import TaskAssignment

T = TypeVar("T")

Charge: TypeAlias = Callable[[tuple[Event, ...]], bool]
"""Charges what is about to be released, durably; False when the local state does not go on from what was charged last."""


class TrainingThread:
    """The one thread that trains, for all clients of the process. It never keeps the process from ending.

    busy: whether it is in the middle of something now.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.busy = False

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, done after everything that was asked for before. Cancelling stops the wait, not the work."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()

        def settle(set_result: Callable[[Any], None], value: Any) -> None:
            if not result.done():
                set_result(value)

        def job() -> None:
            if result.cancelled():
                return
            try:
                outcome: tuple[Callable[[Any], None], Any] = (result.set_result, work())
            except BaseException as error:
                outcome = (result.set_exception, error)
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, *outcome)

        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="training", daemon=True)
            self._thread.start()
        self._jobs.put(job)
        return await result

    def _serve(self) -> None:
        while True:
            job = self._jobs.get()
            self.busy = True
            job()
            self.busy = False


class Cancelled(Exception):
    """The task is no longer wanted; noticed between two steps of the work."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What came out of a round: the update to send, and the local state that holds once it is counted."""

    payload: Payload
    kind: str
    durable: bool
    local: bytes
    facts: Facts


@dataclass(slots=True)
class Begun:
    """A round between its two halves. listing: sender -> digest; chosen: whose letters the method wants; sent: those read."""

    assignment: TaskAssignment
    codec: Codec[Any, Any]
    task: Task
    order: Any
    state: Any
    rng: Any
    listing: dict[str, bytes] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()
    sent: dict[str, Any] = field(default_factory=dict)


class Workbench:
    """The tasks and method halves of one client, each made once. Every method blocks: call it in the training thread."""

    def __init__(self, config: ClientConfig, client_id: str) -> None:
        self._config = config
        self._client_id = client_id
        self._tasks: dict[str, Task] = {}
        self._sides: dict[str, tuple[Codec[Any, Any], ClientSide[Any, Any, Any], ClientSide[Any, Any, Any]]] = {}

    def task(self, name: str) -> Task:
        """The device's task of that name; `ConfigError` when it has none or cannot make it."""
        if name not in self._tasks:
            table = self._config.tasks.get(name)
            if table is None:
                raise ConfigError(f"this device has no task {name!r}; its owner adds [tasks.{name}] to client.toml")
            self._tasks[name] = call(table.task, table.options, f"tasks.{name}.task")
        return self._tasks[name]

    def admit(self, assignment: TaskAssignment) -> None:
        """Return if this device can do the task, else `ConfigError` or, for another model than its own, `WrongShape`."""
        self._side(assignment.method)
        schema = self._guard(lambda: self.task(assignment.task).schema)
        if schema.digest != assignment.schema_digest:
            raise WrongShape(
                f"task {assignment.task!r}: the server's model has schema {assignment.schema_digest.hex()[:16]}, "
                f"this device's {schema.digest.hex()[:16]}; their code must define the same tensors"
            )

    def work(
        self,
        assignment: TaskAssignment,
        body: bytes | memoryview,
        local: bytes | None,
        cancelled: threading.Event,
        charge: Charge,
    ) -> Trained:
        """One round. local: committed state of the run, None at first contact. `Cancelled` when it is no longer wanted.

        What a private method is about to release is charged before any noise is drawn; what `charge` raises ends the round.
        """
        return self.finish(self.begin(assignment, body, local, cancelled), cancelled, charge)

    def begin(
        self, assignment: TaskAssignment, body: bytes | memoryview, local: bytes | None, cancelled: threading.Event
    ) -> "Begun":
        """The first half of a round, up to where a method with peers says whose letters it wants."""
        from edgehold.core.streams import client_stream

        codec, side, _ = self._side(assignment.method)
        task = self.task(assignment.task)
        order = codec.decode_order(Payload(assignment.header, Bytes(body)), task.schema)
        where = assignment.id
        rng = client_stream(order.seed, where.run, where.round, self._client_id)
        if cancelled.is_set():
            raise Cancelled
        state = self._guard(lambda: side.begin(order, task, rng) if local is None else side.load(local))
        begun = Begun(assignment, codec, task, order, state, rng)
        if self.needs(assignment.method).peers:
            peers = cast(PeerClientSide[Any, Any, Any], side)
            begun.listing = dict(order.listing)
            begun.chosen = tuple(self._guard(lambda: peers.choose(order, state, task, rng)))
            if unlisted := set(begun.chosen) - begun.listing.keys():
                raise WrongShape(f"the method chose {sorted(unlisted)[:3]}, whom its order does not list")
        return begun

    def decode(self, begun: "Begun", letters: Mapping[str, bytes]) -> dict[str, RejectedUpdate]:
        """Read letters by the method's law; returns why some of them break it. The others are what the method receives."""
        refused = {}
        for sender in sorted(letters):
            try:
                begun.sent[sender] = begun.codec.decode_update(Container.split(Bytes(letters[sender])), begun.task.schema)
            except RejectedUpdate as error:
                refused[sender] = error
        return refused

    def vector(self, assignment: TaskAssignment, sent: bytes, terms: Terms) -> Iterator[Array]:
        """An encoded update as what is summed under masks. `WrongShape` where the terms are not those of such an update."""
        from edgehold.defenses import registry

        codec, _, _ = self._side(assignment.method)
        schema = self._guard(lambda: self.task(assignment.task).schema)
        form = registry.masked(assignment.method).form(schema, terms)
        if (form.entries, form.largest) != (terms.entries, terms.largest):
            raise WrongShape(
                f"terms of a sum with {terms.entries} entries up to {terms.largest}; this update has {form.entries} up to "
                f"{form.largest}"
            )
        return form.vector(codec.decode_update(Container.split(Bytes(sent)), schema))

    def finish(self, begun: "Begun", cancelled: threading.Event, charge: Charge) -> Trained:
        """The other half of a round, with the letters that could be had."""
        from edgehold.core.streams import new_state_stream

        assignment, where = begun.assignment, begun.assignment.id
        codec, side, honest = self._side(assignment.method)
        order, task, rng = begun.order, begun.task, begun.rng
        needs = self.needs(assignment.method)

        def received(state: Any, rng: Any) -> Any:
            return cast(PeerClientSide[Any, Any, Any], side).receive(order, state, begun.sent, task, rng)

        if cancelled.is_set():
            raise Cancelled
        state = self._guard(lambda: received(begun.state, rng)) if needs.peers else begun.state
        if needs.charges:
            # The honest half says what it costs, whatever an adversary around it would say.
            private = cast(PrivateClientSide[Any, Any, Any], honest)
            if not charge(self._guard(lambda: private.charges(order, state, task))):
                anew = new_state_stream(order.seed, where.run, where.round, where.attempt, self._client_id)
                state = self._guard(lambda: side.begin(order, task, anew))
                if needs.peers:
                    state = self._guard(lambda: received(state, anew))
                if not charge(self._guard(lambda: private.charges(order, state, task))):
                    raise JournalError("a fresh local state does not fit the privacy ledger; nothing was released")
        state, update, facts = self._guard(lambda: side.work(order, state, task, rng))
        if cancelled.is_set():
            raise Cancelled
        payload, kept = self._guard(lambda: (codec.encode_update(update), side.dump(state)))
        # What moves local state must not be made twice: after a power cut it would start from another state.
        durable = bool(kept) or self.needs(assignment.method).durable_outbox
        return Trained(payload, codec.kind, durable, kept, facts)

    def _guard(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except FlError:
            raise
        except Exception as error:
            # Its text may quote private data, and the reason travels: name the exception only.
            raise FlError(f"the device's own code raised {type(error).__name__}") from error

    def _side(self, name: str) -> tuple[Codec[Any, Any], ClientSide[Any, Any, Any], ClientSide[Any, Any, Any]]:
        if name not in self._sides:
            from edgehold.defenses import registry

            side = honest = registry.client_side(name)
            if adversary := self._config.adversary:
                side = call(adversary.entry, adversary.options, "adversary.entry")(side, self._client_id)
            self._sides[name] = (registry.codec(name, None), side, honest)
        return self._sides[name]

    @staticmethod
    def needs(name: str) -> Needs:
        """What the method asks of a device, under any settings; `ConfigError` for one that this package does not have."""
        from edgehold.defenses import registry

        found: Method = registry.method(name)
        return found.needs(None)
