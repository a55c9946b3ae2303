"""Attacks on what a device learns from: labels, triggers, boosts; worked by hand on tiny records."""

from typing import Any

import numpy as np
import pytest

from edgehold.attacks.byzantine import backdoor, label_flip
from edgehold.attacks.byzantine.bent import bent
from edgehold.attacks.byzantine.trigger import Trigger, pictures, success
from edgehold.attacks.eval.data import make_task
from edgehold.client.data.synthetic import SyntheticTask
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.tables import Records, TableTask
from edgehold.core.task import LocalTraining
from edgehold.core.vectors import Schema, Tensor, Vector
from edgehold.defenses import registry
from edgehold.defenses.baselines.fedavg.state import Order, Training

Y = np.array([0, 1, 2, 3, 7, 7, 9])


def flip(how: Any, share: float = 1.0, y: Any = Y, classes: int = 10) -> list[int]:
    return label_flip.flipped(y, how, classes, 7, 1, share, stream(0)).tolist()  # type: ignore[no-any-return]


def test_flips_by_hand() -> None:
    assert flip("reverse") == [9, 8, 7, 6, 2, 2, 0]
    assert flip("pair") == [0, 1, 2, 3, 1, 1, 9]
    assert sorted(flip("pair", 0.5))[-3:] == [3, 7, 9]  # one of the two sevens
    found = flip("random")
    assert all(0 <= new < 10 and new != old for new, old in zip(found, Y, strict=True))
    assert sum(new != old for new, old in zip(flip("reverse", 3 / 7), Y, strict=True)) == 3
    assert Y.tolist() == [0, 1, 2, 3, 7, 7, 9]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"how": "revers"}, 'did you mean "reverse"'),
        ({"classes": 1}, "classes = 1"),
        ({"how": "pair", "source": 3, "target": 3}, "two different classes"),
        ({"share": 0.0}, "share = 0"),
        ({"share": 1.5}, "share = 1.5"),
    ],
)
def test_impossible_flips_are_refused(how: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        label_flip.make(**how)


def test_labels_that_are_no_classes_are_refused() -> None:
    for y, says in ((np.array([0.5]), "no classes"), (np.array([12]), "set classes")):
        with pytest.raises(ConfigError, match=says):
            flip("reverse", y=y)


def test_a_patch_and_bars_by_hand() -> None:
    image = np.zeros((1, 4, 4), np.float32)
    marked = Trigger(2, 1.0).stamp(image)[0]
    assert marked.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert image.sum() == 0
    flat = Trigger(2, 1.0).stamp(image.reshape(1, 16))
    assert flat.reshape(4, 4).tolist() == marked.tolist()
    wide = np.zeros((1, 4, 5), np.float32)
    bars = Trigger(2, 1.0, bars=True)
    assert bars.stamp(wide)[0].tolist() == [[0] * 5, [1, 1, 0, 1, 1], [0] * 5, [1, 1, 0, 1, 1]]
    parts = np.sum([bars.stamp(wide, part) for part in range(4)], axis=0)
    assert parts.tolist() == bars.stamp(wide).tolist()
    assert bars.stamp(wide, 1)[0, 1].tolist() == [0, 0, 0, 1, 1]
    assert bars.stamp(wide, 5).tolist() == bars.stamp(wide, 1).tolist()
    assert Trigger(1).stamp(np.array([[[0.25, 0.0], [0.75, 0.5]]], np.float32))[0].tolist() == [[0.25, 0], [0.75, 0.75]]


def test_triggers_need_images_they_fit() -> None:
    with pytest.raises(ConfigError, match="no images"):
        pictures(np.zeros((2, 7)))
    with pytest.raises(ConfigError, match="does not fit images of 4 x 4"):
        Trigger(5).stamp(np.zeros((1, 16)))
    with pytest.raises(ConfigError, match="size = 0"):
        Trigger(0)
    with pytest.raises(ConfigError, match="shows none"):
        success(SyntheticTask(3, 1.0), np.zeros(3, np.float32), Trigger(), 0)


def test_poisoned_records() -> None:
    x, y = np.zeros((10, 16), np.float32), np.full(10, 5)
    x[0, 0] = 2.0
    marked, labels = backdoor.poisoned(x, y, Trigger(1), 3, 0.3, None, stream(0))
    some = labels == 3
    assert some.sum() == 3
    assert (marked[some, 15] == 2.0).all()
    assert (marked[~some] == x[~some]).all()
    assert y.tolist() == [5] * 10


def test_boost_and_norm_by_hand() -> None:
    delta = np.array([3.0, 4.0], np.float32)
    assert backdoor.replacing(delta, 2.0, None).tolist() == [6.0, 8.0]
    assert backdoor.replacing(delta, 2.0, 5.0).tolist() == [3.0, 4.0]
    assert backdoor.replacing(delta, 0.5, 5.0).tolist() == [1.5, 2.0]


def digits(limit: int = 60) -> Any:
    return make_task("digits", 0, 4, limit=limit, model="mlp", net={"hidden": [8]})


def worked(adversary: Any) -> Any:
    task = digits()
    order = Order(Vector.of(task.initial(0)), Training(local_epochs=3, learning_rate=0.2), 0)
    return adversary(registry.client_side("fedavg"), "c0").work(order, None, task, stream(1))[1]


def test_a_liar_trains_on_what_it_bent_and_boosts_it() -> None:
    honest = worked(lambda half, client: half)
    plain = worked(backdoor.make())
    boosted = worked(backdoor.make(boost=4.0))
    assert boosted.delta.whole() == pytest.approx(4.0 * plain.delta.whole(), rel=1e-6)
    assert (plain.delta.whole() != honest.delta.whole()).any()
    assert plain.samples == honest.samples
    assert np.linalg.norm(worked(backdoor.make(boost=4.0, norm=0.5)).delta.whole()) == pytest.approx(0.5, rel=1e-5)
    assert (worked(label_flip.make()).delta.whole() != honest.delta.whole()).any()
    close, free = worked(backdoor.make(alpha=0.1)), worked(backdoor.make())
    assert np.linalg.norm(close.delta.whole()) < 0.5 * np.linalg.norm(free.delta.whole())


def test_staying_close_is_a_smaller_rate_and_a_pull() -> None:
    # alpha 0.5: half the rate, and (1 - 0.5) / 0.5 = 1 more pull.
    task, how = digits(), LocalTraining(2, 16, 0.2, proximal=0.25)
    start = task.initial(0)
    found = backdoor.Close(task, 0.5).train(start, how, stream(3))
    assert found.tolist() == task.train(start, LocalTraining(2, 16, 0.1, proximal=1.25), stream(3)).tolist()


def test_records_of_tables_are_bent_too_and_others_refused() -> None:
    records = Records(np.zeros((3, 2)), np.array([0, 1, 2]))
    table = TableTask(Schema((Tensor("w", (2,)),)), records, None, lambda seed: np.zeros(2, np.float32), lambda w, r: {})
    found = bent(table, lambda x, y, rng: (x, 9 - y), stream(0))
    assert isinstance(found, TableTask)
    assert found.train_data is not None
    assert found.train_data.y.tolist() == [9, 8, 7]
    assert records.y.tolist() == [0, 1, 2]
    with pytest.raises(ConfigError, match="SyntheticTask shows none"):
        bent(SyntheticTask(3, 1.0), lambda x, y, rng: (x, y), stream(0))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"target": -1}, "target"),
        ({"share": 1.1}, "share"),
        ({"alpha": 0.0}, "alpha"),
        ({"boost": float("inf")}, "boost"),
        ({"norm": 0.0}, "norm"),
        ({"part": 1}, "bars = true"),
    ],
)
def test_impossible_backdoors_are_refused(how: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        backdoor.make(**how)
