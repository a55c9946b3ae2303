"""Bristle on the device: choose heads by their sketches, judge them on own test records, train a step, send the head."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from edgehold.core.contract import Facts
from edgehold.core.errors import ConfigError, EquivocationError, Stale, WrongShape
from edgehold.core.tables import Records, table_of, train_records
from edgehold.core.task import Task
from edgehold.core.vectors import FloatArray, Vector
from edgehold.defenses.bristle import listing
from edgehold.defenses.bristle.codec import payload_digest
from edgehold.defenses.bristle.controls import CONTROLS
from edgehold.defenses.bristle.integrate import Floats, Ints, centred, integrate
from edgehold.defenses.bristle.keep import dump, load
from edgehold.defenses.bristle.prioritise import choose
from edgehold.defenses.bristle.sketch import sketch
from edgehold.defenses.bristle.state import Local, Order, Training, Update, head_shape
from edgehold.defenses.bristle.training import trained


class Device(NamedTuple):
    """What a device has. familiar: (k,) classes it has training records of, ascending; held: own test records, None without."""

    train: Records
    held: Records | None
    familiar: Ints
    shape: tuple[int, int]


class BristleClient:
    """Own records judge others; nothing that is learnt about others leaves the device."""

    def begin(self, order: Order, task: Task, rng: np.random.Generator) -> Local:
        """A head of zeros, as on every device."""
        zeros = np.zeros(device_of(task).shape, dtype=np.float32)
        return Local(zeros, zeros, zeros, zeros)

    def choose(self, order: Order, local: Local, task: Task, rng: np.random.Generator) -> tuple[str, ...]:
        """At most `budget` senders, drawn by the distance of their sketches from that of the own head; never the own update."""
        if order.training.integrator == "alone":
            return ()
        _fits(local, head_shape(task.schema))
        others = [
            (place, sender) for place, (sender, digest) in enumerate(order.listing.items()) if digest != local.sent
        ]  # fmt: skip
        if not others:
            return ()
        mine = sketch(base_of(order.training, local), order.seed).astype(np.float64)
        theirs = order.sketches[[place for place, _ in others]].astype(np.float64)
        apart = np.sqrt(np.add.reduce((theirs - mine) ** 2, axis=1))
        return tuple(others[at][1] for at in choose(apart, order.training.budget, order.training.explore, rng))

    def receive(self, order: Order, local: Local, sent: Mapping[str, Update], task: Task, rng: np.random.Generator) -> Local:
        """The own head after reading others', centred. Unchanged when nothing came.

        `EquivocationError` when two devices were shown different listings in the round before; `Stale` for a head of another
        round; `ConfigError` when own test records are missing.
        """
        _one_word(order, local, sent)
        if not sent:
            return local
        device, how = device_of(task), order.training
        _fits(local, device.shape)
        heads = np.array([sent[sender].head.whole().reshape(device.shape) for sender in sorted(sent)], dtype=np.float64)
        return replace(local, kept=merged(device, base_of(how, local), heads, how))

    def work(self, order: Order, local: Local, task: Task, rng: np.random.Generator) -> tuple[Local, Update, Facts]:
        """A few mini-batches from the own head; the columns of own classes are kept, and all columns sent."""
        device = device_of(task)
        _fits(local, device.shape)
        after = trained(local, device.train, order.training, rng)
        seen = listing.digest_of(order.listing)
        update = Update(Vector.of(after.kept), order.round, seen)
        facts: Facts = {}
        if device.held is not None:
            right = np.argmax(device.held.x @ after.kept, axis=1) == device.held.y
            facts["own_accuracy"] = float(right.mean())
        return replace(after, round=order.round, seen=seen, sent=payload_digest(update)), update, facts

    def dump(self, local: Local) -> bytes:
        """See `keep`."""
        return dump(local)

    def load(self, data: bytes) -> Local:
        """Inverse of `dump`."""
        return load(data)


def merged(device: Device, base: FloatArray, heads: Floats, how: Training) -> FloatArray:
    """The head after reading others', (d, C). base: (d, C), what they are mixed into; heads: (n, d, C) in order of senders."""
    wide = base.astype(np.float64)
    if how.integrator == "bristle":
        held = _judges(device)
        found = integrate(wide, heads, held.x.astype(np.float64), held.y, device.familiar, how.shared)
    else:
        found = CONTROLS[how.integrator](np.concatenate([wide[None], heads]), how.liars)
    return (centred(found) if how.centre else found).astype(np.float32)


def base_of(how: Training, local: Local) -> FloatArray:
    """What heads are mixed into, (d, C)."""
    return local.trained if how.base == "trained" and local.round else local.kept


def device_of(task: Task) -> Device:
    """The device's records, checked: `ConfigError` says what is missing or does not fit the head."""
    table, data = table_of(task, "Bristle"), train_records(task, "Bristle")
    shape = head_shape(table.schema)
    held = None if table.held_data is None else table.held_data.checked("own test records")
    for what, records in (("training records", data), ("own test records", held)):
        if records is None:
            continue
        if records.x.shape[1] != shape[0]:
            raise ConfigError(f"{what} have {records.x.shape[1]} features; the head takes {shape[0]}")
        if not np.issubdtype(records.y.dtype, np.integer) or len(records.y) != len(records):
            raise ConfigError(f"{what} have targets of {records.y.dtype}, {len(records.y)} of them; a class for each is needed")
        wrong = records.y[(records.y < 0) | (records.y >= shape[1])]
        if len(wrong):
            raise ConfigError(f"{what} have class {int(wrong[0])}; the head has classes 0 to {shape[1] - 1}")
    return Device(data, held, np.unique(data.y).astype(np.int64), shape)


def _judges(device: Device) -> Records:
    """Own test records; every familiar class must have some, or nobody can be judged on it."""
    held = device.held
    missing = sorted(set(device.familiar.tolist()) - set(held.y.tolist() if held is not None else []))
    if held is None or missing:
        raise ConfigError(
            f"this device trains on classes {missing} and has no own test records of them to judge its peers by; hold some "
            "records of each class back (the authors have 10)",
            field="task.options",
        )
    return held


def _one_word(order: Order, local: Local, sent: Mapping[str, Update]) -> None:
    """Whether everybody was shown the same listing in the round before, as far as this device can tell."""
    if local.round == order.round - 1 and local.round and local.seen != order.before:
        raise EquivocationError(
            f"round {local.round} listed {local.seen.hex()[:16]} for this device; its order of round {order.round} says that "
            f"everybody saw {order.before.hex()[:16]}. Do not go on with this server; keep both orders"
        )
    for sender, update in sorted(sent.items()):
        if update.round != order.round - 1:
            raise Stale(
                f"the head of {sender!r} was made in round {update.round}; round {order.round} reads round {order.round - 1}"
            )
        if update.seen != order.before:
            raise EquivocationError(
                f"{sender!r} was shown the listing {update.seen.hex()[:16]} in round {update.round}, this device is told "
                f"{order.before.hex()[:16]}. Do not go on with this server; keep the letter and the order"
            )


def _fits(local: Local, shape: tuple[int, int]) -> None:
    if local.kept.shape != shape:
        raise WrongShape(f"this device keeps a head of {list(local.kept.shape)}; its task now has one of {list(shape)}")


def client_side() -> BristleClient:
    """The device half."""
    return BristleClient()
