"""Drift in a consensus, against noise-robust ADMM: by hand, lawful, on both seams, over TLS; and that it wins."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support import three_devices

from edgehold.attacks.byzantine import drift
from edgehold.attacks.byzantine.drift import Drift, directed
from edgehold.attacks.byzantine.knowledge import K0
from edgehold.attacks.byzantine.wrap import Memory
from edgehold.attacks.eval.conspiracies import PayloadPlot
from edgehold.attacks.eval.plans import whole_cohort
from edgehold.attacks.testbed import Federation
from edgehold.client.data.linear import synthetic, zeros
from edgehold.client.data.synthetic import SyntheticTask
from edgehold.core.errors import ConfigError
from edgehold.core.plan import parse_plan
from edgehold.core.rng import stream
from edgehold.core.tables import Records, TableTask
from edgehold.core.vectors import Schema, Tensor, Vector
from edgehold.defenses import registry
from edgehold.defenses.baselines.fedavg.state import Order as FedAvgOrder
from edgehold.defenses.baselines.fedavg.state import Training as FedAvgTraining
from edgehold.defenses.noise_robust_admm.state import Order, Training, Update
from edgehold.server import engine

ENTRY = "edgehold.client.data.linear:synthetic"


def order(number: int = 1, p: Any = (0.0, 0.0), **how: Any) -> Order:
    return Order(1, number, Training(**{"noise_up": 0.5, **how}), Vector.of(np.array(p, np.float32)))


def sent(attack: Drift, memory: Memory, of: Order, u: Any = (0.0, 0.0)) -> list[float]:
    own = Update(Vector.of(np.array(u, np.float32)))
    found: Any = attack.tell(of, own, [own], 4, memory)
    return [float(value) for value in found.u.whole()]


def test_a_direction_by_hand() -> None:
    assert directed(np.array([3.0, 4.0])) == pytest.approx(np.sqrt(2) * np.array([0.6, 0.8]))


def test_a_lie_stays_the_same_where_means_add_it_up_and_grows_where_they_forgive() -> None:
    for form in ("rerce", "continual", "dual"):
        memory = Memory()
        lies = [sent(Drift(2.0), memory, order(number, form=form)) for number in (1, 2, 3)]
        assert lies[0] == lies[1] == lies[2]
        assert np.mean(np.square(lies[0])) == pytest.approx(1.0), "twice a noise of 0.5"
    memory = Memory()
    lies = [sent(Drift(2.0), memory, order(number), (5.0, 6.0)) for number in (1, 2, 3)]
    first = np.array(lies[0]) - (5, 6)
    assert np.mean(np.square(first)) == pytest.approx(1.0)
    assert np.array(lies[2]) == pytest.approx(3 * first + (5, 6), rel=1e-6)


def test_every_so_often_it_turns_to_where_the_consensus_went() -> None:
    # From (1, 1) to (1, 3): the second number alone.
    memory, attack = Memory(), Drift(step=0.1, every=2)
    for number in (1, 2):
        sent(attack, memory, order(number, (1.0, 1.0), form="rerce"))
    assert sent(attack, memory, order(3, (1.0, 3.0), form="rerce")) == pytest.approx([0.0, 0.1 * np.sqrt(2)])
    still = sent(attack, memory, order(4, (9.0, 9.0), form="rerce"))
    assert still == pytest.approx([0.0, 0.1 * np.sqrt(2)])
    memory, kept = Memory(), Drift(step=0.1, every=0)
    lies = [sent(kept, memory, order(number, (number, 0.0), form="rerce")) for number in range(1, 9)]
    assert lies == [lies[0]] * 8


def test_looking_at_the_consensus_finds_where_the_data_say_least() -> None:
    """Power iteration with (sum A)^-1 of eigenvalues 1 and 1/9: after a few looks the lie lies along the first."""
    memory, attack, p = Memory(), Drift(step=0.1, every=1), np.zeros(2)
    for number in range(1, 12):
        lie = np.array(sent(attack, memory, order(number, p, form="rerce")))
        p = p + lie * (1, 1 / 9)
    assert abs(lie[0]) > 100 * abs(lie[1])


def test_its_length_has_a_limit_where_one_is_set() -> None:
    memory, attack = Memory(), Drift(step=1.0, reach=2.0, every=0)
    lengths = [float(np.linalg.norm(sent(attack, memory, order(number)))) for number in (1, 2, 3)]
    assert lengths == pytest.approx([np.sqrt(2), 2.0, 2.0])


def test_numbers_stay_what_the_wire_carries() -> None:
    own = Update(Vector.of(np.full(3, 65504, np.float16)))
    found = Drift(step=100.0).tell(order(p=(0, 0, 0), wire="float16"), own, [own], 4, {})
    assert found.u.dtype == "<f2"
    assert np.isfinite(found.u.whole()).all(), "an infinite number would be refused"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"strength": -1.0}, "strength = -1"),
        ({"strength": float("nan")}, "strength = nan"),
        ({"step": float("inf")}, "step = inf"),
        ({"reach": -0.5}, "reach = -0.5"),
        ({"every": -1}, "every = -1"),
        ({"strength": 0.0}, "nothing would be added"),
    ],
)
def test_impossible_drifts_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        drift.make(**wrong)


def test_links_without_noise_and_other_methods_are_refused() -> None:
    with pytest.raises(ConfigError, match="free of noise to hide in"):
        sent(Drift(), {}, order(noise_up=0.0))
    liar = drift.make()(registry.client_side("fedavg"), "a")
    asked, task, rng = FedAvgOrder(Vector.of(np.zeros(3, np.float32)), FedAvgTraining(), 0), SyntheticTask(3, 1.0), stream(0)
    with pytest.raises(ConfigError, match="Use it with method noise_robust_admm"):
        liar.work(asked, liar.begin(asked, task, rng), task, rng)


# Through the engine.


def scalar(y: float) -> TableTask:
    """f(x) = (x - y)^2 / 2."""
    schema = Schema((Tensor("x", (1,)),))
    return TableTask(schema, Records(np.ones((1, 1)), np.array([y])), None, lambda seed: zeros(1, seed), lambda w, r: {})


def solution(form: str, rounds: int, attack: Drift | None) -> float:
    """Of two devices that want 1 and 3; the first one lies."""
    how = {"name": "noise_robust_admm", "form": form, "rho": 1.0, "wire": "float64"}
    plan, settings = parse_plan(whole_cohort("two", rounds, 1, 2, 0, how), registry.method)
    plot = PayloadPlot(frozenset({"a"}), attack, K0) if attack else None
    return float(engine.run(plan, settings, {"a": scalar(1.0), "b": scalar(3.0)}, conspiracy=plot).model.whole()[0])


@pytest.mark.parametrize("form", ["anchored", "rerce", "continual", "dual"])
def test_the_drift_by_hand(form: str) -> None:
    """rho f b / sum A = 1 x 1 x 0.1 / 2 = 0.05 a round; without liars it stays at 2."""
    assert solution(form, 60, None) == pytest.approx(2.0, abs=1e-6)
    attack = Drift(step=0.1)
    early, late = solution(form, 60, attack), solution(form, 100, attack)
    assert abs(late - early) == pytest.approx(40 * 0.05, abs=1e-4)


def test_a_lie_that_stays_the_same_is_forgiven_by_the_anchored_form() -> None:
    """Why it has to grow there: with a limit on its length the consensus stops at rho b / sum A = 0.05 from the solution."""
    attack = Drift(step=0.1, reach=0.1)
    assert abs(solution("anchored", 60, attack) - 2.0) == pytest.approx(0.05, abs=1e-5)
    assert abs(solution("anchored", 100, attack) - 2.0) == pytest.approx(0.05, abs=1e-5)


def options(index: int) -> dict[str, Any]:
    return {"device_index": index, "devices": 10, "length": 12}


def far(form: str, liars: int, rounds: int = 80) -> tuple[float, engine.Result]:
    """dB of the consensus's squared distance from x*."""
    tasks = {f"c{i}": synthetic(**options(i)) for i in range(10)}
    how = {"name": "noise_robust_admm", "form": form, "rho": 5e4, "noise_up": 0.01, "noise_down": 0.01}
    plan, settings = parse_plan(whole_cohort("far", rounds, 1, 10, 0, how), registry.method)
    plot = PayloadPlot(frozenset(list(tasks)[:liars]), Drift(3.0), K0) if liars else None
    found = engine.run(plan, settings, tasks, conspiracy=plot)
    own = synthetic(**options(-1)).test_data
    assert own is not None
    true = own.x[0]
    return float(10 * np.log10(np.square(found.model.whole() - true).sum() / np.square(true).sum())), found


