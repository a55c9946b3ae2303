"""Masked rounds in one process: who is in which group, what each group's sum is, and what the server makes of the sums.

The forms' numbers are added up as integers, without keys and masks: those cancel, to the bit (`edgehold.core.masks`). Nobody
vanishes here between key and upload. Groups are drawn from values that the plan's seed gives; noise that the plan asks for
comes from the operating system, so that noisy runs do not repeat.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, cast

import numpy as np

from edgehold.core.contract import Facts, MaskedForm, MaskedServerSide, Packed, ServerSide, Weighted
from edgehold.core.errors import ConfigError, OutsideLaw
from edgehold.core.masks import draw, suspicion
from edgehold.core.masks.draw import Entrant
from edgehold.core.masks.noise import SharedNoise, noised
from edgehold.core.masks.sizing import sized
from edgehold.core.masks.sums import GroupSum
from edgehold.core.masks.terms import Terms
from edgehold.core.plan import Plan
from edgehold.core.rng import stream
from edgehold.core.vectors import Array, MemorySpace, Schema
from edgehold.defenses import registry

_BOOK = "mask book"


@dataclass(frozen=True)
class GroupView:
    """What liars see who sit in one group and know everything in it.

    clients: of the group, in ascending order; liars: those of them who lie. honest: sum of the others' vectors; own: of the
    vectors that the liars' updates would lawfully give; both (entries,) int64, without noise. rng: of this group in this round.
    """

    round: int
    clients: tuple[str, ...]
    liars: tuple[str, ...]
    honest: Array
    own: Array
    form: MaskedForm[Any]
    rng: np.random.Generator


class SumLiars(Protocol):
    """Clients whose vectors keep no law of their own: only their group's sum is ever tested."""

    @property
    def members(self) -> frozenset[str]:
        """Client ids of the liars."""

    def put(self, view: GroupView) -> Array:
        """What the vectors of `view.liars` add up to instead of `view.own`: (entries,) integers, any."""


@dataclass
class Book:
    """What a server remembers of void groups from round to round (`edgehold.core.masks.suspicion`)."""

    chances: dict[str, float] = field(default_factory=dict)
    companies: dict[str, int] = field(default_factory=dict)

    def note(self, void: Sequence[Sequence[str]], good: Sequence[Sequence[str]]) -> None:
        """After a round."""
        self.chances = suspicion.judged(self.chances, void, good)
        cleared = {client for group in good for client in group}
        former = {client: company for client, company in self.companies.items() if client not in cleared}
        self.companies = suspicion.companies(void, former)

    def kept(self, packed: Packed) -> Packed:
        """A state at rest with the book beside it."""
        return Packed(packed.blobs, {**packed.scalars, _BOOK: json.dumps(asdict(self), sort_keys=True)})

    @classmethod
    def of(cls, packed: Packed) -> "Book":
        """Inverse of `kept`; an empty book where there was none."""
        return cls(**json.loads(str(packed.scalars.get(_BOOK, "{}"))))


@dataclass(frozen=True)
class Outcome:
    """A round that was folded. void, good: clients of such groups."""

    state: Any
    facts: Facts
    void: list[tuple[str, ...]]
    good: list[tuple[str, ...]]


class MaskedRounds:
    """Folds rounds of a plan by sums over groups. `ConfigError` for sums that cannot be (`edgehold.core.masks.sizing`)."""

    def __init__(
        self, plan: Plan, settings: Any, server: ServerSide[Any, Any, Any], schema: Schema, liars: SumLiars | None = None
    ) -> None:
        self._plan, self._schema, self._liars = plan, schema, liars
        self._server = cast(MaskedServerSide[Any, Any, Any], server)
        self._masked = registry.masked(str(plan.method["name"]))
        self._sizes = sized(
            plan.masks, self._masked.entries(settings, schema), self._masked.largest(settings, schema)
        )  # fmt: skip
        if fault := self._terms(0, bytes(32)).fault():
            raise ConfigError(f"masks: {fault}", field="masks")
        self.book = Book()

    def fold(self, number: int, state: Any, updates: Sequence[Weighted[Any]]) -> tuple[Any, Facts]:
        """State and facts after round `number`, whose void groups are remembered.

        Where fewer devices than the plan's quorum are left in lawful groups the round is lost, and the state stays as it is.
        """
        found = self.outcome(number, state, updates)
        self.book.note(found.void, found.good)
        return found.state, found.facts

    def outcome(self, number: int, state: Any, updates: Sequence[Weighted[Any]]) -> Outcome:
        """What `fold` would give. Remembers nothing."""
        given = {one.client: one.update for one in updates}
        value = self._bytes("draw", number)
        invited = [Entrant(client, self.book.companies.get(client, 0)) for client in sorted(given)]
        entered = [Entrant(one.client, one.company, self._bytes("advert", number, one.client)) for one in invited]
        terms = self._terms(number, draw.commitment(value, invited))
        form = self._masked.form(self._schema, terms)
        sums: list[GroupSum] = []
        void: list[tuple[str, ...]] = []
        for clients in draw.groups(value, entered, terms.least, terms.most):
            found = self._sum(number, terms, form, {client: given[client] for client in clients})
            try:
                form.law(found.blocks(), len(clients))
            except OutsideLaw:
                void.append(clients)
            else:
                sums.append(found)
        survivors = sum(len(one.survivors) for one in sums)
        facts: Facts = {
            "mask_groups": float(len(sums)),
            "mask_groups_void": float(len(void)),
            "mask_groups_lost": 0.0,
            "mask_survivors": float(survivors),
            "bytes_up": float(len(given) * terms.payload_bytes),
        }
        if survivors >= self._plan.quorum:
            state, more = self._server.fold(state, sums, terms, self._plan.masks.blend, MemorySpace())
            facts |= more
        return Outcome(state, facts, void, [one.survivors for one in sums])

    def _sum(self, number: int, terms: Terms, form: MaskedForm[Any], updates: Mapping[str, Any]) -> GroupSum:
        clients = tuple(updates)
        liars = tuple(client for client in clients if self._liars is not None and client in self._liars.members)
        honest, own = np.zeros(terms.entries, np.int64), np.zeros(terms.entries, np.int64)
        noise = SharedNoise.of(terms)
        added = np.zeros_like(honest)
        for client, update in updates.items():
            into, at = own if client in liars else honest, 0
            for block in form.vector(update):
                into[at : at + len(block)] += block
                at += len(block)
            if noise is not None:
                added = noised(added, noise.drawn(len(clients)))
        if self._liars is not None and liars:
            chance = stream(self._plan.run.seed, "sum liars", self._plan.run.name, number, clients[0])
            own = np.asarray(self._liars.put(GroupView(number, clients, liars, honest, own, form, chance)), dtype=np.int64)
        total = (honest + own + added) % (1 << terms.bits)
        return GroupSum(clients, total.astype(terms.dtype), terms.margin)

    def _terms(self, number: int, commitment: bytes) -> Terms:
        run = self._plan.run
        names = ("simulation", self._plan.digest, run.name, number, 1, self._bytes("nonce", number), bytes(32), commitment)
        return Terms(*names, **asdict(self._sizes))

    def _bytes(self, *what: str | int) -> bytes:
        """32 bytes that the plan's seed gives."""
        return hashlib.sha256(stream(self._plan.run.seed, "masks", self._plan.run.name, *what).bytes(32)).digest()
