"""The rounds of a run."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from edgehold.core import streams
from edgehold.core.contract import Adversary, Codec, Cohort, Container, Facts, Payload, ServerSide, Weighted
from edgehold.core.errors import ConfigError, FlError, RejectedUpdate
from edgehold.core.plan import Plan
from edgehold.core.rng import stream
from edgehold.core.task import Task
from edgehold.core.vectors import MemorySpace, Schema, Vector
from edgehold.core.weights import capped
from edgehold.defenses import registry
from edgehold.server.engine.conspiracy import Conspiracy, View
from edgehold.server.engine.fleet import VirtualFleet
from edgehold.server.engine.hands import Hands
from edgehold.server.engine.masked import Book, MaskedRounds, SumLiars
from edgehold.server.engine.result import Result, TooFewAdmitted, model_digest
from edgehold.server.engine.shelf import Shelf
from edgehold.server.engine.store import Store
from edgehold.server.engine.work import Setting, travelled
from edgehold.server.rounds.tally import wanted
from edgehold.server.store.transcript import Transcript, must_be_open


def run(
    plan: Plan,
    settings: Any,
    tasks: Mapping[str, Task],
    evaluate: Task | None = None,
    adversaries: Mapping[str, Adversary] | None = None,
    on_round: Callable[[int, Facts], None] | None = None,
    initial: Vector | None = None,
    *,
    conspiracy: Conspiracy | None = None,
    sum_liars: SumLiars | None = None,
    workers: int | None = 1,
    batch: bool = False,
    store: Store | None = None,
    transcript: tuple[Path, Collection[int]] | None = None,
) -> Result:
    """All rounds of a plan over virtual clients.

    tasks: client id -> its task, all of one schema; evaluate: the server's own copy, which scores the model and, without
    `initial`, makes it (else the first client's task does); adversaries: client id -> what makes it lie; on_round: called
    after each round with its number and facts. `FlError` when a round stays short of its quorum in every attempt.

    conspiracy: liars who know the whole round. sum_liars: of a masked plan, those whose vectors keep no law but their group's.
    workers: processes the clients are spread over; None: one, and all cores as
    soon as the first round shows that it pays. batch: train small models of many clients together where that pays (results
    then equal the plain path within float32 rounding, not bit for bit; the fact `clients_batched` says for how many).
    store: keeps state and facts after each round; a run that is there already goes on (its rounds are not reported again).
    transcript: a file for what this server is able to see, and the rounds to keep (none: all); refused for masked plans.
    """
    if transcript is not None:
        must_be_open(plan)
    if sum_liars is not None and not plan.privacy.masked:
        raise ConfigError("sum_liars lie in masked sums, and this plan has privacy.masked = false", field="privacy.masked")
    reference = evaluate if evaluate is not None else tasks[min(tasks)]
    name = plan.method["name"]
    server = registry.server_side(name, settings, reference.schema, plan.run.seed)
    sums = MaskedRounds(plan, settings, server, reference.schema, sum_liars) if plan.privacy.masked else None
    play = _Play(plan, server, registry.codec(name, settings), reference.schema, sorted(tasks), conspiracy, sums)
    first = partial(registry.first_weights, name, settings, reference, plan.run.seed)
    keep = store if store is not None else Store()
    if store is not None:
        store.bind(_identity(plan, tasks, adversaries or {}, (conspiracy, sum_liars), batch))
    kept = store.kept() if store is not None else None
    if kept is None:
        state = server.start(initial if initial is not None else Vector.of(first()))
        rounds: list[Facts] = []
    else:
        state, rounds, play.rejected = server.unpack(kept.packed), kept.rounds, Counter(kept.rejected)
        if sums is not None:
            sums.book = Book.of(kept.packed)
    setting = Setting(plan.run.name, name, tasks, dict(adversaries or {}), batch)
    with contextlib.ExitStack() as stack:
        if transcript is not None:
            play.transcript = Transcript(transcript[0], plan, reference.schema, transcript[1])
            stack.callback(play.transcript.close)
        hands = stack.enter_context(Hands(setting, keep, workers))
        for number in range(len(rounds) + 1, plan.run.rounds + 1):
            began = time.monotonic()
            with Shelf() as shelf:
                weighted, facts = play.collect(number, state, hands, shelf)
                state, more = sums.fold(number, state, weighted) if sums else server.close(state, weighted, MemorySpace())
            facts.update(more)
            every = plan.evaluation.every
            if evaluate is not None and every and (number % every == 0 or number == plan.run.rounds):
                facts.update(evaluate.evaluate(_model(server, state).whole()))
            rounds.append(facts)
            seconds = time.monotonic() - began
            packed = server.pack(state) if store is not None else None
            if packed is not None and sums is not None:
                packed = sums.book.kept(packed)
            keep.commit(number, packed, facts, play.rejected, hands.settle(), seconds, play.letters)
            hands.pass_on(play.letters)
            hands.consider(seconds, plan.run.rounds - number)
            if on_round:
                on_round(number, facts)
    if store is None:
        keep.close()
    model = _model(server, state)
    return Result(model, model_digest(model), rounds, dict(play.rejected), dict(sums.book.chances) if sums else {})


class _Play:
    """Collects the updates of a round, as the server does."""

    def __init__(
        self, plan: Plan, server: ServerSide[Any, Any, Any], codec: Codec[Any, Any], schema: Schema, available: list[str],
        conspiracy: Conspiracy | None, sums: MaskedRounds | None,
    ) -> None:  # fmt: skip
        self._sums = sums
        self._plan, self._server, self._codec, self._schema = plan, server, codec, schema
        self._available, self._conspiracy = available, conspiracy
        if conspiracy and not conspiracy.members <= set(available):
            raise FlError(f"conspirators {sorted(conspiracy.members - set(available))}, who are no clients of this run")
        self.rejected: Counter[str] = Counter()
        self._refused: set[str] = set()
        # What was admitted in the newest round, as it travelled, where the devices of the next one read it.
        self.letters: dict[str, bytes] = {}
        self._peers = registry.method(str(plan.method["name"])).needs(None).peers
        self.transcript: Transcript | None = None
        self._sent: dict[str, Payload] = {}

    def collect(self, number: int, state: Any, hands: Hands, shelf: Shelf) -> tuple[list[Weighted[Any]], Facts]:
        """Admitted updates in node order, after as many attempts as it takes."""
        plan = self._plan
        size = min(plan.cohort.size, len(self._available))
        for attempt in range(1, plan.cohort.max_attempts + 1):

            def draw(clients: int, attempt: int = attempt) -> tuple[str, ...]:
                chance = streams.selection_stream(plan.run.seed, plan.run.name, number, attempt)
                return streams.select(self._available, clients, chance)

            first, cohort = draw(size), draw(wanted(size, plan.cohort.over_select))
            order = travelled(self._codec.encode_order(self._server.open(state, Cohort(number, cohort))))
            waiting = [*first, *(spare for spare in cohort if spare not in set(first))]
            admitted: dict[str, Any] = {}
            self.letters = {}
            self._sent, self._refused = {}, set()
            up = batched = 0
            # Whoever is asked next only stands in for somebody rejected, so that as many are asked as are missing.
            while waiting and len(admitted) < size:
                asked, waiting = waiting[: size - len(admitted)], waiting[size - len(admitted) :]
                found, sent, together = self._ask(number, state, order, asked, admitted, hands, shelf)
                admitted.update(found)
                up, batched = up + sent, batched + together
            if len(admitted) >= plan.quorum:
                if self.transcript is not None:
                    self.transcript.keep(number, attempt, order, {client: self._sent[client] for client in admitted})
                facts = {
                    "clients_selected": float(len(cohort)),
                    "clients_admitted": float(len(admitted)),
                    "bytes_up": float(up),
                    "bytes_down": float(len(cohort) * (len(order.header) + order.body.size)),
                }
                if hands.batch:
                    facts["clients_batched"] = float(batched)
                return self._weighted(admitted), facts
        raise TooFewAdmitted(
            f"round {number}: {len(admitted)} updates admitted in the last of {plan.cohort.max_attempts} attempts; "
            f"{plan.quorum} are needed (refusals so far: {dict(self.rejected)})",
            frozenset(self._refused),
        )

    def _ask(
        self, number: int, state: Any, order: Payload, asked: list[str], admitted: Mapping[str, Any], hands: Hands, shelf: Shelf
    ) -> tuple[dict[str, Any], int, int]:
        """What the asked clients bring: admitted updates, bytes received, clients trained together."""
        members = self._conspiracy.members if self._conspiracy else frozenset()
        found: dict[str, Any] = {}
        own: dict[str, Any] = {}
        up = batched = 0
        for answer in hands.work(number, order, asked):
            batched += answer.batched
            if answer.refused is not None:
                self._refuse(answer.client, answer.refused)
                continue
            lies = answer.client in members
            up += 0 if lies else len(answer.header) + len(answer.body)
            update = self._admit(answer.client, self._noted(answer.client, shelf.put(answer.header, answer.body)))
            if update is not None:
                (own if lies else found)[answer.client] = update
        if own and self._conspiracy:
            view = self._view(number, state, order, {**admitted, **found}, own)
            for client, lie in sorted({**own, **self._conspiracy.lie(view)}.items()):
                sent = travelled(self._codec.encode_update(lie))
                up += len(sent.header) + sent.body.size
                update = self._admit(client, self._noted(client, sent))
                if update is not None:
                    found[client] = update
        return found, up, batched

    def _noted(self, client: str, sent: Payload) -> Payload:
        if self.transcript is not None:
            self._sent[client] = sent
        return sent

    def _admit(self, client: str, sent: Payload) -> Any:
        """The update that `sent` carries; None when it breaks the method's law, which is counted."""
        try:
            update = self._codec.decode_update(sent, self._schema)
            if self._peers:
                self.letters[client] = Container.prefix(sent) + bytes(sent.body.read(0, sent.body.size))
            return update
        except RejectedUpdate as error:
            self._refuse(client, error)
            return None

    def _refuse(self, client: str, why: RejectedUpdate) -> None:
        self.rejected[why.code] += 1
        self._refused.add(client)

    def _view(self, number: int, state: Any, order: Payload, known: Mapping[str, Any], own: dict[str, Any]) -> View:
        honest = {client: known[client] for client in sorted(known) if client not in own}

        def outcome(lies: Mapping[str, Any]) -> Vector:
            # Through the codec, as they would arrive: `RejectedUpdate` when they would be refused.
            sent = {c: self._codec.decode_update(self._codec.encode_update(lies[c]), self._schema) for c in lies}
            all_of_them = self._weighted({**honest, **sent})
            if self._sums is not None:
                return _model(self._server, self._sums.outcome(number, state, all_of_them).state)
            return _model(self._server, self._server.close(state, all_of_them, MemorySpace())[0])

        plan = self._plan
        chance = stream(plan.run.seed, "conspiracy", plan.run.name, number)
        decoded = self._codec.decode_order(order, self._schema)
        return View(number, decoded, _model(self._server, state), honest, dict(sorted(own.items())), outcome, chance)

    def _weighted(self, admitted: Mapping[str, Any]) -> list[Weighted[Any]]:
        """Node order: ascending client ids, whoever answered first."""
        clients = sorted(admitted)
        claims = [self._server.claim(admitted[client]) for client in clients]
        weights = capped(claims, self._plan.weights.by, self._plan.weights.cap)
        return [Weighted(client, weight, admitted[client]) for client, weight in zip(clients, weights, strict=True)]


def _model(server: ServerSide[Any, Any, Any], state: Any) -> Vector:
    return server.weights(state, MemorySpace())


def _identity(
    plan: Plan, tasks: Mapping[str, Task], adversaries: Mapping[str, Adversary],
    plots: tuple[Conspiracy | None, SumLiars | None], batch: bool,
) -> dict[str, str]:  # fmt: skip
    """What must be the same for a run to go on, by the name under which a difference is reported."""
    fleet = tasks.digest if isinstance(tasks, VirtualFleet) else repr(sorted(tasks))
    liars = repr(sorted((client, repr(one)) for client, one in adversaries.items()))
    told = " ".join(repr(one) for one in plots if one is not None) or "None"
    if " at 0x" in liars + told:
        raise ConfigError("a run that can go on needs attackers whose repr says what they are (see `Named`)")
    return {"plan": plan.digest.hex(), "clients": fleet, "attackers": f"{liars} {told}", "batch": str(batch)}
