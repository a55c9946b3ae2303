"""Lies in heads: by hand, through the protocol; and that they do what they are for."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgehold.attacks.byzantine import heads
from edgehold.attacks.eval.reproductions import bristle, bristle_fleet
from edgehold.client.data import frozen
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.tables import TableTask
from edgehold.defenses import registry
from edgehold.defenses.bristle.listing import NOBODY
from edgehold.defenses.bristle.state import SKETCH, Order, Training

ORDER = Order(1, 1, {}, np.zeros((0, SKETCH), np.float32), NOBODY, Training(learning_rate=0.01, steps=60))


def task(index: int = 0) -> TableTask:
    return frozen.make_task(device_index=index, devices=3, classes_per_device=0, width=64)


def sent(half: Any, one: TableTask) -> Any:
    rng = stream(1)
    return half.work(ORDER, half.begin(ORDER, one, rng), one, rng)[1]


def test_poisons_by_hand() -> None:
    labels = np.array([0, 1, 2, 9])
    assert heads.flip_all(labels, 10).tolist() == [9, 8, 7, 0]
    assert heads.flip_two(labels, 10).tolist() == [1, 0, 2, 9]
    drawn = heads.noise((400, 10), np.random.default_rng(0))
    assert drawn.dtype == np.float32
    assert -0.5 <= drawn[:, :5].min() < -0.45 < -0.05 < drawn[:, :5].max() <= 0
    assert 0 <= drawn[:, 5:].min() < 0.05 < 0.45 < drawn[:, 5:].max() <= 0.5
    found = heads.tailored({"a": np.array([[1.0, 2, 3]]), "b": np.array([[3.0, 4, 5]])}, "a", np.array([1]))
    assert found.tolist() == [[-6, 2, -12]]
    with pytest.raises(ConfigError, match='did you mean "flip_all"'):
        heads.make("flip_al")


def test_a_liar_reads_nobody_and_flips_what_it_trains_on() -> None:
    honest, one = registry.client_side("bristle"), task()
    liar: Any = heads.make("flip_all")(honest, "c0")
    flipped = replace(one, train_data=replace(one.train_data, y=9 - one.train_data.y))  # type: ignore[type-var, union-attr]
    assert sent(liar, one).head.whole().tobytes() == sent(honest, flipped).head.whole().tobytes()
    assert sent(liar, one).seen == NOBODY, "what it says about the listing is lawful"
    assert liar.choose(ORDER, None, one, stream(1)) == ()
    scores = [one.evaluate(sent(half, one).head.whole())["accuracy"] for half in (honest, liar)]
    assert scores[0] > 0.7
    assert scores[1] < 0.1
    local = liar.begin(ORDER, one, stream(1))
    assert liar.receive(ORDER, local, {}, one, stream(1)) is local
    assert liar.load(liar.dump(local)).kept.tobytes() == local.kept.tobytes()


def test_noise_replaces_the_head_and_not_the_rest() -> None:
    one, liar = task(), heads.make("noise")(registry.client_side("bristle"), "c0")
    lie, again = sent(liar, one), sent(liar, one)
    assert lie.head.whole().tobytes() == again.head.whole().tobytes()
    assert (lie.head.whole().reshape(64, 10)[:, :5] <= 0).all()
    assert (lie.round, lie.seen) == (1, NOBODY)


@pytest.mark.slow
def test_tailored_heads_hurt_those_for_whom_they_are_made() -> None:
    """Bristle does not verify foreign columns: the limit is real."""
    base = {**bristle.BASE, "rounds": 40, "seed": 0}
    calm = bristle.play({**base, **bristle.CALM}, None)
    lied = bristle.play({**base, **bristle.BESIDE["10 tailored, each for one device"]}, None)
    assert lied["accuracy"] < calm["accuracy"] - 0.1
    colluders = bristle_fleet.Tailors({"c0010": ("c0000", (0, 1, 2, 3))})
    assert colluders.members == {"c0010"}
