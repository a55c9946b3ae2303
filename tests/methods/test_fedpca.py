"""FedPCA: gradients, exact invariants, phases by round, its law on the wire, what it says to bad input."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgehold.client.data.anomaly import first_weights, score
from edgehold.client.data.synthetic import SyntheticTask
from edgehold.core.anomaly import NEVER, Detector, Doubles, Reading, metrics, names_digest, orthonormal, schema_of
from edgehold.core.config import convert
from edgehold.core.contract import Cohort, Payload, Weighted
from edgehold.core.errors import ConfigError, NotFinite, NotOrthonormal, OutsideLaw, RejectedUpdate, WrongShape
from edgehold.core.facts import FACTS
from edgehold.core.plan import parse_plan
from edgehold.core.rng import stream
from edgehold.core.tables import Records, TableTask
from edgehold.core.vectors import Bytes, MemorySpace, Schema, Tensor, Vector
from edgehold.defenses import registry
from edgehold.defenses.fedpca import subspace
from edgehold.defenses.fedpca.server import quantile
from edgehold.defenses.fedpca.state import Basis, Histogram, Local, Moments, Order, Settings, Training, Update, edges
from edgehold.proto.v1.payloads_pb2 import FedPcaTask, FedPcaUpdate, TaskHeader, UpdateHeader
from edgehold.server import engine

D, K = 6, 2
SCHEMA = schema_of(D, K)
COLUMNS = tuple("abcdef")
ALL = Cohort(1, ("c0", "c1", "c2"))


def table(
    x: Any, held: Any = None, columns: tuple[str, ...] = COLUMNS, k: int = K, reading: Reading | None = None
) -> TableTask:
    x = np.asarray(x)
    schema = schema_of(x.shape[1], k)
    told = reading or Reading("none", 0, names_digest(columns))

    def records(values: Any) -> Records:
        return Records(np.asarray(values), np.zeros(0, np.int64), columns)

    return TableTask(
        schema, records(x), None, lambda seed: first_weights(schema, told, seed), lambda w, r: score(schema, w, r),
        None if held is None else records(held),
    )  # fmt: skip


def factors(seed: int, count: int = 200, d: int = D) -> Doubles:
    """Records with two strong directions, of which each device sees more of one."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).standard_normal((2, d))
    return np.asarray(
        rng.standard_normal((count, 2)) * (1 + seed % 3, 2 - seed % 2) @ mix + 0.3 * rng.standard_normal((count, d))
    )


def plan(rounds: int, size: int, seed: int = 5, **how: Any) -> tuple[Any, Any]:
    method = "".join(f"{key} = {value!r}\n" for key, value in how.items())
    return parse_plan(
        f'[run]\nname = "p"\nrounds = {rounds}\ntask = "t"\nseed = {seed}\n[cohort]\nsize = {size}\nquorum = {size}\n'
        f'over_select = 1.0\n[evaluation]\nevery = 0\n[method]\nname = "fedpca"\n{method}',
        registry.method,
    )


def moment(seed: int, d: int = D) -> Doubles:
    return subspace.second_moment(factors(seed, 50, d))


def start(seed: int, d: int = D, k: int = K) -> Doubles:
    return subspace.qf(np.random.default_rng(seed).standard_normal((d, k)))


# The mathematics.


@pytest.mark.parametrize("seed", range(3))
def test_gradients_equal_finite_differences(seed: int) -> None:
    rng = np.random.default_rng(seed)
    s, t, rho = moment(seed), rng.standard_normal((K, K)), 1.7
    u = 1.3 * start(seed) + 0.2 * rng.standard_normal((D, K))  # U'U above I in places: the constraint is at work
    assert (subspace.excess(u) > 0).any()

    def constrained(v: Doubles) -> float:
        h = subspace.excess(v)
        return float(np.sum(t * h) + rho / 2 * np.sum(h * h))

    for value, slope in (
        (lambda v: subspace.loss(s, v), subspace.gradient(s, u)),
        (constrained, subspace.excess_gradient(u, t, rho)),
    ):
        numeric = np.zeros_like(u)
        for at in np.ndindex(u.shape):
            step = np.zeros_like(u)
            step[at] = 1e-5
            numeric[at] = (value(u + step) - value(u - step)) / 2e-5
        assert np.abs(numeric - slope).max() <= 1e-6 * max(1.0, float(np.abs(slope).max()))


