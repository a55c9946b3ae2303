"""What a federated method is: two pure halves that meet only through an order and an update.

The server half makes an `Order` for a cohort and folds the updates that come back; the client half works on an order with
the device's own task. Neither sees sockets, clocks, files or seeds: those belong to the daemons, and because of that the
same code runs in one process and over the network and gives the same model bit for bit.

A method is a folder: `state.py` (settings, order, update, state), `client.py`, `server.py`, `codec.py`, `README.md`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np

from edgehold.core.errors import WrongShape
from edgehold.core.masks.combine import Blend
from edgehold.core.masks.sums import GroupSum
from edgehold.core.masks.terms import Terms
from edgehold.core.privacy.events import Event
from edgehold.core.task import Task
from edgehold.core.vectors import Array, Blob, Part, Schema, Space, Vector

Facts: TypeAlias = dict[str, float]
"""Numbers by the names of `edgehold.core.facts`; they become metrics, log fields and report cells."""

State = TypeVar("State")
Order = TypeVar("Order")
Local = TypeVar("Local")
Update = TypeVar("Update")
OrderIn = TypeVar("OrderIn", contravariant=True)
OrderOut = TypeVar("OrderOut", covariant=True)
UpdateIn = TypeVar("UpdateIn", contravariant=True)
UpdateOut = TypeVar("UpdateOut", covariant=True)


@dataclass(frozen=True, slots=True)
class Needs:
    """What a method asks of the machinery around it.

    individual_updates: why the server half must look at single updates, so that masked sums are impossible, in words that
        follow a colon; "" where sums will do (then the folder has masked.py, see `Masked`).
    durable_outbox: an update must be synced to disk before it leaves (it carries noise or moves local state).
    peers: a device reads its peers' updates of the round before, as their senders signed them (`PeerClientSide`).
    charges: the client half may add noise: it says what its release costs (`PrivateClientSide`; nothing where the settings ask
        for none), and the device's ledger is charged first.
    """

    individual_updates: str = "its server half reads each update on its own"
    durable_outbox: bool = False
    torch: bool = False
    peers: bool = False
    charges: bool = False


@dataclass(frozen=True, slots=True)
class Cohort:
    """Who takes part in a round: client ids in ascending order (node order), and the round, counted from 1."""

    round: int
    clients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Weighted(Generic[UpdateOut]):
    """One admitted update. weight: what the client claims, cut to what the plan allows; positive, any scale."""

    client: str
    weight: float
    update: UpdateOut


@dataclass(frozen=True, slots=True)
class Payload:
    """How an order or update travels: a small typed header and flat bytes."""

    header: bytes
    body: Blob


@dataclass(frozen=True, slots=True)
class Packed:
    """A server state at rest: a few scalars and named blobs, "model" (weights, or what they are made of) among them."""

    blobs: Mapping[str, Blob]
    scalars: Mapping[str, float | int | str] = field(default_factory=dict)


class ClientSide(Protocol[OrderIn, Local, UpdateOut]):
    """The half that runs on the device.

    One generator serves a round: `client_stream(order.seed, run, round, client)`, given to `begin` (at first contact only)
    and then to `work`; so every order carries the run's training seed as `seed`. A round that is tried again starts from
    the local state before it.
    """

    def begin(self, order: OrderIn, task: Task, rng: "np.random.Generator") -> Local:
        """Local state at first contact with a run."""

    def work(self, order: OrderIn, local: Local, task: Task, rng: "np.random.Generator") -> tuple[Local, UpdateOut, Facts]:
        """One round: new local state, the update to send, and facts for this device's own log (they never travel)."""

    def dump(self, local: Local) -> bytes:
        """Local state as bytes for the device's keep."""

    def load(self, data: bytes) -> Local:
        """Inverse of `dump`."""


class PrivateClientSide(ClientSide[OrderIn, Local, UpdateOut], Protocol[OrderIn, Local, UpdateOut]):
    """A client half whose updates carry noise. It draws the noise from the operating system, never from `rng`."""

    def charges(self, order: OrderIn, local: Local, task: Task) -> tuple[Event, ...]:
        """What `work` on the same order and local state will release, for the ledger; asked before any noise is drawn."""


class PeerClientSide(ClientSide[OrderIn, Local, Update], Protocol[OrderIn, Local, Update]):
    """A client half that reads what its peers sent in the round before.

    The order names who sent then, and the digest of what each of them sent; whoever fetches an update, from the server or from
    its sender, gets these bytes or refuses them. One generator serves the round: begin, choose, receive, work.
    """

    def choose(self, order: OrderIn, local: Local, task: Task, rng: "np.random.Generator") -> tuple[str, ...]:
        """Senders whose update of the round before is wanted, of those whom the order names; empty in the first round."""

    def receive(
        self, order: OrderIn, local: Local, sent: Mapping[str, Update], task: Task, rng: "np.random.Generator"
    ) -> Local:
        """Local state after reading those of the chosen updates that could be had, by sender. Followed by `work`."""


class PeerOrder(Protocol):
    """What the order of a method with peers has beside its own."""

    @property
    def seed(self) -> int:
        """Training seed of the run."""

    @property
    def listing(self) -> Mapping[str, bytes]:
        """Sender -> SHA-256 of its whole update payload of the round before, as it travelled: the digest that it signed.

        Empty in the first round.
        """


