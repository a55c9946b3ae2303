"""Bases turned away from the honest subspace, against FedPCA: by hand, lawful, on both seams, over TLS; and that they win."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.normal_records import ENTRY, normal_records, options

from edgehold.attacks.byzantine import bases
from edgehold.attacks.byzantine.bases import Rotate, best_angle, turned
from edgehold.attacks.byzantine.knowledge import K0, K1
from edgehold.attacks.byzantine.wrap import Memory
from edgehold.attacks.eval.conspiracies import PayloadPlot
from edgehold.attacks.eval.plans import whole_cohort
from edgehold.attacks.testbed import Federation
from edgehold.client.data.anomaly import make_task
from edgehold.client.data.synthetic import SyntheticTask
from edgehold.core.anomaly import Detector, Doubles
from edgehold.core.contract import Cohort, Weighted
from edgehold.core.errors import ConfigError, NotGranted, NotOrthonormal
from edgehold.core.plan import parse_plan
from edgehold.core.rng import stream
from edgehold.core.vectors import MemorySpace, Vector
from edgehold.defenses import registry
from edgehold.defenses.baselines.fedavg.state import Order as FedAvgOrder
from edgehold.defenses.baselines.fedavg.state import Training as FedAvgTraining
from edgehold.defenses.fedpca import subspace
from edgehold.defenses.fedpca.state import Basis, Moments
from edgehold.server import engine

E = np.eye(4)
TASKS = {f"c{i}": normal_records(i) for i in range(6)}


def basis(u: Doubles) -> Basis:
    return Basis(10, False, u.astype(np.float32))


def told(attack: Rotate, known: list[Doubles], clients: int = 4, memory: Memory | None = None) -> Doubles:
    """What a liar sends whose own basis is the first of these."""
    sent = [basis(one) for one in known]
    found: Any = attack.tell(None, sent[0], sent, clients, {} if memory is None else memory)  # type: ignore[arg-type]
    return np.asarray(found.basis, dtype=np.float64)


def test_a_turn_by_hand() -> None:
    # cos 60 = 1/2, sin 60 = 0.8660: from the first axis towards the third.
    assert turned(E[:, :1], E[:, 2:3], 60.0)[:, 0] == pytest.approx([0.5, 0, 0.75**0.5, 0])
    both = turned(E[:, :2], E[:, 2:3], 60.0)
    assert both[:, 0] == pytest.approx([1, 0, 0, 0]), "only the last column turns where there is one direction"
    assert both[:, 1] == pytest.approx([0, 0.5, 0.75**0.5, 0])
    assert turned(E[:, :2], E[:, 2:], 90.0) == pytest.approx(E[:, 2:])


@pytest.mark.parametrize(("liars", "clients", "angle", "mean"), [(1, 3, 120.0, 30.0), (2, 4, 90.0, 45.0), (3, 4, 90.0, 71.565)])
def test_the_angle_that_turns_a_mean_farthest(liars: int, clients: int, angle: float, mean: float) -> None:
    # One of three: 2 (1, 0) + (-1/2, 0.866) = (3/2, 0.866), which is 30 degrees off. At 90 it would be arctan(1/2) = 26.6.
    assert best_angle(liars, clients) == pytest.approx(angle)

    def off(degrees: float) -> float:
        total = (clients - liars) * E[:, :1] + liars * turned(E[:, :1], E[:, 1:2], degrees)
        return subspace.angle(total / np.linalg.norm(total), E[:, :1])

    assert off(angle) == pytest.approx(mean, abs=1e-3)
    if liars < clients - liars:
        assert off(angle) >= max(off(other) for other in range(1, 180))


@pytest.mark.parametrize("angle", [30.0, 90.0, 150.0])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_every_lie_is_lawful_and_as_far_off_as_told(angle: float, k: int) -> None:
    rng = np.random.default_rng(k)
    known = [subspace.qf(E[:, :k] + 0.05 * rng.standard_normal((4, k))) for _ in range(3)]
    lie = told(Rotate(angle, after=0), known)
    assert subspace.error(lie) < 1e-6
    pooled = subspace.qf(np.mean(known, axis=0))
    assert subspace.angle(lie, pooled) == pytest.approx(min(angle, 180 - angle), abs=0.05)  # arcsin near 90 degrees, float32
    other = told(Rotate(angle, after=0, secret=1), known)
    assert k > 1 or subspace.angle(lie, other) > 1.0, "another secret, other directions, where there is a choice"
    assert told(Rotate(angle, after=0), [known[1], known[2], known[0]]) == pytest.approx(lie, abs=1e-6), "all send one lie"


def test_hiding_a_direction_turns_one_component_to_what_of_it_lies_outside() -> None:
    # (3, 0, 4, 0): its part outside the span of the first two axes is the third one.
    lie = told(Rotate(90.0, after=0, hide=(3, 0, 4, 0)), [E[:, :2]])
    assert lie == pytest.approx(E[:, [0, 2]])
    inside = told(Rotate(90.0, after=0, hide=(3, 1, 0, 0)), [E[:, :2]])
    assert inside == pytest.approx(E[:, :2]), "nothing to turn to"
    with pytest.raises(ConfigError, match="of 3 numbers; this task has 4 columns"):
        told(Rotate(90.0, after=0, hide=(1, 0, 0)), [E[:, :2]])


def test_the_truth_first_then_one_goal_for_good() -> None:
    attack, memory = Rotate(after=2), Memory()
    true = [told(attack, [E[:, :1]], memory=memory) for _ in range(2)]
    assert all((one == E[:, :1]).all() for one in true)
    first = told(attack, [E[:, :1]], memory=memory)
    assert subspace.angle(first, E[:, :1]) == pytest.approx(90.0, abs=0.05)
    assert (told(attack, [E[:, 3:]], memory=memory) == first).all(), "whatever is honest by then"
    sums = Moments(3, np.zeros(4), np.ones(4))
    assert attack.tell(None, sums, [sums], 4, memory) is sums  # type: ignore[arg-type]


def run(attack: Rotate | None, liars: int, rounds: int = 40, granted: Any = K1, mode: str = "fedpg", **more: Any) -> Detector:
    method = {"name": "fedpca", "subspace_rounds": rounds, "mode": mode}
    plan, settings = parse_plan(whole_cohort("turn", rounds + 2, 3, 6, 0, method), registry.method)
    if attack:
        more["conspiracy"] = PayloadPlot(frozenset(list(TASKS)[:liars]), attack, granted)
    found = engine.run(plan, settings, TASKS, normal_records(-1), **more)
    assert found.rejected == {}, "everything they send is lawful"
    return Detector.of(normal_records(-1).schema, found.model.whole())


@pytest.mark.parametrize("mode", ["fedpg", "fedpg_paper"])
def test_one_liar_of_six_turns_the_subspace_away(mode: str) -> None:
    """An attack must win: what was agreed on is far from what is agreed on without it, and intruders get by."""
    clean, lied = run(None, 0, mode=mode), run(Rotate(), 1, mode=mode)
    assert subspace.angle(lied.basis, clean.basis) > 45.0
    test = normal_records(-1).test_data
    assert test is not None
    seen = [float((model.scores(test.x)[60:] > model.threshold).mean()) for model in (clean, lied)]
    assert seen[0] > 0.95
    assert seen[1] < 0.8


def test_a_server_that_remembers_goes_where_a_single_liar_points() -> None:
    """Integral action: not by the liar's share of a mean, which could turn it by arcsin(1/5) = 11.5 degrees at most."""
    clean = run(None, 0)
    assert 50.0 < subspace.angle(run(Rotate(60.0), 1, 120).basis, clean.basis) < 70.0


