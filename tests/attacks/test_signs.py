"""Lies in sign bits: by hand, through the protocol; and that they do what they are for."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehold.attacks.byzantine import signs
from edgehold.attacks.eval.conspiracies import Signs
from edgehold.attacks.eval.data import make_task
from edgehold.core.errors import ConfigError
from edgehold.core.plan import parse_plan
from edgehold.core.rng import stream
from edgehold.core.vectors import Vector
from edgehold.defenses import registry
from edgehold.defenses.baselines.fedavg.state import Order as FedAvgOrder
from edgehold.defenses.baselines.fedavg.state import Training as FedAvgTraining
from edgehold.defenses.hidenseek.state import Order, Training
from edgehold.server import engine

MASK = np.ones(64 * 9 + 90, bool)
ORDER = Order(1, 1, MASK, 0, np.zeros(0, np.uint16), Training(local_epochs=1, start_size=0.02))


def task(index: int) -> Any:
    return make_task("digits", index, 5, limit=40, model="mlp", net={"hidden": [9], "bias": False})


def bits(*values: int) -> Any:
    return np.array(values, bool)


def sent(adversary: Any, client: str, index: int) -> Any:
    half = adversary(registry.client_side("hidenseek"), client)
    _, update, _ = half.work(ORDER, None, task(index), stream(1, index))
    return signs.bits_of(update, len(MASK))


def honest(index: int) -> Any:
    _, update, _ = registry.client_side("hidenseek").work(ORDER, None, task(index), stream(1, index))
    return signs.bits_of(update, len(MASK))


def test_lies_by_hand() -> None:
    own, others = bits(1, 0, 1, 0), [bits(1, 1, 0, 0), bits(1, 1, 1, 0)]
    assert signs.invert(own, [own]).tolist() == [False, True, False, True]
    # Votes of three: 3, 2, 2, 0.
    assert signs.invert_majority(own, [own, *others]).tolist() == [False, False, False, True]
    # Of two: 2, 1, 1, 0; an even vote counts as the weight's own sign.
    assert signs.invert_majority(own, [own, others[0]]).tolist() == [False, False, False, True]
    update = signs.forged(bits(1, 0, 0, 0, 0, 0, 0, 0, 1))
    assert update.bits.whole().tolist() == [1, 1]
    assert signs.bits_of(update, 9).tolist() == [True] + [False] * 7 + [True]


def test_a_liar_alone_turns_its_own_bits() -> None:
    assert (sent(signs.make("invert"), "c0", 0) == ~honest(0)).all()
    assert (sent(signs.make("invert_majority"), "c0", 0) == ~honest(0)).all()


def test_colluders_send_one_lie(tmp_path: Path) -> None:
    adversary, found = signs.make("invert_majority", str(tmp_path / "talk"), 3, wait_s=30.0), {}

    def work(index: int) -> None:
        found[index] = sent(adversary, f"c{index}", index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    want = signs.invert_majority(honest(0), [honest(i) for i in range(3)])
    assert all((found[index] == want).all() for index in range(3))
    assert (want != ~honest(0)).any(), "control: they did not agree on everything"


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"lie": "invertt"}, 'did you mean "invert"'),
        ({"colluders": 0}, "colluders = 0"),
        ({"lie": "invert_majority", "colluders": 2}, "need a folder"),
    ],
)
def test_impossible_liars_are_refused(how: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        signs.make(**how)


def test_other_methods_have_no_signs() -> None:
    half = signs.make("invert")(registry.client_side("fedavg"), "c0")
    order = FedAvgOrder(Vector.of(np.zeros(len(MASK), np.float32)), FedAvgTraining(), 1)
    rng = stream(0)
    local = half.begin(order, task(0), rng)
    with pytest.raises(ConfigError, match="Use it with method hidenseek"):
        half.work(order, local, task(0), rng)


def accuracy(liars: int, lie: str) -> float:
    plan, settings = parse_plan(
        '[run]\nname = "h"\nrounds = 6\ntask = "t"\nseed = 1\n[cohort]\nsize = 5\nquorum = 5\nover_select = 1.0\n'
        '[evaluation]\nevery = 6\n[method]\nname = "hidenseek"\n',
        registry.method,
    )
    fleet = engine.VirtualFleet(
        "edgehold.attacks.eval.data:make_task",
        {"dataset": "digits", "model": "mlp", "net": {"hidden": [64], "bias": False}, "partition": "iid"},
        5,
    )
    conspiracy = Signs(frozenset(list(fleet)[:liars]), lie) if liars else None
    return float(engine.run(plan, settings, fleet, fleet.own_copy(), conspiracy=conspiracy).rounds[-1]["accuracy"])


def test_a_majority_of_liars_ruins_the_model() -> None:
    """An attack must be able to win: three of five turn every vote around."""
    assert accuracy(0, "") > 0.8
    assert accuracy(3, "invert_majority") < 0.4