def test_the_loss_is_the_mean_squared_distance() -> None:
    x, u = factors(1), start(1)
    assert np.isclose(subspace.loss(subspace.second_moment(x), u), np.square(x - x @ u @ u.T).sum(1).mean(), rtol=1e-12)


def test_iterates_stay_orthonormal() -> None:
    u, z, y = start(0), start(1), np.random.default_rng(2).standard_normal((D, K))
    for _ in range(200):
        u = subspace.fedpg(moment(0), u, z, y, 3.0, 0.03, 1)
        assert subspace.error(u) <= 1e-12
        assert subspace.error(u.astype(np.float32).astype(np.float64)) <= 1e-6


def test_a_step_goes_down_the_whole_gradient() -> None:
    """Its short form against the formula: only the tangent part of either counts."""
    s, u, z, y = moment(0), start(0), start(1), np.random.default_rng(2).standard_normal((D, K))
    slope = subspace.tangent(u, subspace.gradient(s, u) + 3.0 * (y + u - z))
    assert np.allclose(subspace.fedpg(s, u, z, y, 3.0, 0.03, 1), subspace.qf(u - 0.03 * slope), atol=1e-12)
    assert np.abs(slope).max() > 0.1


def test_columns_never_change_their_sign_in_a_step() -> None:
    """LAPACK's R has a negative diagonal here: without the rule the second column would come out turned."""
    u = start(3)
    assert (np.diag(np.linalg.qr(u)[1]) < 0).any()
    assert np.allclose(subspace.qf(u), u)


def test_the_best_subspace_stays_where_it_is() -> None:
    s = moment(4)
    z = subspace.leading(s, K)
    assert np.abs(subspace.fedpg(s, z, z, np.zeros_like(z), 3.0, 0.03, 10) - z).max() <= 1e-10
    task = table(factors(4, 50))
    client, server = registry.client_side("fedpca"), registry.server_side("fedpca", Settings(standardise_rounds=0), SCHEMA, 1)
    parts = SCHEMA.unflatten(task.initial(1)) | {"subspace": z.astype(np.float32)}
    state = server.start(Vector.of(SCHEMA.flatten(parts)))
    order = server.open(state, ALL)
    _, update, _ = client.work(order, client.begin(order, task, stream(1)), task, stream(1))
    after, _ = server.close(state, [Weighted(c, 1.0, update) for c in ALL.clients], MemorySpace())
    assert np.abs(SCHEMA.unflatten(after.model.whole())["subspace"] - z).max() <= 2e-7  # float32 on the wire


def test_other_coordinates_give_the_same_subspace() -> None:
    s, z, y = moment(5), start(5), np.random.default_rng(1).standard_normal((D, K))
    q = np.linalg.qr(np.random.default_rng(6).standard_normal((D, D)))[0]
    plain = subspace.fedpg(s, z, z, y, 2.0, 0.05, 20)
    assert np.allclose(subspace.fedpg(q @ s @ q.T, q @ z, q @ z, q @ y, 2.0, 0.05, 20), q @ plain, atol=1e-10)
    assert not np.allclose(plain, z, atol=0.1), "control: something moved"


def test_scores_do_not_know_the_basis() -> None:
    x, u = factors(6), start(6)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])

    def scores(basis: Doubles) -> Doubles:
        weights = first_weights(SCHEMA, Reading("none", 0), 0)
        weights[2 * D : 2 * D + D * K] = basis.astype(np.float32).reshape(-1)
        return Detector.of(SCHEMA, weights).scores(x)

    by_hand = np.square(x - x @ u @ u.T).sum(1)
    assert np.allclose(scores(u), by_hand, rtol=1e-4, atol=1e-5)
    assert np.allclose(scores(u @ turn), scores(u), rtol=1e-4, atol=1e-5)
    assert np.allclose(scores(u @ np.array([[2.0, 1.0], [0.0, 0.5]])), scores(u), rtol=1e-3, atol=1e-4)
    assert np.abs(scores(start(7)) - by_hand).max() > 1, "control: another subspace scores otherwise"


# Whole runs.


