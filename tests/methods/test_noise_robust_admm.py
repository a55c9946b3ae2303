"""Noise-robust ADMM: the invariants of its derivation through the real halves, its law, its problems, its links."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgehold.attacks.eval.reproductions.noise_robust_admm import slope
from edgehold.client.data.linear import distance, make_task, synthetic, zeros
from edgehold.core.contract import Cohort, Payload, Weighted
from edgehold.core.errors import ConfigError, FlError, NotFinite, OutsideLaw, WrongShape
from edgehold.core.facts import FACTS
from edgehold.core.plan import parse_plan
from edgehold.core.rng import stream
from edgehold.core.tables import Records, TableTask
from edgehold.core.vectors import Bytes, MemorySpace, Schema, Tensor, Vector
from edgehold.defenses import registry
from edgehold.defenses.noise_robust_admm.client import AdmmClient
from edgehold.defenses.noise_robust_admm.codec import AdmmCodec
from edgehold.defenses.noise_robust_admm.link import rounded_at_random
from edgehold.defenses.noise_robust_admm.problems import Logistic, Quadratic, problem_of
from edgehold.defenses.noise_robust_admm.server import AdmmServer
from edgehold.defenses.noise_robust_admm.state import Local, Order, Settings, State, Training, Update

N = 5
SCHEMA = Schema((Tensor("x", (N,)),))


def device(index: int, rows: int = 9) -> TableTask:
    """Random records, with a noise of its own."""
    rng = stream(7, "records", index)
    h = rng.standard_normal((rows, N))
    y = h @ np.arange(1.0, N + 1) + rng.standard_normal(rows)
    return TableTask(SCHEMA, Records(h, y), None, lambda seed: zeros(N, seed), distance, weight=0.5 + index)


TASKS = {f"d{i}": device(i) for i in range(6)}
PROBLEMS = {client: problem_of(task, 0.1, 10) for client, task in TASKS.items()}


def quadratic(client: str) -> Quadratic:
    found = PROBLEMS[client]
    assert isinstance(found, Quadratic)
    return found


SOLUTION = np.linalg.solve(sum(quadratic(c).a for c in TASKS), sum(quadratic(c).b for c in TASKS))
RHO = float(np.mean([np.trace(quadratic(c).a) / N for c in TASKS]))


class Run:
    """Rounds through both halves and the codec, everything dumped and packed in between."""

    def __init__(self, **how: Any) -> None:
        self.settings = Settings(**{"wire": "float64", "rho": RHO, **how})
        self.server, self.codec = AdmmServer(self.settings, SCHEMA, 3), AdmmCodec(self.settings)
        self.state = self.server.start(Vector.of(zeros(N, 0)))
        self.locals: dict[str, Local] = {}
        self.number = 0

    def round(self, clients: Sequence[str] = tuple(TASKS), restart: bool = False) -> dict[str, bytes]:
        self.number += 1
        sent, updates = {}, []
        order = self.codec.encode_order(self.server.open(self.state, Cohort(self.number, tuple(clients))))
        for client in clients:
            half, rng = AdmmClient(), stream(3, "round", self.number, client)
            received = self.codec.decode_order(order, SCHEMA)
            local = self.locals.get(client) or half.begin(received, TASKS[client], rng)
            self.locals[client], update, _ = half.work(received, local, TASKS[client], rng)
            if restart:
                self.locals[client] = AdmmClient().load(half.dump(self.locals[client]))
            answer = self.codec.encode_update(update)
            sent[client] = answer.header + bytes(answer.body.read(0, answer.body.size))
            updates.append(Weighted(client, 1.0, self.codec.decode_update(answer, SCHEMA)))
        self.state, _ = self.server.close(self.state, updates, MemorySpace())
        if restart:
            self.state = AdmmServer(self.settings, SCHEMA, 3).unpack(self.server.pack(self.state))
        return sent

    @property
    def s(self) -> Any:
        return self.state.s.whole()


def close(found: Any, expected: Any, relative: float) -> bool:
    return bool(np.linalg.norm(found - expected) <= relative * np.linalg.norm(expected))


def test_without_noise_and_with_all_the_sum_that_holds_the_data_stays_and_the_solution_comes() -> None:
    run = Run(form="rerce")
    kept = []
    for _ in range(120):
        before = run.s.copy()
        run.round()
        total = np.zeros(N)
        for client, local in run.locals.items():
            total += quadratic(client).a @ local.x + RHO * (local.x - before)
        kept.append(total)
    assert all(close(one, kept[0], 1e-10) for one in kept)
    assert close(kept[0], np.asarray(sum(quadratic(c).b for c in TASKS)), 1e-10)
    assert close(run.s, SOLUTION, 1e-8)


def test_without_a_dual_variable_iterates_are_those_of_admm_with_one() -> None:
    ours, textbook, memory = (Run(form=form) for form in ("rerce", "dual", "continual"))
    for number in range(40):
        for run in (ours, textbook, memory):
            run.round()
        for client in TASKS:
            x = ours.locals[client].x
            assert close(textbook.locals[client].x, x, 1e-10)
            assert close(memory.locals[client].x, x, 1e-10)
        assert close(textbook.s, ours.s, 1e-10)
        # With all devices the mean of 2 x - x before is 2 s - s before.
        if number:
            assert close(memory.s, 2 * ours.s - ours.state.before.whole(), 1e-10)


def test_anchored_finds_the_solution_with_one_device_at_a_time_where_the_others_do_not() -> None:
    run, paper = Run(form="anchored"), Run(form="rerce")
    chance = stream(5, "who")
    for number in range(3000):
        who = sorted(TASKS)[number] if number < len(TASKS) else f"d{chance.integers(len(TASKS))}"
        run.round([who])
        paper.round([who])
    assert close(run.s, SOLUTION, 1e-8)
    assert close(np.mean([local.other for local in run.locals.values()], axis=0), SOLUTION, 1e-8)
    pull = sum(RHO * (local.other - local.x) for local in run.locals.values())
    assert np.linalg.norm(pull) <= 1e-8 * RHO * np.linalg.norm(SOLUTION)
    assert not close(paper.s, SOLUTION, 1e-2)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_the_paper_s_form_stays_at_any_consensus(value: float) -> None:
    """Data enter only through the first x: a device that comes back with another one changes the answer for good."""
    run, c = Run(form="rerce"), np.full(N, value)
    run.round()
    run.locals = {client: replace(local, x=c) for client, local in run.locals.items()}
    run.state = replace(run.state, s=Vector.of(c), before=Vector.of(c))
    for _ in range(5):
        run.round()
        assert np.allclose(run.s, c, rtol=0, atol=1e-11)


@pytest.mark.parametrize("form", ["anchored", "rerce", "continual", "dual"])
def test_a_run_that_is_stored_and_read_again_sends_the_same_bytes(form: str) -> None:
    how = {"form": form, "noise_up": 0.1, "noise_down": 0.1}
    one, other = Run(**how), Run(**how)
    for number in range(8):
        who = sorted(TASKS)[number % 3 :: 2]
        assert one.round(who) == other.round(who, restart=True)
    assert one.s.tobytes() == other.s.tobytes()


def test_moves_made_up_for_are_those_of_devices_that_moved_every_round() -> None:
    run = Run(form="continual")
    eager = {client: quadratic(client).prox(np.zeros(N), np.zeros(N), RHO, np.zeros(N)) for client in TASKS}
    at_first = ["d0", "d1", "d2", "d4"]  # the others join when they are asked
    stored, heard = {c: 2 * eager[c] for c in at_first}, {c: np.zeros(N) for c in at_first}
    run.round(at_first)
    chance = stream(1, "who")
    late = 0
    for _ in range(30):
        who = sorted(f"d{i}" for i in chance.choice(len(TASKS), 2, replace=False))
        late += len(set(who) - set(heard))
        p = np.mean([stored[c] for c in sorted(stored)], axis=0)
        run.round(who)
        for client in TASKS:
            if client in who:
                heard[client] = p
            if client in heard:
                f, x = quadratic(client), eager[client]
                eager[client] = f.prox(heard[client], f.gradient(x), RHO, x)
                if client in who:
                    stored[client] = 2 * eager[client] - x
        for client in who:
            assert close(run.locals[client].x, eager[client], 1e-10)
        assert close(run.s, np.mean([stored[c] for c in sorted(stored)], axis=0), 1e-10)
    assert late == 2


def test_a_change_of_rho_keeps_the_dual() -> None:
    run = Run(form="anchored", rho=RHO, late_rho=RHO / 8, late_from=60)
    for _ in range(59):
        run.round()
    before = {client: local.rho * (local.other - local.x) for client, local in run.locals.items()}
    near = run.s.copy()
    run.round()
    for client, local in run.locals.items():
        moved = local.rho * (local.other - local.x) - before[client]
        assert np.linalg.norm(moved) < 0.05 * np.linalg.norm(before[client])
    for _ in range(200):
        run.round()
    assert close(run.s, SOLUTION, 1e-8)
    assert close(near, SOLUTION, 1e-2)


def test_rho_can_count_in_the_eigenvalues_that_devices_say() -> None:
    """Six devices: the median lies between the third and the fourth. In the first round each counts in its own."""
    run = Run(form="anchored", rho=0.5, rho_rule="mean_eigenvalue")
    curvatures = sorted(np.trace(quadratic(client).a) / N for client in TASKS)
    first = run.server.open(run.state, Cohort(1, tuple(TASKS)))
    assert (first.own_units, first.training.rho) == (True, 0.5)
    run.round(restart=True)
    assert all(np.isclose(run.locals[c].rho, 0.5 * np.trace(quadratic(c).a) / N) for c in TASKS)
    second = run.server.open(run.state, Cohort(2, tuple(TASKS)))
    assert not second.own_units
    assert np.isclose(second.training.rho, 0.5 * (curvatures[2] + curvatures[3]) / 2)
    before = {client: local.rho * (local.other - local.x) for client, local in run.locals.items()}
    p, x = run.s.copy(), {client: local.x for client, local in run.locals.items()}
    run.round(["d0", "d5"])
    for client in ("d0", "d5"):  # w - (p - x) over the new rho is the dual of the old one
        local = run.locals[client]
        w = local.other - (p - x[client])
        assert np.allclose(local.rho * (w - x[client]), before[client], rtol=1e-9, atol=1e-9)
    for number in range(3000):
        run.round([f"d{number % 6}"])
    assert close(run.s, SOLUTION, 1e-8)
    assert run.server.open(run.state, Cohort(9, ())).training.rho == second.training.rho, "later devices do not move it"


def test_eigenvalues_nobody_can_say_are_named() -> None:
    empty = TableTask(SCHEMA, Records(np.zeros((3, N)), np.zeros(3)), None, lambda seed: zeros(N, seed), distance)
    order = Order(1, 1, Training(), Vector.of(np.zeros(N, "<f4")), own_units=True)
    half = AdmmClient()
    with pytest.raises(ConfigError, match="all records of this device are zero"):
        half.work(order, half.begin(order, empty, stream(1)), empty, stream(1))
    settings = Settings(rho_rule="mean_eigenvalue")
    server = AdmmServer(settings, SCHEMA, 1)
    silent = [Weighted("d0", 1.0, Update(Vector.of(np.zeros(N, "<f4"))))]
    with pytest.raises(ConfigError, match="no device said"):
        server.close(server.start(Vector.of(zeros(N, 0))), silent, MemorySpace())
    codec = AdmmCodec(settings)
    for wrong in (-1.0, float("nan"), float("inf"), 1e19):
        with pytest.raises(OutsideLaw, match="mean eigenvalue"):
            codec.decode_update(codec.encode_update(Update(Vector.of(np.zeros(N, "<f4")), wrong)), SCHEMA)


def test_a_device_that_left_pulls_to_what_it_sent_last() -> None:
    """Its last u stays in the mean. Fixed point, all others at x: sum over them of grad f(x) = rho (u - x)."""
    run = Run(form="anchored")
    for _ in range(4):
        run.round()
    rest = [client for client in TASKS if client != "d5"]
    for _ in range(400):
        run.round(rest)
    assert run.state.memory is not None
    u = run.state.memory.read()["d5"]
    a = np.asarray(sum(quadratic(c).a for c in rest)) + RHO * np.eye(N)
    b = np.asarray(sum(quadratic(c).b for c in rest)) + RHO * u
    assert close(run.s, np.linalg.solve(a, b), 1e-8)
    without = np.linalg.solve(a - RHO * np.eye(N), b - RHO * u)
    assert not close(run.s, without, 1e-3), "control: the device makes a difference"


def test_many_moves_at_once_are_one_move_after_the_other() -> None:
    """Least squares, in closed form: x + rho (A + rho I)^-1 (p - x), worked out with an inverse; logistic regression too."""
    rng = stream(3, "moves")
    x, p = rng.standard_normal(N), rng.standard_normal(N)
    f = quadratic("d2")
    slow = x
    for times in range(6):
        assert close(f.moved(x, p, RHO, times), slow, 1e-12)
        slow = slow + RHO * np.linalg.inv(f.a + RHO * np.eye(N)) @ (p - slow)
    assert close(f.moved(x, p, RHO), f.prox(p, f.gradient(x), RHO, x), 1e-10)
    curved = Logistic(rng.standard_normal((30, N)), np.sign(rng.standard_normal(30)), 1.0, 1e-9, 50)
    twice = curved.moved(curved.moved(x, p, 2.0), p, 2.0)
    assert close(curved.moved(x, p, 2.0, 2), twice, 1e-12)
    # Where it stands still, the gradient of the step's problem vanishes: grad f(new) - grad f(old) + rho (new - p) = 0.
    new = curved.moved(x, p, 2.0)
    assert np.linalg.norm(curved.gradient(new) - curved.gradient(x) + 2.0 * (new - p)) < 1e-6


def test_a_step_is_exact_where_rho_is_small_beside_the_data() -> None:
    """54 records for 128 weights, eigenvalues up to 1e6, rho 1: an explicit inverse leaves 1e-3 of the gradient here."""
    task = synthetic(3)
    assert task.train_data is not None
    f = problem_of(task, 0.1, 10)
    w = stream(4, "w").standard_normal(128)
    x = f.prox(w, np.zeros(128), 1.0, w).astype(np.longdouble)
    h, y = task.train_data.x.astype(np.longdouble), task.train_data.y.astype(np.longdouble)
    left = 1e4 * h.T @ (h @ x - y) + x - w
    assert np.linalg.norm(left.astype(np.float64)) < 1e-5


def test_facts_say_what_the_link_did() -> None:
    run = Run(form="anchored", noise_up=0.25, noise_down=0.5)
    run.round(["d0", "d1"])
    order = run.server.open(run.state, Cohort(2, ()))
    half = AdmmClient()
    local, update, facts = half.work(order, run.locals["d0"], TASKS["d0"], stream(1))
    assert facts == {"channel_noise_up": 0.25, "channel_noise_down": 0.5, "penalty": RHO}
    _, more = run.server.close(run.state, [Weighted("d4", 1.0, update)], MemorySpace())
    assert (more["channel_noise_up"], more["channel_noise_down"], more["devices_in_mean"]) == (0.25, 0.5, 3.0)
    assert set(facts) | set(more) <= set(FACTS)


def test_noise_adds_up_as_derived_and_not_where_data_are_anchored() -> None:
    assert 0.85 <= slope(40) <= 1.15
    far = {}
    for form in ("anchored", "rerce"):
        run = Run(form=form, noise_up=0.3, noise_down=0.3)
        found = []
        for number in range(1200):
            run.round()
            if number in (299, 1199):
                found.append(np.mean([np.linalg.norm(local.x - SOLUTION) for local in run.locals.values()]))
        far[form] = found
    assert far["anchored"][1] < 3 * far["anchored"][0]
    assert far["rerce"][1] > far["anchored"][1]


def test_a_resend_is_never_drawn_again_and_every_round_has_noise_of_its_own() -> None:
    one, other = Run(form="anchored", noise_up=1.0), Run(form="anchored", noise_up=1.0)
    first = one.round()
    assert first == other.round()
    assert first != one.round()
    calm = Run(form="anchored").round()
    u, quiet = (np.frombuffer(sent["d0"][-8 * N :], "<f8") for sent in (first, calm))
    assert 0.05 < float(np.std(u - quiet)) < 4.0


def test_rounding_at_random_has_the_right_mean_and_only_neighbours() -> None:
    values = np.array([1.0002, -3.3333, 0.0, 1000.3, 6e-8])
    drawn = np.stack([rounded_at_random(values, stream(i, "round")) for i in range(4000)]).astype(np.float64)
    for at, value in enumerate(values):
        near = np.unique(drawn[:, at])
        assert len(near) <= 2
        assert near.min() <= value <= near.max()
        step = near.max() - near.min()
        assert abs(drawn[:, at].mean() - value) <= 4 * step / np.sqrt(4 * 4000) + 1e-12


def test_numbers_beyond_float16_become_its_largest() -> None:
    found = rounded_at_random(np.array([1e9, -1e9, 65504.0, 65519.0]), stream(1, "round"))
    assert found.tolist() == [65504.0, -65504.0, 65504.0, 65504.0]


def test_logistic_regression_over_devices_is_that_of_all_records() -> None:
    rng = stream(2, "logistic")
    truth = np.array([1.5, -2.0, 0.5])
    schema = Schema((Tensor("x", (3,)),))

    def records(index: int) -> Records:
        h = rng.standard_normal((60, 3))
        if index == 0:  # only one class on this device
            h = np.abs(h) * np.sign(truth)
            return Records(h, np.ones(60, np.int64), (), ("no", "yes"))
        return Records(h, (rng.random(60) < 1 / (1 + np.exp(-h @ truth))).astype(np.int64), (), ("no", "yes"))

    tasks = {f"d{i}": TableTask(schema, records(i), None, lambda seed: zeros(3, seed), distance) for i in range(4)}
    text = '[run]\nname = "a"\nrounds = 400\ntask = "t"\n[cohort]\nsize = 2\nover_select = 1.0\n[evaluation]\nevery = 0\n'
    plan, settings = parse_plan(text + '[method]\nname = "noise_robust_admm"\nrho = 3.0\nwire = "float64"\n', registry.method)
    from edgehold.server import engine

    found = engine.run(plan, settings, tasks).model.whole()
    everything = [task.train_data for task in tasks.values() if task.train_data is not None]
    pooled = Logistic(
        np.concatenate([r.x for r in everything]), 2.0 * np.concatenate([r.y for r in everything]) - 1, 1.0, 1e-9, 100
    )
    slope_there = pooled.gradient(found.astype(np.float64))
    assert np.linalg.norm(slope_there) < 0.02 * np.linalg.norm(pooled.gradient(np.zeros(3)))


@pytest.mark.parametrize(
    ("records", "said"),
    [
        (Records(np.full((3, N), np.nan), np.zeros(3)), "expected a finite number"),
        (Records(np.zeros((0, N)), np.zeros(0)), "at least one record"),
        (Records(np.zeros((3, N + 1)), np.zeros(3)), "6 columns"),
        (Records(np.zeros((3, N)), np.array([0.0, np.inf, 1.0])), "finite target"),
        (Records(np.array([["a"] * N] * 2), np.zeros(2)), "text columns"),
        (Records(np.zeros((3, N)), np.array([0, 1, 2]), (), ("a", "b", "c")), "tells two apart"),
    ],
)
def test_records_that_pose_no_problem_are_named(records: Records, said: str) -> None:
    task = TableTask(SCHEMA, records, None, lambda seed: zeros(N, seed), distance)
    with pytest.raises(ConfigError, match=said):
        problem_of(task, 0.1, 10)


def test_a_constant_column_is_no_trouble() -> None:
    h = np.hstack([np.ones((6, 2)), stream(1, "h").standard_normal((6, N - 2))])
    task = TableTask(SCHEMA, Records(h, h.sum(axis=1)), None, lambda seed: zeros(N, seed), distance)
    x = problem_of(task, 0.1, 10).prox(np.zeros(N), np.zeros(N), 1e-6, np.zeros(N))
    assert np.allclose(h @ x, h.sum(axis=1), atol=1e-4)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("rho = 0.0", "rho"), ("rho = -1.0", "rho"), ('form = "magic"', "form"), ("late_rho = 0.5", "late_from"),
        ('form = "rerce"\nlate_rho = 0.5\nlate_from = 9', "anchored"),
        ('form = "dual"\nrho_rule = "mean_eigenvalue"', "anchored"),
        ('rho_rule = "largest"', "rho_rule"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused_with_the_plan(how: str, said: str) -> None:
    text = f'[run]\nname = "a"\nrounds = 1\ntask = "t"\n[cohort]\nsize = 2\n[method]\nname = "noise_robust_admm"\n{how}\n'
    with pytest.raises(ConfigError, match=said):
        parse_plan(text, registry.method)


def test_the_paper_s_forms_start_at_zero_only() -> None:
    ones = Vector.of(np.ones(N, np.float32))
    with pytest.raises(ConfigError, match=r"model\.file"):
        AdmmServer(Settings(form="rerce"), SCHEMA, 1).start(ones)
    assert AdmmServer(Settings(), SCHEMA, 1).start(ones).model.whole().tolist() == [1.0] * N


def update_with(settings: Settings, change: Callable[[Any], Any]) -> Update:
    codec = AdmmCodec(settings)
    sent = codec.encode_update(Update(Vector.of(change(np.ones(N, "<f4")))))
    return codec.decode_update(sent, SCHEMA)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda u: u[:-1], WrongShape), (lambda u: np.append(u, u[:1]), WrongShape), (lambda u: u.astype("<f8"), WrongShape),
        (lambda u: u * np.float32("nan"), NotFinite), (lambda u: u * np.float32(1e6), OutsideLaw),
    ],
)  # fmt: skip
def test_updates_outside_the_law_are_refused(change: Callable[[Any], Any], error: type[FlError]) -> None:
    settings = Settings(norm_limit=1e4)
    assert update_with(settings, lambda u: u).u.size == N
    with pytest.raises(error):
        update_with(settings, change)


def test_an_order_of_another_length_or_outside_the_settings_is_refused() -> None:
    codec = AdmmCodec(None)
    order = codec.encode_order(Order(1, 2, Training(form="dual"), Vector.of(np.zeros(2 * N, "<f4"))))
    assert codec.decode_order(order, SCHEMA).p.size == 2 * N
    with pytest.raises(WrongShape, match="10 float32"):
        codec.decode_order(Payload(order.header, Bytes(b"\0" * 4 * N)), SCHEMA)
    bad = codec.encode_order(Order(1, 2, Training(rho=-1.0), Vector.of(np.zeros(N, "<f4"))))
    with pytest.raises(OutsideLaw, match="rho"):
        codec.decode_order(bad, SCHEMA)
    with pytest.raises(WrongShape, match="local state"):
        AdmmClient().load(b"nonsense")


@pytest.mark.parametrize(("wire", "size"), [("float16", 2), ("float32", 4), ("float64", 8)])
def test_a_message_has_exactly_the_bytes_of_its_numbers(wire: Any, size: int) -> None:
    settings = Settings(wire=wire)
    server, codec = AdmmServer(settings, SCHEMA, 1), AdmmCodec(settings)
    order = codec.encode_order(server.open(server.start(Vector.of(zeros(N, 0))), Cohort(1, tuple(TASKS))))
    _, update, _ = AdmmClient().work(
        codec.decode_order(order, SCHEMA), AdmmClient().begin(codec.decode_order(order, SCHEMA), TASKS["d0"], stream(1)),
        TASKS["d0"], stream(1, "x"),
    )  # fmt: skip
    answer = codec.encode_update(update)
    assert [order.body.size, answer.body.size, *codec.body_bytes(SCHEMA)] == [size * N] * 4
    assert len(order.header) < 128
    assert len(answer.header) < 32


def test_networks_take_part_in_the_anchored_form_alone() -> None:
    from edgehold.attacks.eval.data import make_task as digits
    from edgehold.server import engine

    tasks: Mapping[str, Any] = {f"d{i}": digits("digits", i, 3, limit=200, model="mlp", net={"hidden": [16]}) for i in range(3)}
    own = digits("digits", -1, 3, model="mlp", net={"hidden": [16]})
    text = '[run]\nname = "a"\nrounds = 12\ntask = "t"\n[cohort]\nsize = 3\nover_select = 1.0\n[evaluation]\nevery = 12\n'
    plan, settings = parse_plan(
        text + '[method]\nname = "noise_robust_admm"\nrho = 0.1\nlocal_epochs = 3\nbatch_size = 16\n', registry.method
    )
    assert engine.run(plan, settings, tasks, own).rounds[-1]["accuracy"] > 0.7
    order = Order(1, 1, Training(form="dual"), Vector.of(np.zeros(2 * own.schema.size, "<f4")))
    with pytest.raises(ConfigError, match="anchored"):
        AdmmClient().work(order, AdmmClient().begin(order, tasks["d0"], stream(1)), tasks["d0"], stream(1))


def test_the_scripts_set_up_is_as_described_and_scores_a_solution() -> None:
    task, own = synthetic(3), synthetic(-1)
    assert task.train_data is not None
    assert own.test_data is not None
    assert 51 <= len(task.train_data) <= 90
    assert own.evaluate(own.test_data.x[0].astype(np.float32))["nmsd_db"] < -100
    assert own.evaluate(np.zeros(128, np.float32))["nmsd_db"] == pytest.approx(0.0)
    assert synthetic(3).train_data.x.tobytes() == task.train_data.x.tobytes()  # type: ignore[union-attr]


def test_a_table_s_target_is_not_among_its_columns(tmp_path: Any) -> None:
    rows = "\n".join(f"{i},{i * i % 7},{2 * i + 1}" for i in range(40))
    (tmp_path / "t.csv").write_text(f"a,b,y\n{rows}\n", encoding="utf-8")
    data = {"label": "y"}
    task = make_task("table", str(tmp_path / "t.csv"), 0, 2, data=data, variance=1.0)
    assert task.train_data is not None
    assert task.train_data.features == ("a", "b", "intercept")
    assert task.schema.size == 3
    with pytest.raises(ConfigError, match="only copy it"):
        make_task("table", str(tmp_path / "t.csv"), 0, 2, data=data, target="a", columns=["a", "b"])
    with pytest.raises(ConfigError, match="give `variance`"):
        make_task("table", str(tmp_path / "t.csv"), 0, 2, data=data, limit=2)


def test_a_state_remembers_who_answered() -> None:
    run = Run(form="anchored")
    run.round(["d1", "d4"])
    packed = run.server.pack(run.state)
    assert isinstance(run.state, State)
    assert bytes(packed.blobs["clients"].read(0, packed.blobs["clients"].size)) == b"d1\nd4"
    run.round(["d2"])
    assert bytes(run.server.pack(run.state).blobs["clients"].read(0, 8)) == b"d1\nd2\nd4"
