"""DP-EF SGD: its exact invariants, what is charged, what never leaves the device, its law on the wire, forked rounds."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.fixed_noise import FixedNoise, Silence, fixed_words, half

from edgehold.attacks.eval.data import make_task
from edgehold.client.config import ClientConfig, TaskTable
from edgehold.client.keep import Keep, TaskKey
from edgehold.client.outbox import Outbox
from edgehold.client.worker import Workbench
from edgehold.core.config import convert
from edgehold.core.contract import Cohort, Container, Payload, Weighted
from edgehold.core.errors import ConfigError, FlError, JournalError, NotFinite, OutsideLaw, RejectedUpdate, WrongShape
from edgehold.core.logs import event
from edgehold.core.plan import parse_plan
from edgehold.core.privacy.budget import Spent, best_filter
from edgehold.core.privacy.events import ErrorFeedback, Event
from edgehold.core.privacy.ledger import Cause, Ledger, Limit
from edgehold.core.privacy.noise import gap
from edgehold.core.privacy.release import GRID
from edgehold.core.privacy.sampling import GROUP, in_bins, poisson
from edgehold.core.rng import stream
from edgehold.core.torch_persample import ClippedSums
from edgehold.core.torch_task import TorchTask
from edgehold.core.vectors import Array, Bytes, MemorySpace, Vector
from edgehold.defenses import registry
from edgehold.defenses.dp_ef_sgd.accounts import epsilon_after, spent_after
from edgehold.defenses.dp_ef_sgd.client import DpEfSgdClient, _Descent
from edgehold.defenses.dp_ef_sgd.state import Local, Order, PlainSettings, Settings, Training, Update
from edgehold.defenses.payloads import CLIP_FACTOR
from edgehold.proto.v1.control_pb2 import TaskAssignment, TaskId
from edgehold.proto.v1.payloads_pb2 import DpEfSgdUpdate, UpdateHeader

QUIET = 1e-6
"""Noise multiplier whose grid is finer than float64 needs; with `Silence` there is no noise at all."""


def small(index: int = 0, limit: int = 60) -> TorchTask:
    return make_task("digits", index, 5, limit=limit, model="mlp", net={"hidden": [7]})


def order_for(task: TorchTask, how: Training, seed: int = 2) -> Order:
    return Order(Vector.of(task.initial(seed)), how, seed)


def worked(client: DpEfSgdClient, order: Order, task: TorchTask, local: Local | None = None) -> tuple[Local | None, Array]:
    rng = stream(1)
    local = client.begin(order, task, rng) if local is None else local
    local, update, facts = client.work(order, local, task, rng)
    assert facts == {}, "losses and shares of clipped gradients are private data"
    return local, update.delta.whole()


# Invariant 1: its two ends are methods that are known.


def test_without_clip_and_noise_it_is_plain_sgd_and_nothing_is_kept_back() -> None:
    """Clip 1e9 and no noise: torch's own gradients of the same batches, up to the rounding of sums and of the grid."""
    task = small()
    how = Training(
        clip=1e9, ceiling=inf, error_clip=1.0, noise_multiplier=1e-9, local_epochs=2, bins=4, batch_size=15, reset=False,
        learning_rate=0.3,
    )  # fmt: skip
    order, words = order_for(task, how), fixed_words(3)
    local, delta = worked(DpEfSgdClient(Silence(), words), order, task)
    assert local is not None
    # Nothing was cut: in e is the rounding of two float32 sums of the same gradients, 3e-8 where sums are of the order of 10.
    assert np.linalg.norm(local.error) < 1e-6
    words, weights = fixed_words(3), order.model.whole().astype(np.float64)
    for _ in range(2):
        for batch in in_bins(task.samples, 4, 1, words):
            rows = np.concatenate(batch)
            task.load(weights.astype(np.float32))
            task.module.zero_grad(set_to_none=False)
            inputs, targets = task.records(rows)
            torch.nn.functional.cross_entropy(task.module(inputs), targets, reduction="sum").backward()  # type: ignore[no-untyped-call]
            gradient = torch.cat([p.grad.flatten() for p in task.module.parameters() if p.grad is not None])
            weights -= 0.3 / 15 * gradient.numpy().astype(np.float64)
    plain = weights - order.model.whole()
    assert np.abs(plain).max() > 0.05, "control: it moves"
    assert np.abs(delta - plain).max() < 1e-5 * np.abs(plain).max()