def agreed(tasks: dict[str, TableTask], rounds: int, **how: Any) -> tuple[Detector, Doubles, engine.Result]:
    """The model, the second moment of everybody's standard records, and the run."""
    chosen, settings = plan(rounds + 1, len(tasks), subspace_rounds=rounds, **how)
    result = engine.run(chosen, settings, tasks)
    model = Detector.of(next(iter(tasks.values())).schema, result.model.whole())
    found = [
        model.reading.standard(t.train_data.x, model.mean, model.width) for t in tasks.values() if t.train_data is not None
    ]
    return model, subspace.second_moment(np.concatenate(found)), result


@pytest.mark.parametrize("mode", ["fedpg", "fedpg_paper"])
def test_equal_devices_find_the_best_subspace(mode: str) -> None:
    tasks = {f"c{i}": table(factors(8)) for i in range(3)}
    model, s, _ = agreed(tasks, 100, mode=mode)
    best = subspace.leading(s, K)
    assert subspace.angle(model.basis, best) < 0.1
    assert subspace.loss(s, model.basis) / subspace.loss(s, best) < 1 + 1e-6


def test_unequal_devices_agree_with_memory_and_do_not_without_duals() -> None:
    tasks = {f"c{i}": table(factors(i) * np.linspace(1 + i, 3 - i, D)) for i in range(3)}
    model, s, result = agreed(tasks, 150)
    best = subspace.leading(s, K)
    assert subspace.loss(s, model.basis) / subspace.loss(s, best) < 1 + 1e-6
    assert result.rounds[-1]["consensus_gap"] < 1e-2 < result.rounds[1]["consensus_gap"]
    one = [model.reading.standard(t.train_data.x, model.mean, model.width) for t in tasks.values() if t.train_data is not None]
    z, moments = start(0), [subspace.second_moment(x) for x in one]
    for _ in range(150):
        z = orthonormal(sum((subspace.fedpg(m, z, z, 0 * z, 0.0, 0.03, 10) for m in moments), start=0 * z))[0]
    assert subspace.loss(s, z) / subspace.loss(s, best) > 1 + 1e-4, "control: averaging without dual misses it"


def test_duals_balance_at_convergence() -> None:
    """sum_i w_i P_T(Y_i) = 0 in the tangent space at Z, worked in float64: the wire rounds to float32."""
    moments, weights, rho = [moment(i) for i in range(3)], np.array([0.5, 0.3, 0.2]), 3.0
    z, last = start(1), dict[int, Doubles]()
    for _ in range(4000):
        duals = {i: last[i] - z if i in last else 0 * z for i in range(3)}
        last = {i: subspace.fedpg(moments[i], z, z, duals[i], rho, 0.03, 10) + duals[i] for i in range(3)}
        z = orthonormal(sum((weights[i] * last[i] for i in range(3)), start=0 * z))[0]
    total = sum((weights[i] * rho * subspace.tangent(z, last[i] - z) for i in range(3)), start=0 * z)
    assert np.abs(total).max() <= 1e-6
    assert max(float(np.abs(subspace.tangent(z, last[i] - z)).max()) for i in range(3)) > 1e-2, "control: duals are at work"


def test_the_server_mirrors_each_devices_dual() -> None:
    """A = U + y with y = A_before - Z is what the device holds: nothing but U was sent."""
    tasks = {f"c{i}": table(factors(i)) for i in range(3)}
    client, server = registry.client_side("fedpca"), registry.server_side("fedpca", Settings(standardise_rounds=0), SCHEMA, 1)
    state = server.start(Vector.of(tasks["c0"].initial(1)))
    locals_: dict[str, Local] = {}
    for number in range(1, 7):
        names = ("c0", "c1", "c2")[number % 2 :]
        order = server.open(state, Cohort(number, names))
        sent = []
        for name in names:
            begun = locals_.get(name) or client.begin(order, tasks[name], stream(1))
            locals_[name], update, _ = client.work(order, begun, tasks[name], stream(1))
            sent.append(Weighted(name, 1.0, update))
        state, _ = server.close(state, sent, MemorySpace())
        for name, row in state.memory.read().items():
            mine = locals_[name]
            assert mine.basis is not None
            assert mine.dual is not None
            assert np.abs(row[1:] - (mine.basis + mine.dual).reshape(-1)).max() <= 1e-12
    assert np.abs(np.asarray(locals_["c1"].dual)).max() > 1e-3, "control: duals are not all 0"


