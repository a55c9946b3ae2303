"""Virtual devices at work: each decodes its order from bytes, keeps its local state as bytes, answers in bytes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from edgehold.core import streams
from edgehold.core.contract import Adversary, ClientSide, Payload, PeerClientSide
from edgehold.core.errors import FlError, RejectedUpdate
from edgehold.core.task import Task
from edgehold.core.vectors import Bytes
from edgehold.defenses import registry
from edgehold.server.engine import together
from edgehold.server.engine.letters import read


@dataclass(frozen=True, slots=True)
class Job:
    """kept: the client's local state before the round; None at first contact."""

    client: str
    kept: bytes | None


@dataclass(frozen=True, slots=True)
class Answer:
    """header, body: the update as it travels; refused: the law the client broke instead; local: its state after the round,
    None when it did not get so far; batched: its training was computed together with others'.
    """

    client: str
    header: bytes = b""
    body: bytes = b""
    local: bytes | None = None
    refused: RejectedUpdate | None = None
    batched: bool = False


@dataclass(frozen=True)
class Setting:
    """What virtual devices need to know. batch: train small models of many clients together where that pays."""

    run: str
    method: str
    tasks: Mapping[str, Task]
    adversaries: Mapping[str, Adversary]
    batch: bool = False


class Workplace:
    """The virtual devices of one process."""

    def __init__(self, setting: Setting) -> None:
        unknown = sorted(set(setting.adversaries) - set(setting.tasks))
        if unknown:
            raise FlError(f"adversaries for {unknown}, who are no clients of this run")
        self._setting = setting
        self._codec = registry.codec(setting.method)
        self._peers = registry.method(setting.method).needs(None).peers
        # Halves are pure, so that all honest clients share one.
        self._honest = registry.client_side(setting.method)
        self._liars: dict[str, ClientSide[Any, Any, Any]] = {
            client: adversary(registry.client_side(setting.method), client)
            for client, adversary in sorted(setting.adversaries.items())
        }
        self._order: Payload | None = None
        self._decoded: dict[bytes, Any] = {}

    def work(self, number: int, order: Payload, jobs: Sequence[Job], letters: str = "") -> Iterator[Answer]:
        """Answers to one order of round `number`, in the order of the jobs. letters: folder of what was sent in the round
        before, for methods whose devices read it.
        """
        if order is not self._order:
            self._order, self._decoded = order, {}
        trained = self._together(number, order, jobs) if self._setting.batch and not self._peers else {}
        for job in jobs:
            yield self._one(number, order, job, trained.get(job.client), letters)

    def _one(self, number: int, order: Payload, job: Job, trained: "together.Trained | None", letters: str) -> Answer:
        task: Any = self._setting.tasks[job.client]
        local: bytes | None = None
        if trained is not None:
            task = together.Replay(task, trained)
        try:
            half, received, rng, state = self._begin(number, order, job, task)
            if self._peers:
                peers = cast(PeerClientSide[Any, Any, Any], half)
                chosen = peers.choose(received, state, task, rng)
                sent = read(letters, chosen, received.listing, self._codec, task.schema)
                state = peers.receive(received, state, sent, task, rng)
            state, update, _ = half.work(received, state, task, rng)
            local = half.dump(state)
            answer = self._codec.encode_update(update)
            # Bytes of its own, as if it had travelled.
            body = bytes(answer.body.read(0, answer.body.size))
            return Answer(job.client, answer.header, body, local, batched=trained is not None)
        except RejectedUpdate as error:
            return Answer(job.client, local=local, refused=error)

    def _begin(self, number: int, order: Payload, job: Job, task: Task) -> tuple[ClientSide[Any, Any, Any], Any, Any, Any]:
        """Half, order, randomness and local state with which a client starts to work."""
        half = self._liars.get(job.client, self._honest)
        received = self._read(order, task)
        rng = streams.client_stream(received.seed, self._setting.run, number, job.client)
        state = half.load(job.kept) if job.kept is not None else half.begin(received, task, rng)
        return half, received, rng, state

    def _read(self, order: Payload, task: Task) -> Any:
        """The decoded order: one of all clients with the same schema, since nobody can write to it."""
        key = task.schema.digest
        if key not in self._decoded:
            self._decoded[key] = self._codec.decode_order(order, task.schema)
        return self._decoded[key]

    def _together(self, number: int, order: Payload, jobs: Sequence[Job]) -> "dict[str, together.Trained]":
        """Trainings that were computed together, by client id."""
        asked: dict[str, together.Asked] = {}
        for job in jobs:
            task = self._setting.tasks[job.client]
            if not together.able(task):
                continue
            try:
                half, received, rng, state = self._begin(number, order, job, task)
                half.work(received, state, together.Probe(task), rng)
            except together.Asked as wish:
                asked[job.client] = wish
            except (FlError, together.Apart):
                continue  # the plain path says so, or does it: a liar may want the records, which a probe does not show
        return together.train(asked)


def travelled(payload: Payload) -> Payload:
    """The payload with a body of its own that cannot be written to, as if it had travelled."""
    return Payload(payload.header, Bytes(bytes(payload.body.read(0, payload.body.size))))