@pytest.mark.parametrize("form", ["anchored", "rerce", "continual", "dual"])
def test_two_liars_of_ten_drag_the_consensus_off(form: str) -> None:
    """An attack must win, and nothing that is sent is refused."""
    clean, lied = far(form, 0), far(form, 2)
    assert lied[1].rejected == {}
    assert lied[0] > clean[0] + 6.0


def test_a_liar_alone_sends_what_a_conspirator_alone_sends() -> None:
    tasks = {f"c{i}": synthetic(**options(i)) for i in range(3)}
    how = {"name": "noise_robust_admm", "rho": 5e4, "noise_up": 0.01}
    plan, settings = parse_plan(whole_cohort("one", 6, 1, 3, 0, how), registry.method)
    plotted = engine.run(plan, settings, tasks, conspiracy=PayloadPlot(frozenset({"c1"}), Drift(every=2), K0))
    assert engine.run(plan, settings, tasks, adversaries={"c1": drift.make(every=2)}).digest == plotted.digest
    assert engine.run(plan, settings, tasks).digest != plotted.digest


def test_liars_over_the_network_are_conspirators_in_one_process(tmp_path: Path) -> None:
    given = {f"dev-{i}": {"device_index": i, "devices": 3, "length": 12} for i in range(3)}
    own = {"device_index": -1, "devices": 3, "length": 12}
    method = 'name = "noise_robust_admm"\nrho = 50.0\nnoise_up = 0.01\nnoise_down = 0.01'
    text = three_devices.plan("drift", method).replace('"digits"', '"linear"').replace("rounds = 2", "rounds = 5")
    with Federation(tmp_path / "bed", tasks={"linear": (ENTRY, own)}) as bed:
        bed.start_server()
        for name, one in given.items():
            liar = ("edgehold.attacks.byzantine.drift:make", {"every": 2}) if name != "dev-0" else None
            bed.add_client(name, {"linear": (ENTRY, one)}, adversary=liar)
            bed.start_client(name)
        bed.wait_connected(3)
        info = bed.run(text)
        assert info.state == "finished", info
    tasks = {name: synthetic(**one) for name, one in given.items()}
    plan, settings = parse_plan(text, registry.method)
    plot = PayloadPlot(frozenset({"dev-1", "dev-2"}), Drift(every=2), K0)
    assert engine.run(plan, settings, tasks, synthetic(**own), conspiracy=plot).digest == info.model_digest
    assert engine.run(plan, settings, tasks, synthetic(**own)).digest != info.model_digest