def test_the_same_run_twice_is_the_same_and_the_order_of_clients_is_none() -> None:
    tasks = {f"c{i}": table(factors(i), factors(i + 10)) for i in range(3)}
    chosen, settings = plan(8, 2, subspace_rounds=5)
    first = engine.run(chosen, settings, tasks)
    assert first.digest == engine.run(chosen, settings, dict(reversed(tasks.items()))).digest
    assert first.digest != engine.run(*plan(8, 2, seed=6, subspace_rounds=5), tasks).digest


@pytest.mark.parametrize("mode", ["fedpg", "fedpg_paper", "fedpe"])
def test_every_phase_moves_its_own_tensors_alone(mode: str) -> None:
    tasks = {f"c{i}": table(factors(i), factors(i + 10)) for i in range(3)}
    seen, facts = [], list[dict[str, float]]()
    chosen, settings = plan(6, 3, mode=mode, subspace_rounds=3)
    for rounds in range(1, 7):
        result = engine.run(replace_rounds(chosen, rounds), settings, tasks)
        seen.append(SCHEMA.unflatten(result.model.whole()))
        facts.append(result.rounds[-1])
    for name, moves in (("mean", 0), ("width", 0), ("threshold", 4)):
        for before, after in zip(range(6), range(1, 6), strict=False):
            same = np.array_equal(seen[before][name], seen[after][name])
            assert same or after == moves, (name, after)
    assert seen[0]["threshold"][0] == seen[3]["threshold"][0] == np.float32(NEVER)
    assert seen[4]["threshold"][0] == seen[5]["threshold"][0] < 1e6  # the same held-out records again
    assert not np.array_equal(seen[0]["subspace"], seen[3]["subspace"])
    assert set().union(*facts) <= set(FACTS)
    # 16 d, 4 d k and 4 bytes a bin up; down 8 d more once, while means and widths are new.
    up, down = ([one[key] / 3 for one in facts] for key in ("bytes_up", "bytes_down"))
    for size, body in zip(up, (16 * D, *[4 * D * K] * 3, *[4 * 1024] * 2), strict=True):
        assert body < size <= body + 32
    for size, body in zip(down, (0, 8 * D + 4 * D * K, *[4 * D * K] * 2, *[8 * D + 4 * D * K] * 2), strict=True):
        assert body < size <= body + 80


def replace_rounds(chosen: Any, rounds: int) -> Any:
    import msgspec

    return msgspec.structs.replace(chosen, run=msgspec.structs.replace(chosen.run, rounds=rounds))


def test_a_plan_from_a_model_file_only_finds_a_new_threshold() -> None:
    """Drift: the devices hold other normal records now; everything but the threshold stays."""
    before = {f"c{i}": table(factors(i), factors(i + 10)) for i in range(3)}
    first = engine.run(*plan(5, 3, subspace_rounds=3), before)
    drifted = {f"c{i}": table(factors(i), 2 * factors(i + 10)) for i in range(3)}
    again = engine.run(*plan(1, 3, standardise_rounds=0, subspace_rounds=0), drifted, initial=first.model)
    old, new = SCHEMA.unflatten(first.model.whole()), SCHEMA.unflatten(again.model.whole())
    assert all(np.array_equal(old[name], new[name]) for name in ("mean", "width", "subspace", "reading"))
    assert new["threshold"][0] > 1.5 * old["threshold"][0]
    model = Detector.of(SCHEMA, again.model.whole())
    scores = np.concatenate([model.scores(2 * factors(i + 10)) for i in range(3)])
    assert abs(float((scores > model.threshold).mean()) - 0.05) < 0.01


# Moments and thresholds by hand.


def answered(settings: Settings, *updates: tuple[str, float, Update], before: Any = None, schema: Schema = SCHEMA) -> Any:
    server = registry.server_side("fedpca", settings, schema, 1)
    state = before or server.start(Vector.of(first_weights(schema, Reading("none", 0), 1)))
    return server.close(state, [Weighted(*one) for one in updates], MemorySpace())