@pytest.mark.parametrize("sampling", ["bins", "poisson"])
def test_without_error_clip_it_is_dp_sgd_bit_for_bit(sampling: str) -> None:
    """Against DP-SGD written out here, with the same draws; and `dp_sgd` is that setting."""
    task = small()
    how = convert(
        {"clip": 0.5, "error_clip": 0.0, "noise_multiplier": 2.0, "sampling": sampling, "bins": 3, "steps": 3, "rate": 0.3},
        Training, "test",
    )  # fmt: skip
    order = order_for(task, how)
    _, delta = worked(DpEfSgdClient(FixedNoise(5), fixed_words(3)), order, task)
    words, noise, weights = fixed_words(3), FixedNoise(5), order.model.whole().astype(np.float64)
    sums, groups = ClippedSums(task), -(-32 // GROUP)
    batches = in_bins(task.samples, 3, groups, words) if sampling == "bins" else poisson(task.samples, 0.3, 3, groups, words)
    for batch in batches:
        task.load(weights.astype(np.float32))
        grid = 2.0 * 0.5 * 2.0**-32
        noisy = (np.rint(sums(batch, [0.5])[0] / grid).astype(np.int64) + noise.draw(order.model.size)) * grid
        weights = weights - 0.1 / 32 * noisy
    assert delta.tobytes() == (weights - order.model.whole()).astype(np.float32).tobytes()
    # The ceiling means nothing then, and the baseline is the same half under these settings.
    loose = order_for(task, convert({**_fields(how), "ceiling": 0.01}, Training, "test"))
    assert worked(DpEfSgdClient(FixedNoise(5), fixed_words(3)), loose, task)[1].tobytes() == delta.tobytes()
    assert type(registry.client_side("dp_sgd")) is type(registry.client_side("dp_ef_sgd"))
    assert PlainSettings().training().feeds_back is False


def _fields(how: Training) -> dict[str, Any]:
    return {name: getattr(how, name) for name in Training.__struct_fields__}


# Invariants 2 and 3: on `_Descent` alone, with gradients made here.


def clipped(each: Array, clip: float) -> Array:
    norms = np.linalg.norm(each, axis=1)
    found: Array = np.minimum(1.0, clip / np.maximum(norms, 1e-300)) @ each
    return found


def test_what_is_released_and_what_is_kept_add_up_to_the_gradients() -> None:
    """sum_t S_t + e_T = sum_t sum_i g_i, gradients cut at the ceiling. S is read off the weights, which move by it alone."""
    rng = np.random.default_rng(0)
    how = Training(clip=0.1, ceiling=2.0, error_clip=0.4, noise_multiplier=QUIET, batch_size=4, learning_rate=0.5)
    start = rng.standard_normal(30).astype(np.float32)
    quiet, loud = _Descent(how, start, None, Silence()), _Descent(how, start, None, FixedNoise(1))
    total, widest = np.zeros(30), 0.0
    for _ in range(200):
        each = rng.standard_normal((5, 30)) * rng.choice([0.001, 1.0], (5, 1))
        sums = np.stack([clipped(each, clip) for clip in quiet.clips])
        assert quiet.clips == (0.1, 2.0)
        before = quiet.weights
        quiet.step(sums)
        loud.step(sums)
        total += sums[1]
        widest = max(widest, float(np.linalg.norm(before - quiet.weights)) * 4 / 0.5)
    released = (start - quiet.weights) * 4 / 0.5
    assert np.abs(released + quiet.error - total).max() <= 1e-9 * np.abs(total).max()
    assert np.linalg.norm(quiet.error) > 1, "control: much is kept back"
    assert widest <= 5 * 0.1 + 0.4 + 1e-9, "no sum is larger than its clips allow"
    assert (loud.error == quiet.error).all(), "no noise in the error vector"
    assert not np.allclose(loud.weights, quiet.weights, rtol=0, atol=1e-9), "control: there was noise"


@pytest.mark.parametrize(("mean_clip", "fixed_point"), [(0.0, -0.5), (0.2, -0.2), (0.5, 1.0)])
def test_the_bias_toy_ends_where_it_must(mean_clip: float, fixed_point: float) -> None:
    """f_i = (x - a_i)^2 / 2, a = (-1, -1, 5), clip 1, full batch; 1 is the optimum. C2 is 3 times the mean's."""
    a = np.array([-1.0, -1.0, 5.0])
    how = Training(
        clip=1.0, ceiling=1e6, error_clip=3 * mean_clip, noise_multiplier=QUIET, batch_size=3, learning_rate=0.05
    )  # fmt: skip
    descent = _Descent(how, np.zeros(1, np.float32), None, Silence())
    for _ in range(4000):
        each = descent.weights[0] - a[:, None]
        descent.step(np.stack([clipped(each, clip) for clip in descent.clips]))
    assert descent.weights[0] == pytest.approx(fixed_point, abs=1e-9)
    if mean_clip == 0.5:
        assert descent.error[0] / 3 == pytest.approx(-1 / 3, abs=1e-6)
    if mean_clip == 0.2:
        assert abs(descent.error[0]) > 100, "below the bias the vector grows without end"


def test_a_vector_that_starts_anew_is_forgotten_with_each_epoch() -> None:
    """Two epochs in one round are two rounds of one epoch, when nothing lives on."""
    task, words = small(), fixed_words(4)
    how = Training(clip=0.1, ceiling=1.0, noise_multiplier=QUIET, local_epochs=2, bins=3, batch_size=20)
    _, both = worked(DpEfSgdClient(Silence(), words), order_for(task, how), task)
    words, client = fixed_words(4), DpEfSgdClient(Silence())
    client._words = words
    order = order_for(task, convert({**_fields(how), "local_epochs": 1}, Training, "test"))
    _, first = worked(client, order, task)
    _, second = worked(client, replace(order, model=Vector.of(order.model.whole() + first)), task)
    assert np.allclose(first + second, both, rtol=0, atol=1e-6)
    living = order_for(task, convert({**_fields(how), "reset": False}, Training, "test"))
    _, alive = worked(DpEfSgdClient(Silence(), fixed_words(4)), living, task)
    assert np.abs(alive - both).max() > 1e-4, "control: with one vector for both epochs the steps differ"


# What is charged.


HOW: dict[str, Training] = {
    "bins": Training(clip=0.3, ceiling=0.9, local_epochs=2, bins=4, noise_multiplier=3.0),
    "poisson": Training(clip=0.3, ceiling=inf, error_clip=0.5, sampling="poisson", steps=5, rate=0.2, noise_multiplier=9.0),
    "lives on": Training(clip=0.3, ceiling=0.9, reset=False, bins=4, noise_multiplier=8.0),
    "lives on, poisson": Training(
        clip=0.3, ceiling=0.9, error_clip=0.2, sampling="poisson", steps=4, rate=0.2, reset=False, noise_multiplier=20.0
    ),
    "no feedback": Training(error_clip=0.0, sampling="poisson", steps=5, rate=0.2, noise_multiplier=2.0),
    "no feedback, bins": Training(error_clip=0.0, bins=5, noise_multiplier=2.0),
}


class Counted(Silence):
    """Counts draws."""

    def __init__(self) -> None:
        self.drawn = 0

    def draw(self, count: int) -> Array:
        self.drawn += count
        return super().draw(count)


@pytest.mark.parametrize("name", HOW)
def test_devices_charge_what_accounts_say_and_draw_what_they_charged(name: str, tmp_path: Path) -> None:
    task, how, noise = small(), HOW[name], Counted()
    client, order, ledger = DpEfSgdClient(noise), order_for(task, how), Ledger(tmp_path / "ledger.db")
    local = client.begin(order, task, stream(1))
    limit = Limit(50.0, 1e-5)
    events: list[Event] = []
    for number in range(1, 4):
        charged = client.charges(order, local, task)
        assert charged == client.charges(order, local, task), "asking changes nothing"
        ledger.charge("d", limit, Cause("r", number, 1, b"k"), charged)
        events += charged
        before = noise.drawn
        local, update, _ = client.work(order, local, task, stream(number))
        assert sum(one.sampler.ratio for one in charged) == gap(noise.drawn - before).ratio
        assert noise.drawn - before == how.steps_per_round * task.schema.size
        order = replace(order, model=Vector.of(order.model.whole() + update.delta.whole()))
    chosen, spent = best_filter(events[0], limit.epsilon, limit.delta), Spent()
    for one in events:
        spent = spent.plus(one, chosen)
    assert ledger.epsilon("d", limit.delta) == spent.epsilon(chosen, limit.delta)
    assert spent.total == pytest.approx(spent_after(how, task.schema.size, 3, chosen).total, rel=1e-12)
    # A fixed plan may choose its account afterwards: never dearer than the ledger.
    assert 0 < epsilon_after(how, task.schema.size, 3, limit.delta) <= spent.epsilon(chosen, limit.delta) * (1 + 1e-9)
    ledger.close()


def test_the_charge_is_of_the_sums_that_are_released() -> None:
    how = Training(clip=0.5, ceiling=2.0, noise_multiplier=3.0, bins=7, local_epochs=2)
    (one,) = how.released(100)
    assert isinstance(one, ErrorFeedback)
    assert 0.5 < one.clip < 0.5 * 1.001
    assert 2.0 < one.ceiling < 2.0 * 1.002
    assert (one.sigma, one.steps, one.epochs, one.sampling, one.reset) == (1.5, 14, 2, "bins", True)
    assert one.grid == 10 * GRID


# Settings.


@pytest.mark.parametrize(
    ("how", "field", "says"),
    [
        ("ceiling = 0.5", "ceiling", "below clip"),
        ("ceiling = inf", "ceiling", "no epsilon can be certified"),
        ("ceiling = nan", "ceiling", "nan"),
        ("error_clip = nan", "error_clip", "nan"),
        ("noise_multiplier = nan", "noise_multiplier", "nan"),
        ("noise_multiplier = 0.0", "noise_multiplier", "> 0"),
        ("noise_multiplier = inf", "noise_multiplier", "<= 1"),
        ("clip = 0.0", "clip", "> 0"),
        ("clip = inf", "clip", "<= 1"),
        ("error_clip = -1.0", "error_clip", ">= 0"),
        ('sampling = "shuffle"', "sampling", "shuffle"),
        ("rate = 0.0", "rate", "> 0"),
        ("rate = 1.5", "rate", "<= 1"),
        ("bins = 0", "bins", ">= 1"),
        ("batch_size = 0.0", "batch_size", "> 0"),
        ("momentum = 1.0", "momentum", "< 1"),
        ("delta = 0.0", "delta", "> 0"),
        ("clips = 1.0", "clips", "did you mean"),
    ],
)
def test_settings_that_nobody_can_certify_are_refused_at_the_plan(how: str, field: str, says: str) -> None:
    def plan(text: str, method: str = "dp_ef_sgd") -> Any:
        return parse_plan(
            f'[run]\nname = "p"\nrounds = 2\ntask = "t"\n[cohort]\nsize = 3\nquorum = 2\n[method]\nname = "{method}"\n{text}\n',
            registry.method,
        )

    with pytest.raises(ConfigError, match=says) as caught:
        plan(how)
    assert field in f"{caught.value.field} {caught.value.message}"
    plan("error_clip = 0.0\nceiling = inf")
    plan("error_clip = 0.5\nceiling = inf")
    with pytest.raises(ConfigError, match="error_clip"):
        plan("error_clip = 0.5", "dp_sgd")


def test_a_device_refuses_orders_that_nobody_can_certify() -> None:
    task, codec = small(), registry.codec("dp_ef_sgd")
    sound = order_for(task, Training())
    assert codec.decode_order(codec.encode_order(sound), task.schema).training == sound.training
    for changed in ({"ceiling": inf}, {"ceiling": 0.5}, {"ceiling": nan}, {"clip": inf}, {"noise_multiplier": 0.0}):
        bad = replace(sound, training=Training(**{**_fields(sound.training), **changed}))
        with pytest.raises(OutsideLaw):
            codec.decode_order(codec.encode_order(bad), task.schema)
    with pytest.raises(ConfigError, match="no epsilon can be certified"):
        DpEfSgdClient().charges(replace(sound, training=Training(ceiling=inf)), None, task)


# Invariant 5: nothing else leaves.


def test_an_update_is_four_bytes_per_value_and_no_field() -> None:
    task = small()
    codec = registry.codec("dp_ef_sgd", Settings(clip_norm=1.0))
    order = order_for(task, Training())
    _, delta = worked(DpEfSgdClient(), order, task)
    payload = codec.encode_update(Update(Vector.of(delta)))
    assert DpEfSgdUpdate.DESCRIPTOR.fields == []
    assert payload.header == UpdateHeader(dp_ef_sgd=DpEfSgdUpdate()).SerializeToString()
    assert codec.body_bytes(task.schema) == (4 * task.schema.size,) * 2
    assert bytes(payload.body.read(0, payload.body.size)) == delta.astype("<f4").tobytes()
    # As many bytes, whatever the device has.
    other = small(1, limit=9)
    again = codec.encode_update(Update(Vector.of(worked(DpEfSgdClient(), order, other)[1])))
    assert (again.header, again.body.size) == (payload.header, payload.body.size)


def test_the_server_keeps_models_and_counts_of_rounds_alone() -> None:
    task = small()
    settings = Settings(server_momentum=0.5, rule="centred_clipping", rule_options={"radius": 1.0})
    server = registry.server_side("dp_ef_sgd", settings, task.schema, 1)
    state = server.start(Vector.of(task.initial(0)))
    update = Update(Vector.of(np.full(task.schema.size, 0.25, np.float32)), 1.0)
    state, facts = server.close(state, [Weighted("a", 1.0, update), Weighted("b", 1.0, update)], MemorySpace())
    state, facts = server.close(state, [Weighted("a", 1.0, update)], MemorySpace())
    packed = server.pack(state)
    assert set(packed.blobs) <= {"model", "velocity", "combined"}
    assert all(blob.size == 4 * task.schema.size for blob in packed.blobs.values())
    assert set(packed.scalars) <= {"draws", "rounds"}
    assert packed.scalars["rounds"] == '{"a": 2, "b": 1}'
    assert server.unpack(packed).rounds == {"a": 2, "b": 1}
    assert server.claim(update) == 1.0
    assert facts["epsilon_worst"] == epsilon_after(Training(), task.schema.size, 2, 1e-5)
    assert facts["epsilon_median"] <= facts["epsilon_worst"]


CANARY = 271.828182845904
"""In the error vector and in a record."""


def traces(value: float) -> list[bytes]:
    """How a number may stand in bytes: any float format in either order, with the last bits rounded away, and as text."""
    found = [np.array(value, kind).tobytes() for kind in ("<f8", ">f8", "<f4", ">f4")]
    return [found[0][2:], found[1][:-2], found[2], found[3], f"{value:.6g}".encode(), f"{value:.3f}".encode()]


def holds(data: bytes, value: float) -> bool:
    return any(trace in data for trace in traces(value))


class Desk:
    """A device's workbench, keep and outbox, and the log it writes."""

    def __init__(self, folder: Path, task: TorchTask, client: DpEfSgdClient, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bench, self.folder = Workbench(ClientConfig(tasks={"t": TaskTable(task="tests:none")}), "device"), folder
        self.bench._tasks["t"] = task
        self.codec = registry.codec("dp_ef_sgd")
        self.bench._sides["dp_ef_sgd"] = (self.codec, client, client)
        self.keep, self.outbox = Keep(folder / "keep.db"), Outbox(folder / "outbox")
        self.ledger = Ledger(folder / "ledger.db")
        self.charged: list[Event] = []
        self.lines: list[str] = []

    def assignment(self, order: Order, round: int, attempt: int = 1) -> tuple[TaskAssignment, bytes]:
        payload = self.codec.encode_order(order)
        body = bytes(payload.body.read(0, payload.body.size))
        where = TaskId(run="run", round=round, attempt=attempt, nonce=b"n" * 31 + bytes([16 * round + attempt]))
        return TaskAssignment(id=where, task="t", method="dp_ef_sgd", header=payload.header), body

    def play(self, order: Order, round: int, attempt: int = 1, acknowledged: bool = True) -> Any:
        assignment, body = self.assignment(order, round, attempt)
        where = assignment.id
        key = TaskKey(where.run, where.round, where.attempt, where.nonce)
        self.keep.receive(key, assignment.SerializeToString(), 100)
        cause = Cause(where.run, where.round, where.attempt, where.nonce)

        def charge(released: tuple[Event, ...]) -> bool:
            self.charged += released
            if not all(map(self.ledger.continues, released)):
                return False
            self.ledger.charge("d", Limit(1e3, 1e-5), cause, released)
            return True

        local = self.keep.local("run", round)
        done = self.bench.work(assignment, body, local, threading.Event(), charge)
        parcel = self.outbox.write(Container.blocks(done.payload), done.kind, done.durable)
        assert self.keep.trained(key, parcel, done.local)
        event(logging.getLogger("edgehold.test"), logging.INFO, "trained", bytes=parcel.length, **done.facts)
        if acknowledged:
            self.keep.acknowledge(key)
        return done

    def close(self) -> None:
        self.keep.close()
        self.ledger.close()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    made: list[Desk] = []

    def make(task: TorchTask, client: DpEfSgdClient | None = None) -> Desk:
        made.append(Desk(tmp_path, task, client or half(), monkeypatch))
        return made[-1]

    yield make
    for one in made:
        one.close()


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_canaries_in_the_error_vector_and_in_a_record_leave_no_trace(
    desk: Callable[..., Desk], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    task = small()
    inputs, targets = (part.numpy().copy() for part in task.records(np.arange(task.samples)))
    inputs[3, 5] = CANARY
    task = replace(task, train_data=(inputs, targets))
    how = Training(clip=0.3, ceiling=0.9, error_clip=1.0, reset=False, bins=2, noise_multiplier=1.0)

    class Planting(DpEfSgdClient):
        """Plants the value in the vector that it hands back."""

        def work(self, *arguments: Any) -> Any:
            local, update, facts = super().work(*arguments)
            assert local is not None
            error = local.error.copy()
            error[::7] = CANARY
            return replace(local, error=error), update, facts

    table = desk(task, Planting())
    order, seen = order_for(task, how), []
    server = registry.server_side("dp_ef_sgd", Settings(**_fields(how)), task.schema, 1)
    state = server.start(order.model)
    for number in (1, 2):
        order = server.open(state, Cohort(number, ("device",)))
        assignment, body = table.assignment(order, number)
        done = table.play(order, number)
        assert holds(done.local, CANARY), "control: what the method keeps has it in clear"
        update = table.codec.decode_update(done.payload, task.schema)
        state, _ = server.close(state, [Weighted("device", 1.0, update)], MemorySpace())
        packed = server.pack(state)
        seen += [
            assignment.SerializeToString(),
            body,
            done.payload.header,
            bytes(done.payload.body.read(0, done.payload.body.size)),
        ]
        seen += [bytes(blob.read(0, blob.size)) for blob in packed.blobs.values()] + [repr(packed.scalars).encode()]
    assert not any(holds(data, CANARY) for data in seen)
    stored = everything(table.folder)
    assert {"keep.db", "ledger.db"} <= set(stored)
    assert not [name for name, data in stored.items() if holds(data, CANARY)], "the local state is sealed"
    logged = "\n".join(f"{line.getMessage()} {vars(line)}" for line in caplog.records).encode()
    assert b"trained" in logged, "control: there are lines"
    assert not holds(logged, CANARY)
    opened = table.keep.local("run", 3)
    assert opened is not None
    assert holds(opened, CANARY), "control: opened with its key it is there"


def test_an_error_on_the_device_quotes_no_record(desk: Callable[..., Desk]) -> None:
    task = small()

    def failing(outputs: Any, targets: Any) -> Any:
        raise ValueError(f"bad record {CANARY}")

    table = desk(replace(task, loss=failing))
    with pytest.raises(FlError, match="ValueError") as caught:
        table.play(order_for(task, Training()), 1)
    assert not holds(str(caught.value).encode(), CANARY)


def test_law_of_updates() -> None:
    task = small()
    codec = registry.codec("dp_ef_sgd", Settings(clip_norm=0.5))
    header = UpdateHeader(dp_ef_sgd=DpEfSgdUpdate()).SerializeToString()
    size = task.schema.size
    sound = np.zeros(size, "<f4")
    sound[0] = CLIP_FACTOR * 0.5
    assert codec.decode_update(Payload(header, Bytes(sound.tobytes())), task.schema).norm == CLIP_FACTOR * 0.5
    large, infinite = sound * np.float32(1.01), sound.copy()
    infinite[1] = inf
    cases: list[tuple[bytes, bytes, type[RejectedUpdate], str]] = [
        (header, sound.tobytes()[:-1], WrongShape, f"{size} float32 values need {4 * size}"),
        (header, sound.tobytes() + b"\0", WrongShape, "body of"),
        (header, large.tobytes(), OutsideLaw, "update of norm"),
        (header, infinite.tobytes(), NotFinite, "finite"),
        (b"", sound.tobytes(), WrongShape, "header for None"),
        (header + b"\x7a\x00", sound.tobytes(), WrongShape, "unknown fields"),
        (UpdateHeader().SerializeToString() + b"\x3a\x02\x08\x05", sound.tobytes(), WrongShape, "unknown fields"),
    ]
    for head, body, error, says in cases:
        with pytest.raises(error, match=says):
            codec.decode_update(Payload(head, Bytes(body)), task.schema)


# Local state.


def test_local_state_comes_back_and_damage_is_noticed() -> None:
    client, task = half(), small()
    order = order_for(task, HOW["lives on"])
    local, _ = worked(client, order, task)
    assert local is not None
    assert local.error.any()
    again = client.load(client.dump(local))
    assert again is not None
    assert (again.error == local.error).all()
    assert (again.steps, again.epochs, again.vector, again.training) == (4, 1, local.vector, local.training)
    assert client.dump(again) == client.dump(local)
    assert (client.dump(None), client.load(b"")) == (b"", None)
    for damaged in (client.dump(local)[:-1], client.dump(local)[:50]):
        with pytest.raises(WrongShape, match="local state of"):
            client.load(damaged)


def test_an_order_with_other_settings_or_another_model_starts_a_new_vector() -> None:
    client, task = half(), small()
    order = order_for(task, HOW["lives on"])
    local, _ = worked(client, order, task)
    assert local is not None
    (going_on,) = client.charges(order, local, task)
    assert isinstance(going_on, ErrorFeedback)
    assert (going_on.earlier_steps, going_on.earlier_epochs, going_on.vector) == (4, 1, local.vector)
    for changed in ({"noise_multiplier": 9.0}, {"clip": 0.2}, {"learning_rate": 0.2}, {"error_clip": 1.0}):
        other = order_for(task, Training(**{**_fields(order.training), **changed}))
        (one,) = client.charges(other, local, task)
        assert isinstance(one, ErrorFeedback)
        assert (one.earlier_steps, one.earlier_epochs) == (0, 0)
        assert one.vector != local.vector
        after, _ = worked(client, other, task, local)
        assert after is not None
        assert (after.steps, after.epochs, after.vector) == (4, 1, one.vector), "what was worked on is what was charged"
        fresh, _ = worked(DpEfSgdClient(Silence(), fixed_words(1)), other, task)
        kept, _ = worked(DpEfSgdClient(Silence(), fixed_words(1)), other, task, local)
        assert fresh is not None
        assert kept is not None
        assert (fresh.error == kept.error).all(), "nothing of the old vector is in the new one"
    wide = make_task("digits", 0, 5, limit=60, model="mlp", net={"hidden": [8]})
    (one,) = client.charges(order_for(wide, order.training), local, wide)
    assert isinstance(one, ErrorFeedback)
    assert one.earlier_steps == 0


def test_a_round_that_forks_starts_a_new_vector(desk: Callable[..., Desk]) -> None:
    """Round 2 was charged and its update lost; tried again it starts from the vector before it: a fork, which no account of
    one vector covers.
    """
    task = small()
    table, order = desk(task), order_for(task, HOW["lives on"])
    table.play(order, 1)
    table.play(order, 2, acknowledged=False)
    first, second = table.charged
    assert isinstance(first, ErrorFeedback)
    assert isinstance(second, ErrorFeedback)
    assert second.vector == first.vector
    done = table.play(order, 2, attempt=2)
    refused, new = table.charged[2:]
    assert isinstance(refused, ErrorFeedback)
    assert isinstance(new, ErrorFeedback)
    assert (refused.vector, refused.earlier_steps) == (first.vector, 4)
    assert new.vector != first.vector
    assert (new.earlier_steps, new.earlier_epochs) == (0, 0)
    local = half().load(done.local)
    assert local is not None
    assert (local.vector, local.steps) == (new.vector, 4)
    table.play(order, 3)
    last = table.charged[-1]
    assert isinstance(last, ErrorFeedback)
    assert (last.vector, last.earlier_steps) == (new.vector, 4), "and goes on with it"


def test_nothing_is_drawn_before_it_is_charged(desk: Callable[..., Desk]) -> None:
    task, noise = small(), Counted()
    table = desk(task, DpEfSgdClient(noise))
    assignment, body = table.assignment(order_for(task, HOW["lives on"]), 1)
    asked: list[int] = []

    def never(released: tuple[Event, ...]) -> bool:
        asked.append(noise.drawn)
        return False

    with pytest.raises(JournalError, match="nothing was released"):
        table.bench.work(assignment, body, None, threading.Event(), never)
    assert asked == [0, 0]
    assert noise.drawn == 0
    table.bench.work(assignment, body, None, threading.Event(), lambda released: True)
    assert noise.drawn == 4 * task.schema.size, "control"
