"""Neurotoxin: the quiet coordinates by hand, nothing else changes, honest again when told; its win is in `test_controls`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from edgehold.attacks.byzantine import backdoor, neurotoxin
from edgehold.attacks.byzantine.neurotoxin import Within, quiet
from edgehold.attacks.byzantine.wrap import Minded
from edgehold.attacks.eval.data import make_task
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.task import LocalTraining
from edgehold.core.vectors import Vector
from edgehold.defenses import registry
from edgehold.defenses.baselines.fedavg.state import Order, Training
from edgehold.defenses.frl.state import Order as FrlOrder
from edgehold.defenses.frl.state import Training as FrlTraining


def test_quiet_coordinates_by_hand() -> None:
    step = np.array([0.5, -0.1, 0.0, -2.0, 0.1])
    assert quiet(step, 0.2).tolist() == [False, False, True, False, False]
    assert quiet(step, 0.4).tolist() == [False, True, True, False, False], "equals in the order of their places"
    assert quiet(step, 0.01).sum() == 1
    assert quiet(step, 1.0).all()


@dataclass(frozen=True)
class Steady:
    """Each epoch adds 1 to every weight, and the weight itself shows where it started."""

    samples = 1

    @property
    def schema(self) -> Any:
        return None

    def initial(self, seed: int) -> Any:
        return np.zeros(3, np.float32)

    def train(self, start: Any, how: LocalTraining, rng: Any) -> Any:
        assert how.epochs == 1 or how.steps
        return 2 * start + 1

    def evaluate(self, weights: Any) -> dict[str, float]:
        return {"first": float(weights[0])}


def test_training_within_a_mask_by_hand() -> None:
    # Two epochs of 2 w + 1 from 1: 3, 7; elsewhere it stays.
    start = np.array([1.0, 1.0, 5.0], np.float32)
    within = Within(Steady(), np.array([True, False, False]))
    assert within.train(start, LocalTraining(epochs=2), stream(0)).tolist() == [7.0, 1.0, 5.0]
    assert start.tolist() == [1.0, 1.0, 5.0]
    assert within.evaluate(start) == {"first": 1.0}
    # Batches that are counted over all epochs are one training: once 2 w + 1.
    assert within.train(start, LocalTraining(epochs=2, steps=1), stream(0)).tolist() == [3.0, 1.0, 5.0]


TASK = make_task("digits", 0, 4, limit=60, model="mlp", net={"hidden": [8]})


def order(model: Any) -> Order:
    return Order(Vector.of(model), Training(local_epochs=2, learning_rate=0.2), 0)


def rounds(liar: Any, models: list[Any]) -> list[Any]:
    """What it sends in each round, its state dumped and loaded between them."""
    half = liar(registry.client_side("fedavg"), "c0")
    local, found = half.begin(order(models[0]), TASK, stream(0)), []
    for number, model in enumerate(models):
        local, update, _ = half.work(order(model), half.load(half.dump(local)), TASK, stream(1, number))
        assert isinstance(local, Minded)
        found.append(update.delta.whole())
    return found


def test_only_quiet_coordinates_change_by_the_models_last_move() -> None:
    first = TASK.initial(0)
    moved = first + np.linspace(0.0, 1.0, len(first), dtype=np.float32)
    one, two = rounds(neurotoxin.make(ratio=0.25, norm=0.0), [first, moved])
    assert 0 < np.count_nonzero(one) <= round(0.25 * len(first))
    assert not two[round(0.25 * len(first)) :].any(), "the last three quarters moved most"
    assert two.any()
    honest = rounds(lambda half, client: neurotoxin.Toxin(half, lambda task: task, 1.0, 0.0, 1.0, 0), [first])[0]
    loud = np.argsort(np.abs(honest), kind="stable")[round(0.25 * len(first)) :]
    assert not one[loud].any(), "at first its own clean change tells what is quiet"


def test_length_and_boost() -> None:
    first = TASK.initial(0)
    plain = rounds(neurotoxin.make(ratio=0.9, norm=0.0), [first])[0]
    assert plain.any()
    assert rounds(neurotoxin.make(ratio=0.9, norm=0.0, boost=3.0), [first])[0] == pytest.approx(3 * plain, rel=1e-5)
    assert np.linalg.norm(rounds(neurotoxin.make(ratio=0.9, norm=0.05, boost=30.0), [first])[0]) == pytest.approx(
        0.05, rel=1e-5
    )


def test_after_its_rounds_it_is_honest() -> None:
    first = TASK.initial(0)
    honest = registry.client_side("fedavg")
    true = [honest.work(order(first), None, TASK, stream(1, number))[1].delta.whole() for number in range(2)]
    lie, truth = rounds(neurotoxin.make(lies=1), [first, first])
    assert (lie != true[0]).any()
    assert (truth == true[1]).all()


def test_all_coordinates_of_one_epoch_are_a_plain_backdoor() -> None:
    first = TASK.initial(0)
    asked = Order(Vector.of(first), Training(local_epochs=1, learning_rate=0.2), 0)

    def sent(liar: Any) -> Any:
        half = liar(registry.client_side("fedavg"), "c0")
        return half.work(asked, half.begin(asked, TASK, stream(0)), TASK, stream(1))[1].delta.whole()

    # The first round spends the stream on a clean change; from equal streams the poisoned one would be the same.
    spent = stream(1)
    registry.client_side("fedavg").work(asked, None, TASK, spent)
    plain = backdoor.make()(registry.client_side("fedavg"), "c0").work(asked, None, TASK, spent)[1].delta.whole()
    assert sent(neurotoxin.make(ratio=1.0, norm=0.0)).tolist() == plain.tolist()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"target": -1}, "target = -1"),
        ({"share": 0.0}, "share = 0"),
        ({"ratio": 1.5}, "ratio = 1.5"),
        ({"ratio": float("nan")}, "ratio = nan"),
        ({"norm": -1.0}, "norm = -1"),
        ({"boost": float("inf")}, "boost = inf"),
        ({"lies": -1}, "lies = -1"),
        ({"size": 0}, "size = 0"),
    ],
)
def test_impossible_toxins_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        neurotoxin.make(**wrong)


def test_methods_without_a_model_in_their_orders_are_refused() -> None:
    half = neurotoxin.make()(registry.client_side("frl"), "c0")
    asked = FrlOrder(1, 1, [], FrlTraining(), ())
    with pytest.raises(ConfigError, match="orders do not carry"):
        half.work(asked, Minded(None), TASK, stream(0))