def test_means_and_widths_by_hand() -> None:
    # Columns of device one: 1, 3 and 5, 5; of device two: 5, 7 and 5, 5. Means 4 and 5, variances 5 and none.
    schema, settings = schema_of(2, 1), Settings()
    one = Moments(2, np.array([4.0, 10.0]), np.array([10.0, 50.0]))
    two = Moments(2, np.array([12.0, 10.0]), np.array([74.0, 50.0]))
    state, facts = answered(settings, ("c0", 2.0, one), ("c1", 2.0, two), schema=schema)
    parts = schema.unflatten(state.model.whole())
    assert parts["mean"].tolist() == [4, 5]
    assert np.allclose(parts["width"], [np.sqrt(5), 1])
    assert facts["columns_constant"] == 1
    # What was claimed is not what it weighs: cut to half, device one counts half.
    cut = schema.unflatten(answered(settings, ("c0", 1.0, one), ("c1", 2.0, two), schema=schema)[0].model.whole())
    assert np.allclose(cut["mean"], [(2 + 2 * 6) / 3, 5])


def test_who_answers_again_counts_once_and_who_is_not_asked_still_counts() -> None:
    schema, settings = schema_of(2, 1), Settings(standardise_rounds=2)
    first, _ = answered(
        settings, ("c0", 1.0, Moments(1, np.array([2.0, 1.0]), np.array([4.0, 1.0]))),
        ("c1", 1.0, Moments(1, np.array([4.0, 1.0]), np.array([16.0, 1.0]))), schema=schema,
    )  # fmt: skip
    again = Moments(1, np.array([8.0, 1.0]), np.array([64.0, 1.0]))
    state, _ = answered(settings, ("c0", 1.0, again), before=first, schema=schema)
    assert schema.unflatten(state.model.whole())["mean"].tolist() == [6, 1]


def test_answers_to_another_phase_are_left_out_and_counted() -> None:
    fine = Basis(1, True, start(1).astype(np.float32))
    stray = Moments(1, np.ones(D), np.ones(D))
    with_, facts = answered(Settings(standardise_rounds=0), ("c0", 1.0, fine), ("c1", 1.0, stray))
    without, _ = answered(Settings(standardise_rounds=0), ("c0", 1.0, fine))
    assert facts["updates_misplaced"] == 1
    assert np.array_equal(with_.model.whole(), without.model.whole())
    alone, facts = answered(Settings(standardise_rounds=0), ("c1", 1.0, stray))
    assert facts == {"updates_misplaced": 1}
    assert np.array_equal(alone.model.whole(), first_weights(SCHEMA, Reading("none", 0), 1))
    assert alone.closed == 1


def test_a_lost_dual_starts_anew_on_both_sides() -> None:
    settings = Settings(standardise_rounds=0)
    one, two = (Basis(1, fresh, start(2).astype(np.float32)) for fresh in (True, False))
    first, _ = answered(settings, ("c0", 1.0, one), ("c1", 1.0, Basis(1, True, start(5).astype(np.float32))))
    kept, _ = answered(settings, ("c0", 1.0, two), before=first)
    lost, _ = answered(settings, ("c0", 1.0, one), before=first)
    rows = [next(iter(state.memory.read().values()))[1:] for state in (kept, lost)]
    assert np.array_equal(rows[1], start(2).astype(np.float32).reshape(-1))
    assert np.abs(rows[0] - rows[1]).max() > 0.01


def test_quantiles_of_histograms() -> None:
    rng = np.random.default_rng(0)
    scores = rng.gamma(2.0, 10.0, 5000)
    counts = np.bincount(np.searchsorted(edges(1024), scores, side="right"), minlength=1024).astype(float)
    for level in (0.5, 0.9, 0.95, 0.99):
        assert abs(quantile(counts, level) / np.quantile(scores, level) - 1) < 0.014  # half a bin: 12 decades over 1022
    only = np.zeros(1024)
    only[-1] = 1.0
    assert quantile(only, 0.95) == 1e6
    only[:] = 0
    only[0] = 1.0
    assert 0 < quantile(only, 0.95) <= 1e-6


def test_metrics_by_hand() -> None:
    scores = np.array([1.0, 2.0, 3.0, 3.0, 4.0])
    found = metrics(scores, np.array([False, False, False, True, True]), 2.5)
    # Pairs (attack, normal): 3 against 1, 2, 3 is 2.5 of 3; 4 against all is 3 of 3.
    assert found["auc"] == pytest.approx(5.5 / 6)
    assert [found["precision"], found["recall"], found["false_positive_rate"]] == pytest.approx([2 / 3, 1.0, 1 / 3])
    assert found["f1"] == pytest.approx(0.8)
    assert found["accuracy"] == 0.8
    assert found["all_alarm_f1"] == pytest.approx(2 * 0.4 / 1.4)  # 2 p / (1 + p)
    assert "auc" not in metrics(scores, np.zeros(5, bool), 2.5)


