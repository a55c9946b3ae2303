"""What every method must do, checked on the method itself: the same checks for ours and for one added from outside.

Uses no other room: the caller passes the halves in (`tests/conformance` does so for every registered method).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any

import numpy as np

from edgehold.core.contract import ClientSide, Codec, Cohort, Container, Masked, MaskedForm, Payload, ServerSide, Weighted
from edgehold.core.errors import RejectedUpdate
from edgehold.core.masks.combine import ENOUGH, Blend
from edgehold.core.masks.sizing import Wish, sized
from edgehold.core.masks.sums import GroupSum
from edgehold.core.masks.terms import Terms
from edgehold.core.rng import stream
from edgehold.core.task import Task
from edgehold.core.vectors import Array, Blob, Bytes, FloatArray, MemorySpace, Schema, Vector


class ConformanceError(Exception):
    """A method breaks a rule of the contract. law: its short name; the message says how it was broken."""

    def __init__(self, law: str, message: str) -> None:
        super().__init__(f"{law}: {message}")
        self.law = law


@dataclass(frozen=True)
class Halves:
    """Fresh halves of one method with its settings: each call gives a new one, so that hidden state would show."""

    client: Callable[[], ClientSide[Any, Any, Any]]
    server: Callable[[], ServerSide[Any, Any, Any]]
    codec: Callable[[], Codec[Any, Any]]
    initial: Callable[[Task, int], FloatArray] = lambda task, seed: task.initial(seed)
    """First weights of a run."""


def check(halves: Halves, tasks: Sequence[Task], schema: Schema, seed: int = 1) -> None:
    """`ConformanceError` for the first law that is broken.

    tasks: one per client, all of `schema`, as many as the settings' rule needs (at least 2).
    """
    if len(tasks) < 2 or any(task.schema != schema for task in tasks):
        raise ConformanceError("setup", f"{len(tasks)} tasks; at least 2, all of the given schema, are needed")
    run = _Run(halves, dict(zip((f"client-{i:03}" for i in range(len(tasks))), tasks, strict=True)), schema, seed)
    _codec_laws(run)
    _client_laws(run)
    _server_laws(run)


def check_masked(
    halves: Halves, masked: Masked, settings: Any, wish: Wish, tasks: Sequence[Task], schema: Schema, seed: int = 1
) -> None:
    """`ConformanceError` for the first law of sums under masks that is broken. After `check`.

    settings: those of `halves`; wish: a plan's [masks] table, without noise and with a clip that no entry of the updates
    passes. What a fold may be off: nothing where entries are whole numbers, half a step of the grid for reals.
    """
    run = _Run(halves, dict(zip((f"client-{i:03}" for i in range(len(tasks))), tasks, strict=True)), schema, seed)
    sizes = sized(wish, masked.entries(settings, schema), masked.largest(settings, schema))
    terms = Terms("lab", bytes(32), "run", 1, 1, bytes(32), bytes(32), bytes(32), **asdict(sizes))
    updates = run.updates(run.opened()[1])
    form = masked.form(schema, terms)
    _need(
        (form.entries, form.largest) == (terms.entries, terms.largest),
        "form", f"a form of {form.entries} entries up to {form.largest}; its terms say {terms.entries} up to {terms.largest}",
    )  # fmt: skip
    vectors = {client: _vector(form, update) for client, update in updates.items()}
    _form_laws(run, masked, form, terms, updates, vectors)
    _fold_laws(run, terms, updates, vectors)


@dataclass(frozen=True)
class _Run:
    halves: Halves
    tasks: dict[str, Task]
    schema: Schema
    seed: int

    def opened(self) -> tuple[Any, Any]:
        """(state, order) of round 1."""
        server = self.halves.server()
        first = next(iter(self.tasks.values()))
        state = server.start(Vector.of(self.halves.initial(first, self.seed)))
        return state, server.open(state, Cohort(1, tuple(sorted(self.tasks))))

    def work(self, client: str, order: Any) -> tuple[Any, Any]:
        """(local, update) of one client from a fresh half."""
        half, task, rng = self.halves.client(), self.tasks[client], stream(self.seed, client)
        local, update, _ = half.work(order, half.begin(order, task, rng), task, rng)
        return local, update

    def updates(self, order: Any, backwards: bool = False) -> dict[str, Any]:
        """Update of every client through the codec, worked out in either order."""
        codec = self.halves.codec()
        made = {c: codec.encode_update(self.work(c, order)[1]) for c in sorted(self.tasks, reverse=backwards)}
        return {client: codec.decode_update(_frozen(made[client]), self.schema) for client in sorted(made)}

    def close(self, updates: dict[str, Any]) -> Any:
        """State after round 1 with equal weights."""
        state, _ = self.opened()
        weighted = [Weighted(client, 1.0, update) for client, update in updates.items()]
        return self.halves.server().close(state, weighted, MemorySpace())[0]

    def model(self, state: Any) -> Array:
        return self.halves.server().weights(state, MemorySpace()).whole()


def _codec_laws(run: _Run) -> None:
    codec = run.halves.codec()
    _, order = run.opened()
    sent = _frozen(codec.encode_order(order))
    again = codec.encode_order(codec.decode_order(sent, run.schema))
    _need(_bytes(sent) == _bytes(again), "order round trip", "a decoded order encodes to other bytes")
    update = run.work(min(run.tasks), order)[1]
    answer = _frozen(codec.encode_update(update))
    again = codec.encode_update(codec.decode_update(answer, run.schema))
    _need(_bytes(answer) == _bytes(again), "update round trip", "a decoded update encodes to other bytes")
    fewest, most = codec.body_bytes(run.schema)
    _need(
        fewest <= answer.body.size <= most,
        "body_bytes",
        f"a body of {answer.body.size} bytes; body_bytes says {fewest} to {most}",
    )
    split = Container.split(Bytes(_bytes(answer)))
    codec.decode_update(split, run.schema)
    for what, payload, decode in (("order", sent, codec.decode_order), ("update", answer, codec.decode_update)):
        body = bytes(payload.body.read(0, payload.body.size))
        damaged = {
            "without its last byte": Payload(payload.header, Bytes(body[:-1])),
            "without its last four bytes": Payload(payload.header, Bytes(body[:-4])),
            "with four bytes more": Payload(payload.header, Bytes(body + bytes(4))),
            "with an unknown field": Payload(payload.header + b"\xfa\x7f\x01\x00", Bytes(body)),
            "with a cut header": Payload(payload.header[:-1], Bytes(body)),
            "with an empty header": Payload(b"", Bytes(body)),
        }
        for how, bad in damaged.items():
            if _bytes(bad) == _bytes(payload):
                continue  # an empty body has no last byte to lose
            _refused(lambda bad=bad, decode=decode: decode(bad, run.schema), f"{what} {how}")  # type: ignore[misc]


def _client_laws(run: _Run) -> None:
    _, order = run.opened()
    codec = run.halves.codec()
    client = min(run.tasks)
    before = _bytes(codec.encode_order(order))
    local, update = run.work(client, order)
    _need(_bytes(codec.encode_order(order)) == before, "inputs unchanged", "work wrote to the order it was given")
    half = run.halves.client()
    kept = half.dump(local)
    _need(isinstance(kept, bytes), "dump", f"local state dumps to {type(kept).__name__}; bytes are expected")
    _need(half.dump(half.load(kept)) == kept, "local round trip", "a loaded local state dumps to other bytes")
    # The dump before work and after it must agree: a repeated round starts from the old one.
    half.work(order, local, run.tasks[client], stream(run.seed, client))
    _need(half.dump(local) == kept, "inputs unchanged", "work wrote to the local state it was given")
    twice = run.work(client, order)[1]
    same = _bytes(codec.encode_update(update)) == _bytes(codec.encode_update(twice))
    _need(same, "same seed", "the same client, order and seed gave another update")
    _need(is_dataclass(update), "update type", f"{type(update).__name__} is no dataclass")


def _server_laws(run: _Run) -> None:
    _, order = run.opened()
    forward = run.updates(order)
    codec = run.halves.codec()
    sent = {client: _bytes(codec.encode_update(update)) for client, update in forward.items()}
    state = run.close(forward)
    model = run.model(state)
    _need(len(model) == run.schema.size and bool(np.isfinite(model).all()), "model", "not finite or of another size")
    after = {client: _bytes(codec.encode_update(update)) for client, update in forward.items()}
    _need(sent == after, "inputs unchanged", "close wrote to the updates it was given")
    _need(_same(model, run.model(run.close(run.updates(order)))), "same seed", "the same round gave another model")
    backwards = run.model(run.close(run.updates(order, backwards=True)))
    _need(_same(model, backwards), "client order", "the model depends on the order in which clients worked")
    # Other names for the same devices: sums may round differently, nothing else may change.
    renamed = dict(zip(sorted(forward), reversed(list(forward.values())), strict=True))
    close = np.allclose(model, run.model(run.close(renamed)), rtol=1e-4, atol=1e-5 * float(np.abs(model).max(initial=0.0)))
    _need(close, "client order", "the model depends on the clients' names")
    server = run.halves.server()
    packed = server.pack(state)
    _need("model" in packed.blobs, "pack", f"no model among {sorted(packed.blobs)}")
    again = server.pack(server.unpack(packed))
    _need(
        dict(packed.scalars) == dict(again.scalars)
        and {k: _whole(b) for k, b in packed.blobs.items()} == {k: _whole(b) for k, b in again.blobs.items()},
        "state round trip",
        "an unpacked state packs to something else",
    )
    cohort = Cohort(2, tuple(sorted(run.tasks)))
    ahead = _bytes(codec.encode_order(server.open(state, cohort)))
    restarted = run.halves.server()
    resumed = _bytes(codec.encode_order(restarted.open(restarted.unpack(packed), cohort)))
    _need(ahead == resumed, "state round trip", "a restarted server gives another order than one that ran on")


def _vector(form: MaskedForm[Any], update: Any) -> Array:
    blocks = list(form.vector(update))
    found: Array = np.concatenate(blocks)
    _need(all(np.issubdtype(block.dtype, np.integer) for block in blocks), "vector", f"{found.dtype}; integers are expected")
    _need(len(found) == form.entries, "vector", f"{len(found)} entries; the form says {form.entries}")
    low, high = int(found.min()), int(found.max())
    _need(low >= 0 and high <= form.largest, "vector", f"entries from {low} to {high}; 0 to {form.largest} are lawful")
    return found.astype(np.int64)


def _form_laws(
    run: _Run, masked: Masked, form: MaskedForm[Any], terms: Terms, updates: dict[str, Any], vectors: dict[str, Array]
) -> None:
    first = min(updates)
    again = _vector(masked.form(run.schema, terms), updates[first])
    _need(_same(again, vectors[first]), "vector", "the same update gave other numbers")

    def lawful(total: Array, survivors: int, size: int) -> bool:
        try:
            form.law((total[at : at + size] for at in range(0, len(total), size)), survivors)
        except RejectedUpdate:
            return False
        return True

    total = np.zeros(form.entries, np.int64)
    for survivors, vector in enumerate(vectors.values(), start=1):
        total = total + vector
        for size in (form.entries, 7):
            _need(lawful(total, survivors, size), "law", f"a sum of {survivors} lawful vectors is refused")
        for at, lie in ((0, survivors * form.largest + 1), (form.entries - 1, survivors * form.largest + 1), (0, -1)):
            bad = total.copy()
            bad[at] = lie
            _need(not lawful(bad, survivors, form.entries), "law", f"a sum of {survivors} with an entry of {lie} is accepted")
    for other in (replace(terms, entries=8 * terms.entries + 8), replace(terms, entries=max(1, terms.entries // 8 - 8))):
        # Whether the model or the update gives it away: a device must notice a sum of another length.
        _refused(
            lambda other=other: list(masked.form(run.schema, other).vector(updates[first])),  # type: ignore[misc]
            f"a sum of {other.entries} entries instead of {terms.entries}",
        )


def _fold_laws(run: _Run, terms: Terms, updates: dict[str, Any], vectors: dict[str, Array]) -> None:
    state, _ = run.opened()
    total = np.add.reduce(list(vectors.values()))
    clients = tuple(updates)

    def folded(sums: Sequence[Array]) -> Any:
        groups = [GroupSum(clients, one.astype(terms.dtype)) for one in sums]
        server: Any = run.halves.server()
        return server.fold(state, groups, terms, Blend(), MemorySpace())[0]

    one = folded([total])
    _alike(run, one, run.close(updates), 0.0 if not terms.clip else 4 * terms.grid.error(1))
    middle = folded([total] * ENOUGH)
    _need(_same(run.model(one), run.model(middle)), "fold", "five groups with the same sum give another model than one")
    spoilt = folded([total] * (ENOUGH - 1) + [len(clients) * terms.largest - total])
    _need(_same(run.model(middle), run.model(spoilt)), "fold", "one spoilt group of five moves the median")


def _alike(run: _Run, one: Any, other: Any, within: float) -> None:
    """within: the largest difference of the numbers of what is packed; 0: none at all."""
    mine, theirs = (run.halves.server().pack(state) for state in (one, other))
    _need(dict(mine.scalars) == dict(theirs.scalars), "fold", f"{dict(mine.scalars)}; close gives {dict(theirs.scalars)}")
    for name, blob in mine.blobs.items():
        same = _whole(blob) == _whole(theirs.blobs[name])
        if not same and within:
            found, wanted = (np.frombuffer(_whole(part), "<f4").astype(np.float64) for part in (blob, theirs.blobs[name]))
            same = bool(np.allclose(found, wanted, rtol=2.0**-22, atol=within))
        _need(same, "fold", f"{name} of one group differs from what close gives")


def _refused(decode: Callable[[], Any], what: str) -> None:
    try:
        decode()
    except RejectedUpdate:
        return
    except Exception as error:
        raise ConformanceError("decode", f"{what} raises {type(error).__name__}; RejectedUpdate is expected") from error
    raise ConformanceError("decode", f"{what} is accepted")


def _need(holds: bool, law: str, message: str) -> None:
    if not holds:
        raise ConformanceError(law, message)


def _whole(blob: Blob) -> bytes:
    return bytes(blob.read(0, blob.size))


def _bytes(payload: Payload) -> bytes:
    return Container.prefix(payload) + _whole(payload.body)


def _frozen(payload: Payload) -> Payload:
    """As it would arrive: bytes that share no memory with the sender."""
    return Payload(payload.header, Bytes(_whole(payload.body)))


def _same(one: Array, other: Array) -> bool:
    return one.tobytes() == other.tobytes()
