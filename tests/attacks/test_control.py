"""Edge control and the targeted attack on rankings: by hand, the device's own view of the network, and that they can win."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehold.attacks.byzantine import backdoor, control
from edgehold.attacks.byzantine.control import REFERENCE, SHARE, Controller, accuracy, aimed, common, network
from edgehold.attacks.byzantine.trigger import Trigger, success
from edgehold.attacks.byzantine.wrap import Minded
from edgehold.attacks.eval.data import make_task
from edgehold.attacks.eval.plans import whole_cohort
from edgehold.client.data.synthetic import SyntheticTask
from edgehold.core.contract import Cohort
from edgehold.core.errors import ConfigError
from edgehold.core.plan import parse_plan
from edgehold.core.rng import stream
from edgehold.core.vectors import MemorySpace, Vector
from edgehold.defenses import registry
from edgehold.defenses.baselines.fedavg.state import Order as FedAvgOrder
from edgehold.defenses.baselines.fedavg.state import Training as FedAvgTraining
from edgehold.server import engine

NET: dict[str, Any] = {"hidden": [24], "bias": False}
WIDE: dict[str, Any] = {"hidden": [64], "bias": False}


def ranking(*edges: int) -> Any:
    return np.array(edges, np.int32)


def test_aims_by_hand() -> None:
    agreed, reference = ranking(5, 4, 3, 2, 1, 0), ranking(0, 1, 2, 3, 4, 5)
    assert aimed(agreed, reference, 0.0).tolist() == agreed.tolist()
    # One pair: 5, the most important of the reference, to the bottom; 0, the least important, to the top.
    assert aimed(agreed, reference, 1 / 3).tolist() == [5, 4, 3, 2, 1, 0]
    assert aimed(reference, reference, 1 / 3).tolist() == [5, 1, 2, 3, 4, 0]
    assert aimed(reference, reference, 2 / 3).tolist() == [5, 4, 2, 3, 1, 0]
    assert aimed(agreed, ranking(2, 0, 1, 3, 5, 4), 1 / 3).tolist() == [4, 5, 3, 1, 0, 2]
    assert aimed(reference, reference, 1.0).tolist() == [5, 4, 3, 2, 1, 0]
    odd = ranking(0, 1, 2, 3, 4)
    assert aimed(odd, odd, 1.0).tolist() == [4, 3, 2, 1, 0]
    assert aimed(ranking(0), ranking(0), 1.0).tolist() == [0]


def test_what_colluders_agree_on_by_hand() -> None:
    # Ranks 0 1 2 and 2 0 1: sums 2, 1, 3.
    assert common([ranking(0, 1, 2), ranking(2, 0, 1)]).tolist() == [1, 0, 2]


def small(index: int, net: Any = NET, limit: int = 60) -> Any:
    return make_task("digits", index, 5, limit=limit, model="mlp", net=net, partition="iid")


@pytest.mark.parametrize("signed", [False, True])
def test_a_liar_sees_the_network_that_the_server_has(signed: bool) -> None:
    plan, settings = parse_plan(whole_cohort("n", 1, 3, 2, 0, {"name": "frl", "signed": signed}), registry.method)
    task = small(0)
    server = registry.server_side("frl", settings, task.schema, 7)
    state = server.start(Vector.of(task.initial(0)))
    found = network(server.open(state, Cohort(1, ("a", "b"))), task)
    assert found.tolist() == server.weights(state, MemorySpace()).whole().tolist()


def worked(wanted: float, share: float = 0.5) -> tuple[float, Any, Any]:
    """(accuracy on own records, share after the round, what it sent) of a liar that is past its honest rounds."""
    task = small(0)
    plan, settings = parse_plan(whole_cohort("n", 1, 3, 2, 0, {"name": "frl"}), registry.method)
    server = registry.server_side("frl", settings, task.schema, 7)
    order = server.open(server.start(Vector.of(task.initial(0))), Cohort(1, ("a", "b")))
    liar = Controller(registry.client_side("frl"), "a", wanted, 1.0, 0, None)
    local = liar.begin(order, task, stream(0))
    local.memory[SHARE] = np.array([share])
    local, update, _ = liar.work(order, liar.load(liar.dump(local)), task, stream(0))
    assert local.memory[REFERENCE].shape == (task.schema.size,)
    return accuracy(task, network(order, task)), float(local.memory[SHARE][0]), update


def test_the_share_follows_what_is_measured() -> None:
    seen, after, update = worked(0.0)
    assert after == pytest.approx(min(1.0, 0.5 + seen)), "better than wanted: aim at more edges"
    for ranks in update.ranks:
        assert sorted(ranks.tolist()) == list(range(len(ranks)))
    seen, after, _ = worked(1.0)
    assert seen < 1.0
    assert after == pytest.approx(max(0.0, 0.5 + seen - 1.0)), "worse than wanted: at fewer"


def run(rounds: int, liars: int, lie: Any) -> Any:
    plan, settings = parse_plan(whole_cohort("c", rounds, 1, 5, 1, {"name": "frl"}), registry.method)
    tasks = {f"c{i}": small(i, WIDE) for i in range(5)}
    adversaries = dict.fromkeys(list(tasks)[:liars], lie) if liars else {}
    return engine.run(plan, settings, tasks, small(-1, WIDE, 1000), adversaries, workers=1)


def test_a_majority_holds_the_model_below_what_it_could_be(tmp_path: Path) -> None:
    """An attack must be able to win: three of five votes."""
    clean = [facts["accuracy"] for facts in run(14, 0, None).rounds]
    lie = control.make(0.5, after=2, folder=str(tmp_path / "talk"), colluders=3, wait_s=0.0)
    lied = [facts["accuracy"] for facts in run(14, 3, lie).rounds]
    assert np.mean(clean[-5:]) > 0.75
    assert 0.35 < np.mean(lied[-5:]) < np.mean(clean[-5:]) - 0.1, "held down, not ruined"


def test_honest_where_the_model_is_worse_than_wanted() -> None:
    """Nothing to gain: the votes stay what they would be, the first `after` rounds and later."""
    assert run(2, 1, control.make(1.0, after=2)).digest == run(2, 0, None).digest


def test_a_backdoor_in_what_a_ranking_is_learned_from_wins() -> None:
    """Targeted attack on rankings, three of five: one vote each is no defence against a majority."""
    own, trigger = small(-1, WIDE, 1000), Trigger()
    clean, lied = (success(own, run(8, n, backdoor.make(0, share=0.5)).model.whole(), trigger, 0) for n in (0, 3))
    assert lied > clean + 0.3


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"wanted": 1.5}, "wanted = 1.5"),
        ({"wanted": float("nan")}, "wanted = nan"),
        ({"gain": 0.0}, "gain = 0"),
        ({"after": -1}, "after = -1"),
        ({"colluders": 0}, "colluders = 0"),
        ({"colluders": 2}, "set folder"),
    ],
)
def test_impossible_controllers_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        control.make(**wrong)


def test_methods_without_rankings_and_tasks_without_records_are_refused() -> None:
    liar, order = (
        control.make()(registry.client_side("fedavg"), "a"),
        FedAvgOrder(Vector.of(np.zeros(3, np.float32)), FedAvgTraining(), 0),
    )
    with pytest.raises(ConfigError, match="Use it with method frl"):
        liar.work(order, Minded(None), SyntheticTask(3, 1.0), stream(0))
    with pytest.raises(ConfigError, match="SyntheticTask shows none"):
        accuracy(SyntheticTask(3, 1.0), np.zeros(3, np.float32))
