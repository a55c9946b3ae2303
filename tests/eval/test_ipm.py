"""IPM as a client of the real protocol."""

import threading
from pathlib import Path

import numpy as np
import pytest

from edgehold.attacks.byzantine import ipm
from edgehold.client.data.synthetic import SyntheticTask
from edgehold.core.contract import Adversary
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.vectors import FloatArray, Vector
from edgehold.defenses import registry
from edgehold.defenses.baselines.fedavg.state import Order, Training

ORDER = Order(Vector.of(np.zeros(3, np.float32)), Training(), 0)


def sent(adversary: Adversary, step: float, client: str = "a") -> FloatArray:
    liar, task, rng = adversary(registry.client_side("fedavg"), client), SyntheticTask(3, step, samples=7), stream(0, client)
    found: FloatArray = liar.work(ORDER, liar.begin(ORDER, task, rng), task, rng)[1].delta.whole()
    return found


def test_one_liar_by_hand() -> None:
    assert sent(ipm.make(tau=2.0), 0.5).tolist() == [-1.0] * 3


def test_colluders_push_against_their_common_mean(tmp_path: Path) -> None:
    # Honest changes 1 and 3: mean 2, times -0.5.
    found: dict[str, list[float]] = {}
    make = ipm.make(str(tmp_path / "shared"), colluders=2, tau=0.5, wait_s=20.0)

    def work(client: str, step: float) -> None:
        found[client] = sent(make, step, client).tolist()

    threads = [threading.Thread(target=work, args=pair) for pair in (("a", 1.0), ("b", 3.0))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {"a": [-1.0] * 3, "b": [-1.0] * 3}


@pytest.mark.parametrize("bad", [{"tau": 0.0}, {"tau": float("inf")}, {"colluders": 0}, {"colluders": 2}])
def test_nonsense_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        ipm.make(**bad)  # type: ignore[arg-type]