# The wire.

READING = Reading("log", 5.0, 77)


def order(phase: str, **changed: Any) -> Order:
    small = {"mean": np.zeros(D, np.float32), "width": np.ones(D, np.float32)}
    more = small | {"basis": start(1).astype(np.float32)} if phase != "standardise" else {}
    return replace(Order(3, 2, phase, Training(), READING, 64, **more), **changed)


UPDATES: tuple[Update, ...] = (
    Moments(3, np.arange(D, dtype=float), np.arange(D, dtype=float) ** 2),
    Basis(3, True, start(1).astype(np.float32)),
    Histogram(3, np.array([1, 2, *[0] * 62], dtype="<u4")),
)


def same(one: Any, other: Any) -> bool:
    names = [n for n in one.__slots__ if n != "training"]
    return type(one) is type(other) and all(np.array_equal(getattr(one, n), getattr(other, n)) for n in names)


def test_orders_and_updates_come_back() -> None:
    codec = registry.codec("fedpca", Settings(bins=64))
    for phase in ("standardise", "subspace", "threshold"):
        assert same(codec.decode_order(codec.encode_order(order(phase)), SCHEMA), order(phase))
    bare = order("subspace", mean=None, width=None)
    assert same(codec.decode_order(codec.encode_order(bare), SCHEMA), bare)
    assert codec.encode_order(bare).body.size == 4 * D * K
    for update in UPDATES:
        payload = codec.encode_update(update)
        assert same(codec.decode_update(payload, SCHEMA), update)
        fewest, most = codec.body_bytes(SCHEMA)
        assert fewest <= payload.body.size <= most
    # The page's sizes: 312 bytes each way for 39 columns and 2 components, 4,080 for 34 and 30.
    for d, k, size in ((39, 2, 312), (34, 30, 4080)):
        sent = Basis(1, False, start(0, d, k).astype(np.float32))
        assert codec.encode_update(sent).body.size == size


def tampered(update: Update, at: int, value: float) -> Payload:
    payload = registry.codec("fedpca", Settings(bins=64)).encode_update(update)
    kind = {Moments: "<f8", Basis: "<f4", Histogram: "<u4"}[type(update)]
    values = np.frombuffer(bytes(payload.body.read(0, payload.body.size)), kind).copy()
    values[at] = value
    return Payload(payload.header, Bytes(values.tobytes()))


@pytest.mark.parametrize(
    ("payload", "error", "says"),
    [
        (tampered(UPDATES[0], 1, np.nan), NotFinite, "value 1 is nan"),
        (tampered(UPDATES[0], 2, np.inf), NotFinite, "value 2 is inf"),
        (tampered(UPDATES[0], 1, 1e31), OutsideLaw, "at most 1e"),
        (tampered(UPDATES[0], 1, 2.0), OutsideLaw, "column 1: no 3 numbers add up to 2 with squares of 1"),
        (tampered(UPDATES[0], D, -1.0), OutsideLaw, "column 0: no 3 numbers"),
        (tampered(UPDATES[1], 0, np.nan), NotFinite, "value 0 is nan"),
        (tampered(UPDATES[1], 0, float(start(1)[0, 0]) + 3e-4), NotOrthonormal, "at most 0.0001"),
        (tampered(UPDATES[1], 0, 1e20), NotOrthonormal, "differ"),
        (tampered(UPDATES[2], 0, 2), OutsideLaw, "counts that add up to 4; 3 records are claimed"),
    ],
)
def test_law_of_updates(payload: Payload, error: type[RejectedUpdate], says: str) -> None:
    with pytest.raises(error, match=says):
        registry.codec("fedpca", Settings(bins=64)).decode_update(payload, SCHEMA)


