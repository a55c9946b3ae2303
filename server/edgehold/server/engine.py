"""A whole run in one process: the same method halves, codecs, weights, order and random streams as the daemons.

For experiments, for tests, and as the reference the daemons must equal bit for bit. There are no clocks here, so nobody is
late: the clients beyond `cohort.size` that a round asks because of `over_select` only stand in for rejected ones.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgehold.core import streams
from edgehold.core.contract import Adversary, ClientSide, Codec, Cohort, Facts, Payload, ServerSide, Weighted
from edgehold.core.errors import FlError, RejectedUpdate
from edgehold.core.plan import Plan
from edgehold.core.task import Task
from edgehold.core.vectors import Bytes, MemorySpace, Schema, Vector, blocks
from edgehold.core.weights import capped
from edgehold.defenses import registry
from edgehold.server.rounds import wanted


@dataclass(frozen=True)
class Result:
    """What a run leaves. digest: of the model's bytes; rounds: facts per round; rejected: refusals by code."""

    model: Vector
    digest: bytes
    rounds: list[Facts]
    rejected: Mapping[str, int] = field(default_factory=dict)


def model_digest(model: Vector) -> bytes:
    """SHA-256 of the model's float32 little-endian bytes."""
    digest = hashlib.sha256()
    for start, stop in blocks(model.size):
        digest.update(model.read(start, stop).astype("<f4", copy=False).data)
    return digest.digest()


def run(
    plan: Plan,
    settings: Any,
    tasks: Mapping[str, Task],
    evaluate: Task | None = None,
    adversaries: Mapping[str, Adversary] | None = None,
    on_round: Callable[[int, Facts], None] | None = None,
    initial: Vector | None = None,
) -> Result:
    """All rounds of a plan over virtual clients.

    tasks: client id -> its task, all of one schema; evaluate: the server's own copy, which scores the model and, without
    `initial`, makes it (else the first client's task does); adversaries: client id -> what makes it lie; on_round: called
    after each round with its number and facts. `FlError` when a round stays short of its quorum in every attempt.
    """
    reference = evaluate if evaluate is not None else tasks[min(tasks)]
    name = plan.method["name"]
    clients = _Clients(plan, tasks, name, dict(adversaries or {}))
    server = registry.server_side(name, settings, reference.schema, plan.run.seed)
    codec = registry.codec(name, settings)
    state = server.start(initial if initial is not None else Vector.of(reference.initial(plan.run.seed)))
    rounds: list[Facts] = []
    rejected: Counter[str] = Counter()
    for number in range(1, plan.run.rounds + 1):
        admitted, facts = _collect(plan, number, server, codec, state, clients, reference.schema, rejected)
        weights = capped([server.claim(u) for u in admitted.values()], plan.weights.by, plan.weights.cap)
        weighted = [Weighted(client, w, admitted[client]) for client, w in zip(admitted, weights, strict=True)]
        state, more = server.close(state, weighted, MemorySpace())
        facts.update(more)
        every = plan.evaluation.every
        if evaluate is not None and every and (number % every == 0 or number == plan.run.rounds):
            facts.update(evaluate.evaluate(_model(server, state).whole()))
        rounds.append(facts)
        if on_round:
            on_round(number, facts)
    model = _model(server, state)
    return Result(model, model_digest(model), rounds, dict(rejected))


def _collect(
    plan: Plan,
    number: int,
    server: ServerSide[Any, Any, Any],
    codec: Codec[Any, Any],
    state: Any,
    clients: "_Clients",
    schema: Schema,
    rejected: Counter[str],
) -> tuple[dict[str, Any], Facts]:
    """Admitted updates in node order, after as many attempts as it takes."""
    available = sorted(clients.tasks)
    size = min(plan.cohort.size, len(available))
    for attempt in range(1, plan.cohort.max_attempts + 1):

        def draw(clients: int, attempt: int = attempt) -> tuple[str, ...]:
            chance = streams.selection_stream(plan.run.seed, plan.run.name, number, attempt)
            return streams.select(available, clients, chance)

        first, cohort = draw(size), draw(wanted(size, plan.cohort.over_select))
        order = codec.encode_order(server.open(state, Cohort(number, cohort)))
        admitted: dict[str, Any] = {}
        up = 0
        for client in (*first, *(spare for spare in cohort if spare not in first)):
            if len(admitted) == size:
                break
            try:
                answer = clients.work(client, number, order)
                up += len(answer.header) + answer.body.size
                admitted[client] = codec.decode_update(answer, schema)
            except RejectedUpdate as error:
                rejected[error.code] += 1
        if len(admitted) >= plan.quorum:
            facts = {
                "clients_selected": float(len(cohort)),
                "clients_admitted": float(len(admitted)),
                "bytes_up": float(up),
                "bytes_down": float(len(cohort) * (len(order.header) + order.body.size)),
            }
            # Node order: ascending client ids, whoever answered first.
            return dict(sorted(admitted.items())), facts
    raise FlError(
        f"round {number}: {len(admitted)} updates admitted in the last of {plan.cohort.max_attempts} attempts; "
        f"{plan.quorum} are needed (refusals so far: {dict(rejected)})"
    )


class _Clients:
    """Virtual devices: each decodes its order from bytes, keeps its local state as bytes, answers in bytes."""

    def __init__(self, plan: Plan, tasks: Mapping[str, Task], name: str, adversaries: Mapping[str, Adversary]) -> None:
        unknown = sorted(set(adversaries) - set(tasks))
        if unknown:
            raise FlError(f"adversaries for {unknown}, who are no clients of this run")
        self.tasks = tasks
        self._run = plan.run.name
        self._codec = registry.codec(name)
        self._halves: dict[str, ClientSide[Any, Any, Any]] = {
            client: adversaries[client](registry.client_side(name), client)
            if client in adversaries
            else registry.client_side(name)
            for client in sorted(tasks)
        }
        # (round, local state before it, local state after it): a repeated round starts from where it started first.
        self._local: dict[str, tuple[int, bytes | None, bytes | None]] = {}

    def work(self, client: str, number: int, order: Payload) -> Payload:
        half, task = self._halves[client], self.tasks[client]
        received = self._codec.decode_order(Payload(order.header, _copy(order)), task.schema)
        last, before, after = self._local.get(client, (0, None, None))
        kept = before if last == number else after
        rng = streams.client_stream(received.seed, self._run, number, client)
        local = half.load(kept) if kept is not None else half.begin(received, task, rng)
        local, update, _ = half.work(received, local, task, rng)
        self._local[client] = (number, kept, half.dump(local))
        answer = self._codec.encode_update(update)
        return Payload(answer.header, _copy(answer))


def _copy(payload: Payload) -> Bytes:
    """The body as bytes of its own that cannot be written to, as if it had travelled."""
    return Bytes(bytes(payload.body.read(0, payload.body.size)))


def _model(server: ServerSide[Any, Any, Any], state: Any) -> Vector:
    return Vector(server.pack(state).blobs["model"])