class ServerSide(Protocol[State, OrderOut, UpdateIn]):
    """The half that runs on the server."""

    def start(self, model: Vector) -> State:
        """State before the first round."""

    def open(self, state: State, cohort: Cohort) -> OrderOut:
        """The order every member of the cohort receives."""

    def claim(self, update: UpdateIn) -> float:
        """Weight the client claims for its update (its sample count, or 1)."""

    def close(self, state: State, updates: Sequence[Weighted[UpdateIn]], space: Space) -> tuple[State, Facts]:
        """State after the round. Updates come in node order; new vectors are written through `space`."""

    def weights(self, state: State, space: Space) -> Vector:
        """The model as float32 weights in the order of the schema, for scores and model files; written through `space`
        where the state holds it in another form (a mask, an order).
        """

    def pack(self, state: State) -> Packed:
        """State at rest."""

    def unpack(self, packed: Packed) -> State:
        """Inverse of `pack`."""


class PrivateServerSide(ServerSide[State, OrderOut, UpdateIn], Protocol[State, OrderOut, UpdateIn]):
    """A server half that adds noise to what it folds. It draws it from the operating system."""

    def charges(self, state: State) -> tuple[Event, ...]:
        """What `close` on this state will release, for the server's ledger; asked before any noise is drawn."""


class MaskedForm(Protocol[UpdateIn]):
    """How an update becomes whole numbers that are only ever seen added up (`edgehold.core.masks`).

    entries: how many; largest: the largest an entry can be, the smallest is 0.
    """

    entries: int
    largest: int

    def vector(self, update: UpdateIn) -> Iterator[Array]:
        """The update as integers in [0, largest], in order, in blocks of any size."""

    def law(self, sums: Iterator[Array], survivors: int) -> None:
        """Return if the sum (int64 blocks) could be one of so many lawful updates, `OutsideLaw` otherwise."""


class Masked(Protocol):
    """What the module masked.py of a method's folder has, where sums will do."""

    def entries(self, settings: Any, schema: Schema) -> int:
        """Numbers in an update."""

    def largest(self, settings: Any, schema: Schema) -> int:
        """The largest of them, where they are whole numbers from 0 on; 0 where they are reals, which go on the terms' grid."""

    def form(self, schema: Schema, terms: Terms) -> MaskedForm[Any]:
        """The form, on the device and on the server: by the model they share and the terms the server signed.

        `WrongShape` where the terms are not those of such a model.
        """


class MaskedServerSide(ServerSide[State, OrderOut, UpdateIn], Protocol[State, OrderOut, UpdateIn]):
    """A server half that can do with sums over groups."""

    def fold(self, state: State, groups: Sequence[GroupSum], terms: Terms, blend: Blend, space: Space) -> tuple[State, Facts]:
        """State after a masked round, in place of `close`. groups: one or more, lawful, in the order they were drawn."""


class Uploads(Protocol[UpdateOut]):
    """How what devices send is read. Decoding enforces its law."""

    kind: str
    """Payload kind named in manifests: the method's name and payload version, "fedavg/1"."""

    def body_bytes(self, schema: Schema) -> tuple[int, int]:
        """Smallest and largest legal body of an update, in bytes; checked before the first chunk is stored."""

    def decode_update(self, payload: Payload, schema: Schema) -> UpdateOut:
        """The update, or the `RejectedUpdate` that says which law it breaks. May read the body block by block."""


class Codec(Uploads[Update], Protocol[Order, Update]):
    """Orders and updates to bytes and back."""

    def encode_order(self, order: Order) -> Payload: ...

    def decode_order(self, payload: Payload, schema: Schema) -> Order:
        """The order, or `RejectedUpdate`: a device trusts its server no further than the law."""

    def encode_update(self, update: Update) -> Payload: ...


@dataclass(frozen=True)
class Method:
    """What the registry knows of a method without importing its halves.

    settings: msgspec struct of the plan's [method] table (without `name`); its `check(cohort)` refuses the impossible.
    package: dotted name of the folder with client.py (`client_side()`), server.py (`server_side(settings, schema, seed)`)
        and codec.py (`codec(settings)`; None on a device, which knows no plan and decodes orders only).
    needs: what it asks of the machinery, given its settings; a device asks with None and is told the most that any need.
    first_weights: the folder has initial.py with `initial(task, settings, seed)`, which makes the first weights of a run from
        the server's own copy of the task, instead of the task alone.
    central: the server half adds noise (`PrivateServerSide`), and the server's ledger is charged first.
    """

    name: str
    summary: str
    source: str
    settings: type[Any]
    package: str
    needs: Callable[[Any], Needs]
    first_weights: bool = False
    central: bool = False


class Adversary(Protocol):
    """Wraps an honest client half so that it lies through the real protocol. Named in a client's own configuration."""

    def __call__(self, honest: ClientSide[Any, Any, Any], client: str) -> ClientSide[Any, Any, Any]: ...


HEADER_LIMIT = 64 << 10
"""Bytes a payload header may have."""


_BLOCK = 1 << 20


class Container:
    """An update as one run of bytes: header length (4 bytes little-endian), header, body."""

    @staticmethod
    def prefix(payload: Payload) -> bytes:
        """The bytes that stand before the body."""
        return len(payload.header).to_bytes(4, "little") + payload.header

    @staticmethod
    def blocks(payload: Payload) -> Iterator[bytes | memoryview]:
        """The whole container, block by block."""
        yield Container.prefix(payload)
        for start in range(0, payload.body.size, _BLOCK):
            yield payload.body.read(start, min(start + _BLOCK, payload.body.size))

    @staticmethod
    def split(blob: Blob) -> Payload:
        """Header and body of a whole container; `WrongShape` when they do not fit."""
        if blob.size < 4:
            raise WrongShape(f"payload of {blob.size} bytes; at least a 4-byte header length is expected")
        length = int.from_bytes(bytes(blob.read(0, 4)), "little")
        if length > HEADER_LIMIT or 4 + length > blob.size:
            raise WrongShape(f"header length {length}; at most {min(HEADER_LIMIT, blob.size - 4)} fits this payload")
        return Payload(bytes(blob.read(4, 4 + length)), Part(blob, 4 + length))