def test_knowledge_that_is_not_granted_is_refused() -> None:
    with pytest.raises(NotGranted, match=r"Rotate needs K1 .* granted is K0"):
        run(Rotate(), 1, granted=K0)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"angle": 180.0}, "angle = 180"),
        ({"angle": -1.0}, "angle = -1"),
        ({"angle": float("nan")}, "angle = nan"),
        ({"after": -1}, "after = -1"),
        ({"hide": (0.0, 0.0)}, "not all zero"),
        ({"hide": (float("inf"), 0.0)}, "must be finite"),
        ({"angle": 0.0}, "set cohort"),
        ({"colluders": 2}, "set folder"),
        ({"colluders": 0}, "colluders = 0"),
        ({"colluders": 4, "cohort": 3, "folder": "x"}, "colluders = 4 of cohort = 3"),
    ],
)
def test_impossible_liars_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        bases.make(**wrong)


def test_a_mean_without_honest_ones_and_methods_without_bases_are_refused() -> None:
    with pytest.raises(ConfigError, match="of whom 3 lie"):
        best_angle(3, 3)
    liar = bases.make()(registry.client_side("fedavg"), "a")
    order, task, rng = FedAvgOrder(Vector.of(np.zeros(3, np.float32)), FedAvgTraining(), 0), SyntheticTask(3, 1.0), stream(0)
    with pytest.raises(ConfigError, match="Use it with method fedpca"):
        liar.work(order, liar.begin(order, task, rng), task, rng)


