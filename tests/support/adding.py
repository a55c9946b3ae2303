"""A tiny method whose devices read each other, for tests alone: each adds up what it read and says so in its own update.

`python -m tests.support.adding edgehold.server serve ...` runs a daemon that knows it.
"""

import hashlib
import json
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from edgehold.client.data.synthetic import SyntheticTask
from edgehold.core.config import Config
from edgehold.core.contract import Cohort, Container, Facts, Method, Needs, Packed, Payload, Weighted
from edgehold.core.errors import OutsideLaw, WrongShape
from edgehold.core.task import LocalTraining, Task
from edgehold.core.vectors import Bytes, Schema, Space, Vector, finite_norm
from edgehold.defenses import registry

NAME = "adding"


class Settings(Config, frozen=True, kw_only=True):
    """reads: letters a device asks for."""

    reads: int = 2

    def check(self, cohort: int) -> None:
        """Any cohort will do."""


@dataclass(frozen=True)
class Order:
    model: Vector
    seed: int
    reads: int
    listing: Mapping[str, bytes]


@dataclass(frozen=True)
class Update:
    """read: the sum of what the sender read, over all rounds."""

    values: Vector
    read: float


@dataclass(frozen=True)
class State:
    model: Vector
    listing: Mapping[str, bytes] = field(default_factory=dict)


class Client:
    def begin(self, order: Order, task: Task, rng: np.random.Generator) -> float:
        return 0.0

    def choose(self, order: Order, local: float, task: Task, rng: np.random.Generator) -> tuple[str, ...]:
        names = sorted(order.listing)
        return tuple(names[i] for i in rng.permutation(len(names))[: order.reads])

    def receive(self, order: Order, local: float, sent: Mapping[str, Update], task: Task, rng: np.random.Generator) -> float:
        assert list(sent) == sorted(sent)
        return local + sum(one.read + float(np.mean(one.values.whole(), dtype=np.float64)) for one in sent.values())

    def work(self, order: Order, local: float, task: Task, rng: np.random.Generator) -> tuple[float, Update, Facts]:
        how = LocalTraining(epochs=1, batch_size=1, learning_rate=1.0)
        values = task.train(order.model.whole(), how, rng) + np.float32(rng.random() / 1024)
        return local, Update(Vector.of(values.astype("<f4")), local), {"read": local}

    def dump(self, local: float) -> bytes:
        return np.float64(local).tobytes()

    def load(self, data: bytes) -> float:
        return float(np.frombuffer(data)[0])


class Server:
    def __init__(self, settings: Settings, schema: Schema, seed: int) -> None:
        self.settings, self.schema, self.seed = settings, schema, seed

    def start(self, model: Vector) -> State:
        return State(model)

    def open(self, state: State, cohort: Cohort) -> Order:
        return Order(state.model, self.seed, self.settings.reads, state.listing)

    def claim(self, update: Update) -> float:
        return 1.0

    def close(self, state: State, updates: Sequence[Weighted[Update]], space: Space) -> tuple[State, Facts]:
        total = np.mean([one.update.values.whole().astype(np.float64) for one in updates], axis=0)
        total[0] += sum(one.update.read for one in updates)
        sink = space.sink(self.schema.size)
        sink.write(total.astype("<f4"))
        return State(sink.finish(), {one.client: digest_of(one.update) for one in updates}), {}

    def weights(self, state: State, space: Space) -> Vector:
        return state.model

    def pack(self, state: State) -> Packed:
        listing = {client: digest.hex() for client, digest in state.listing.items()}
        return Packed({"model": state.model.blob}, {"listing": json.dumps(listing)})

    def unpack(self, packed: Packed) -> State:
        listing = json.loads(str(packed.scalars["listing"]))
        return State(Vector(packed.blobs["model"]), {client: bytes.fromhex(digest) for client, digest in listing.items()})


class Codec:
    kind = "adding/1"

    def encode_order(self, order: Order) -> Payload:
        listing = {client: digest.hex() for client, digest in order.listing.items()}
        return Payload(json.dumps([order.seed, order.reads, listing]).encode(), order.model.blob)

    def decode_order(self, payload: Payload, schema: Schema) -> Order:
        seed, reads, listing = json.loads(payload.header)
        found = {client: bytes.fromhex(digest) for client, digest in listing.items()}
        return Order(Vector(Bytes(bytes(payload.body.read(0, payload.body.size)))), seed, reads, found)

    def encode_update(self, update: Update) -> Payload:
        return Payload(np.float64(update.read).tobytes(), update.values.blob)

    def body_bytes(self, schema: Schema) -> tuple[int, int]:
        return 4 * schema.size, 4 * schema.size

    def decode_update(self, payload: Payload, schema: Schema) -> Update:
        if len(payload.header) != 8 or payload.body.size != 4 * schema.size:
            raise WrongShape(f"{len(payload.header)} and {payload.body.size} bytes; expected 8 and {4 * schema.size}")
        values = Vector(payload.body)
        if finite_norm(values) > 1e6:
            raise OutsideLaw("a norm above a million")
        return Update(values, float(np.frombuffer(payload.header)[0]))


def digest_of(update: Update) -> bytes:
    payload = Codec().encode_update(update)
    return hashlib.sha256(Container.prefix(payload) + bytes(payload.body.read(0, payload.body.size))).digest()


METHOD = Method(
    name=NAME, summary="For tests", source="none", settings=Settings, package="tests_adding",
    needs=lambda settings: Needs(peers=True, durable_outbox=True),
)  # fmt: skip


def register() -> None:
    """From now on this process has the method."""
    halves: dict[str, dict[str, Any]] = {
        "client": {"client_side": Client},
        "server": {"server_side": Server},
        "codec": {"codec": lambda settings=None: Codec()},
    }
    package = sys.modules["tests_adding"] = ModuleType("tests_adding")
    package.__path__ = []
    package.METHOD = METHOD  # type: ignore[attr-defined]
    for name, content in halves.items():
        module = sys.modules[f"tests_adding.{name}"] = ModuleType(f"tests_adding.{name}")
        vars(module).update(content)
    registry.METHODS[NAME] = "tests_adding"  # type: ignore[index]


def make_task(values: int) -> Task:
    """The server's copy of a task, for a scoring process that is to know the method."""
    register()
    return SyntheticTask(values, 0.0)


def forget() -> None:
    """The process has it no more."""
    registry.METHODS.pop(NAME)  # type: ignore[attr-defined]


if __name__ == "__main__":
    register()
    module = sys.argv[1]
    sys.argv[1:] = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