def test_law_of_headers_and_of_fedpe() -> None:
    codec = registry.codec("fedpca", Settings(bins=64))
    body = codec.encode_update(UPDATES[1]).body
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"phase": "subspace", "samples": 0}, "0 samples"),
        ({"phase": "subspace", "samples": (1 << 40) + 1}, "samples claimed"),
        ({"phase": "nothing", "samples": 1}, "phase 'nothing'"),
        ({"phase": "threshold", "samples": 1, "fresh": True}, "only a basis can be"),
        ({"phase": "standardise", "samples": 1}, "sums and squares of 6 columns takes 96"),
        ({"phase": "threshold", "samples": 1}, "a histogram of 64 bins takes 256"),
    )
    for said, says in cases:
        header = UpdateHeader(fedpca=FedPcaUpdate(**said)).SerializeToString()
        with pytest.raises((OutsideLaw, WrongShape), match=says):
            codec.decode_update(Payload(header, body), SCHEMA)
    with pytest.raises(WrongShape, match="header for None"):
        codec.decode_update(Payload(b"", body), SCHEMA)
    loose = registry.codec("fedpca", Settings(bins=64, mode="fedpe"))
    skewed = Basis(1, False, (3 * start(1)).astype(np.float32))
    assert same(loose.decode_update(loose.encode_update(skewed), SCHEMA), skewed)
    with pytest.raises(OutsideLaw, match="a basis of norm"):
        loose.decode_update(loose.encode_update(Basis(1, False, (20 * start(1)).astype(np.float32))), SCHEMA)


@pytest.mark.parametrize(
    ("phase", "changed", "says"),
    [
        ("subspace", {"round": 0}, "round 0"),
        ("subspace", {"seed": 1 << 63}, "seed"),
        ("subspace", {"phase": "other"}, "phase 'other'"),
        ("subspace", {"mode": "pca"}, "mode"),
        ("subspace", {"rho": 0.0}, "rho"),
        ("subspace", {"rho": float("nan")}, "rho"),
        ("subspace", {"local_steps": 0}, "local_steps"),
        ("subspace", {"learning_rate": -1.0}, "learning_rate"),
        ("subspace", {"bins": 7}, "7 bins"),
        ("subspace", {"curve": "root"}, "curve = 'root'"),
        ("subspace", {"clip": -1.0}, "clip"),
        ("subspace", {"columns": 1 << 48}, "49 bits"),
        ("threshold", {"statistics": False}, "without means and widths"),
        ("standardise", {"statistics": True}, "with means and widths"),
    ],
)
def test_law_of_orders(phase: str, changed: dict[str, Any], says: str) -> None:
    codec = registry.codec("fedpca")
    payload = codec.encode_order(order(phase))
    header = TaskHeader.FromString(payload.header)
    fields = {field.name: getattr(header.fedpca, field.name) for field in FedPcaTask.DESCRIPTOR.fields}
    spoiled = TaskHeader(fedpca=FedPcaTask(**{**fields, **changed})).SerializeToString()
    with pytest.raises((OutsideLaw, WrongShape), match=says):
        codec.decode_order(Payload(spoiled, payload.body), SCHEMA)


def test_law_of_what_orders_carry() -> None:
    codec = registry.codec("fedpca")
    zero, crooked = np.ones(D, np.float32), start(1).astype(np.float32) * 1.001
    zero[4] = 0
    with pytest.raises(OutsideLaw, match="width 0.0 of column 4"):
        codec.decode_order(codec.encode_order(order("threshold", width=zero)), SCHEMA)
    with pytest.raises(NotOrthonormal):
        codec.decode_order(codec.encode_order(order("subspace", basis=crooked)), SCHEMA)
    with pytest.raises(NotFinite):
        codec.decode_order(codec.encode_order(order("threshold", mean=np.full(D, np.nan, np.float32))), SCHEMA)
    with pytest.raises(WrongShape, match="a model of b"):
        codec.decode_order(codec.encode_order(order("subspace")), Schema((Tensor("b", (3,)),)))


# Bad input.