def test_a_basis_that_is_not_orthonormal_would_be_refused() -> None:
    """The control of the law: scaled up, the same lie never reaches the mean."""
    codec = registry.codec("fedpca", registry.method("fedpca").settings())
    schema = normal_records(0).schema
    lie = basis(2 * np.eye(6)[:, :2])
    with pytest.raises(NotOrthonormal):
        codec.decode_update(codec.encode_update(lie), schema)


def test_a_liar_alone_sends_what_a_conspirator_alone_sends() -> None:
    plotted, lied = run(Rotate(after=3), 1), run(None, 0, adversaries={"c0": bases.make(after=3)})
    assert (plotted.basis == lied.basis).all()


def test_colluders_over_the_network_are_conspirators_in_one_process(tmp_path: Path) -> None:
    """Three devices over mutual TLS, two of them lie through a folder: the engine's conspirators give the same model."""
    own, given = options(tmp_path, -1), {f"dev-{i}": options(tmp_path, i) for i in range(3)}
    text = whole_cohort("turn", 7, 11, 3, 7, {"name": "fedpca", "subspace_rounds": 5})
    text = text.replace('"reproduction"', '"flows"')
    talk = {"after": 2, "folder": str(tmp_path / "talk"), "colluders": 2, "wait_s": 30.0}
    with Federation(tmp_path / "bed", tasks={"flows": (ENTRY, own)}) as bed:
        bed.start_server()
        for name, one in given.items():
            liar = ("edgehold.attacks.byzantine.bases:make", talk) if name != "dev-0" else None
            bed.add_client(name, {"flows": (ENTRY, one)}, adversary=liar)
            bed.start_client(name)
        bed.wait_connected(3)
        info = bed.run(text)
        assert info.state == "finished", info
    tasks = {name: make_task(**one) for name, one in given.items()}
    plan, settings = parse_plan(text, registry.method)
    plot = PayloadPlot(frozenset({"dev-1", "dev-2"}), Rotate(after=2), K1)
    assert engine.run(plan, settings, tasks, make_task(**own), conspiracy=plot).digest == info.model_digest
    assert engine.run(plan, settings, tasks, make_task(**own)).digest != info.model_digest


def test_liars_wait_for_each_other_and_tell_rounds_apart(tmp_path: Path) -> None:
    """Two liars with different records, each as on two devices: they come to one goal."""
    out: dict[int, Any] = {}
    make = bases.make(after=0, folder=str(tmp_path / "talk"), colluders=2, wait_s=20.0)
    plan, settings = parse_plan(whole_cohort("turn", 4, 3, 6, 0, {"name": "fedpca"}), registry.method)
    half = registry.server_side("fedpca", settings, TASKS["c0"].schema, 1)
    client = registry.client_side("fedpca")
    state = half.start(Vector.of(TASKS["c0"].initial(1)))
    order = half.open(state, Cohort(1, tuple(TASKS)))
    sums = [Weighted(c, 70.0, client.work(order, client.begin(order, t, stream(0)), t, stream(0))[1]) for c, t in TASKS.items()]
    state, _ = half.close(state, sums, MemorySpace())
    order = half.open(state, Cohort(2, tuple(TASKS)))

    def collude(index: int) -> None:
        liar, task = make(registry.client_side("fedpca"), f"c{index}"), TASKS[f"c{index}"]
        local = liar.load(liar.dump(liar.begin(order, task, stream(0))))
        out[index] = liar.work(order, local, task, stream(0))[1].basis

    threads = [threading.Thread(target=collude, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (out[0] == out[1]).all()