@pytest.mark.parametrize(
    ("how", "field"),
    [
        ({"rho": 0}, "rho"),
        ({"rho": -1.0}, "rho"),
        ({"local_steps": 0}, "local_steps"),
        ({"mode": "grassmann"}, "mode"),
        ({"false_alarms": 0.0}, "false_alarms"),
        ({"false_alarms": 1.0}, "false_alarms"),
        ({"bins": 4}, "bins"),
        ({"subspace_rounds": -1}, "subspace_rounds"),
    ],
)
def test_impossible_settings_are_refused(how: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        convert(how, Settings, "plan", "method")


def test_a_model_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"FedPCA fits a subspace: a model of w \[4\]"):
        registry.server_side("fedpca", Settings(), Schema((Tensor("w", (4,)),)), 1)
    server = registry.server_side("fedpca", Settings(), SCHEMA, 1)
    good = SCHEMA.unflatten(first_weights(SCHEMA, READING, 1))
    flat, narrow = np.ones((D, K), np.float32), np.ones(D, np.float32)
    narrow[2] = -1
    for name, value, says in (
        ("subspace", flat, "2 columns that span 1 dim"),
        ("width", narrow, "width is -1.0 at column 2"),
        ("mean", np.full(D, np.nan, np.float32), "tensor mean holds"),
        ("reading", np.array([2, 5, 0, 0], np.float32), "tensor reading is"),
    ):
        with pytest.raises(ConfigError, match=says) as found:
            server.start(Vector.of(SCHEMA.flatten({**good, name: value})))
        assert found.value.field == "model.file"
    for k in (0, D, D + 1):
        with pytest.raises(ConfigError, match=f"components = {k} of {D} columns"):
            schema_of(D, k)


def test_bad_records_are_named() -> None:
    client = registry.client_side("fedpca")
    standard, fit, cut = (order(phase, reading=Reading("none", 0)) for phase in ("standardise", "subspace", "threshold"))
    holed = factors(1)
    holed[6, 2] = np.nan
    text = np.full((3, D), "tcp", dtype=object)
    for asked, task, says in (
        (standard, table(holed), "training records: column 'c', row 7 is nan"),
        (cut, table(factors(1), holed), "held-out records: column 'c', row 7 is nan"),
        (standard, table(np.zeros((0, D))), "records of shape .0, 6."),
        (standard, table(text), "records of object; numbers are needed"),
        (cut, table(factors(1)), "holds no records back"),
        (replace(fit, reading=Reading("none", 0, 5)), table(factors(1)), "the 6 columns a, b, c, d, e, f are not those"),
        (replace(fit, mean=None, width=None), table(factors(1)), "no longer has the run's means and widths"),
        (standard, SyntheticTask(7, 0.5, 3), "SyntheticTask"),
    ):
        with pytest.raises(ConfigError, match=says):
            client.work(asked, client.begin(asked, task, stream(1)), task, stream(1))
    swapped = table(factors(1), columns=tuple("abcdfe"))
    told = replace(fit, reading=Reading("none", 0, names_digest(COLUMNS)))
    with pytest.raises(ConfigError, match="names and order differ"):
        client.work(told, Local(), swapped, stream(1))


def test_constant_columns_do_no_harm() -> None:
    tasks = {f"c{i}": table(np.c_[factors(i, d=D - 1), np.full(200, 3.0)], factors(i)) for i in range(2)}
    model, s, result = agreed(tasks, 60)
    assert result.rounds[0]["columns_constant"] == 1
    assert model.width[-1] == 1
    assert subspace.loss(s, model.basis) / subspace.loss(s, subspace.leading(s, K)) < 1 + 1e-5


def test_local_states_come_back_and_others_are_refused() -> None:
    client = registry.client_side("fedpca")
    task = table(factors(1))
    for mode in ("fedpg", "fedpg_paper", "fedpe"):
        asked = order("subspace", training=Training(mode=mode), reading=Reading("none", 0))
        kept, _, _ = client.work(asked, Local(), task, stream(1))
        again = client.load(client.dump(kept))
        assert client.dump(again) == client.dump(kept)
        assert (again.constraint is not None) == (mode == "fedpe")
        for bad in (client.dump(kept)[:-1], client.dump(kept) + b"\0", b"\1\0\0\0"):
            with pytest.raises(WrongShape, match="local state"):
                client.load(bad)
    assert client.load(b"") == Local()


def test_a_basis_that_blew_up_is_refused_by_the_law() -> None:
    client, codec = registry.client_side("fedpca"), registry.codec("fedpca", Settings(mode="fedpe"))
    task = table(100 * factors(1))
    wild = Training(mode="fedpe", learning_rate=100.0, local_steps=50)
    with np.errstate(all="ignore"):
        _, update, _ = client.work(order("subspace", training=wild, reading=Reading("none", 0)), Local(), task, stream(1))
    with pytest.raises((NotFinite, OutsideLaw)):
        codec.decode_update(codec.encode_update(update), SCHEMA)
