"""Liars: what they send, and that an attack wins with the defence off before its defeat counts."""

import threading
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from edgehold.attacks.byzantine import alie, gaussian, sign_flip
from edgehold.client.data import digits
from edgehold.client.data.synthetic import SyntheticTask
from edgehold.core.contract import Adversary
from edgehold.core.errors import ConfigError
from edgehold.core.plan import parse_plan
from edgehold.core.rng import stream
from edgehold.core.vectors import Vector
from edgehold.defenses import registry
from edgehold.defenses.baselines.fedavg.state import Order, Training, Update
from edgehold.server.engine import Result, run

ORDER = Order(Vector.of(np.zeros(3, np.float32)), Training(), 0)


def sent(adversary: Adversary, step: float = 0.5, client: str = "a") -> Update:
    liar = adversary(registry.client_side("fedavg"), client)
    task = SyntheticTask(3, step, samples=7)
    rng = stream(0, client)
    update: Update = liar.work(ORDER, liar.begin(ORDER, task, rng), task, rng)[1]
    assert update.samples == 7
    return update


def test_sign_flip_by_hand() -> None:
    assert sent(sign_flip.make(4.0)).delta.whole().tolist() == [-2.0] * 3
    with pytest.raises(ConfigError, match="above 0"):
        sign_flip.make(-1.0)


def test_gaussian_sends_noise_of_its_size_and_not_finite_sends_none() -> None:
    noise = np.concatenate([sent(gaussian.make(10.0), client=f"c{i}").delta.whole() for i in range(400)])
    # 1200 values: the sample sd has a relative sd of 1 / sqrt(2400) = 2 %; 5 sd is 10 %.
    assert noise.std() == pytest.approx(10.0, rel=0.1)
    assert np.isnan(sent(gaussian.not_finite()).delta.whole()[0])
    assert np.isposinf(sent(gaussian.not_finite(float("inf"), at=2)).delta.whole()[2])
    with pytest.raises(ConfigError, match="finite"):
        gaussian.not_finite(1.0)


def test_alie_z() -> None:
    assert alie.supported_z(8, 2) == 0.3  # (6 - 3) / 6 is one half: z would be 0
    # n = 50, f = 12: s = 26 - 12 = 14 of h = 38: the quantile of 24/38.
    assert alie.supported_z(50, 12) == pytest.approx(NormalDist().inv_cdf(24 / 38))
    assert alie.supported_z(4, 3) == 1.5


def test_alie_colluders_wait_for_each_other_and_send_the_same(tmp_path: Path) -> None:
    # Honest deltas 1 and 3: mean 2, sd sqrt(2). z 0.5, sign -1: 2 - 0.5 sqrt(2).
    out: dict[str, Any] = {}

    def collude(client: str, step: float) -> None:
        out[client] = sent(alie.make(str(tmp_path), z=0.5, wait_s=20.0), step, client).delta.whole()

    threads = [threading.Thread(target=collude, args=a) for a in (("a", 1.0), ("b", 3.0))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert out["a"].tolist() == out["b"].tolist()
    assert out["a"] == pytest.approx(2 - 0.5 * np.sqrt(2), rel=1e-6)


def test_alie_alone_is_honest_and_takes_what_is_there_later(tmp_path: Path) -> None:
    make = alie.make(str(tmp_path / "new"), z=1.0, sign=1, wait_s=0.0)
    assert sent(make, 1.0, "a").delta.whole().tolist() == [1.0] * 3
    assert sent(make, 3.0, "b").delta.whole() == pytest.approx(2 + np.sqrt(2), rel=1e-6)
    with pytest.raises(ConfigError, match="colluders = 1"):
        alie.make(str(tmp_path), colluders=1)


@dataclass(frozen=True)
class Vote:
    order: int


def test_methods_without_a_delta_are_refused() -> None:
    class Voter:
        def begin(self, order: Any, task: Any, rng: Any) -> None: ...
        def work(self, order: Any, local: Any, task: Any, rng: Any) -> tuple[None, Vote, dict[str, float]]:
            return None, Vote(1), {}

        def dump(self, local: None) -> bytes:
            return b""

        def load(self, data: bytes) -> None: ...

    liar = sign_flip.make()(Voter(), "a")
    with pytest.raises(ConfigError, match=r"Vote has none"):
        liar.work(ORDER, None, SyntheticTask(3, 1.0), stream(0))


# The reference attack: settings of the demo.


def digits_run(seed: int, rule: str, liars: int, attackers: int, alie_folder: str | None = None) -> Result:
    plan, settings = parse_plan(
        f"""
        [run]
        name = "demo"
        rounds = 20
        task = "digits"
        seed = {seed}
        [cohort]
        size = 8
        quorum = 8
        over_select = 1.0
        [evaluation]
        every = 20
        [method]
        name = "fedavg"
        rule = "{rule}"
        liars = {liars}
        local_epochs = 5
        learning_rate = 0.05
        momentum = 0.9
        """,
        registry.method,
    )
    tasks = {f"device-{i}": digits.make_task(i, 8, alpha=3.0, seed=seed) for i in range(8)}
    liar = alie.make(alie_folder, z=1.5, wait_s=0.0) if alie_folder else sign_flip.make(5.0)
    adversaries = {f"device-{i}": liar for i in range(attackers)}
    return run(plan, settings, tasks, digits.make_task(-1, 8, seed=seed), adversaries)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sign_flippers_break_the_average_and_not_the_trimmed_mean(seed: int) -> None:
    clean = digits_run(seed, "average", 0, 0)
    broken = digits_run(seed, "average", 0, 2)
    held = digits_run(seed, "trimmed_mean", 2, 2)
    assert clean.rounds[-1]["accuracy"] >= 0.93
    assert broken.rounds[-1]["accuracy"] <= 0.40
    assert held.rounds[-1]["accuracy"] >= 0.90


@pytest.mark.parametrize("rule", ["median", "krum"])
def test_other_rules_hold_too(rule: str) -> None:
    assert digits_run(0, rule, 2, 2).rounds[-1]["accuracy"] >= 0.85


def test_same_seed_same_model_in_one_process() -> None:
    assert digits_run(0, "trimmed_mean", 2, 2).digest == digits_run(0, "trimmed_mean", 2, 2).digest


def test_alie_runs_through_the_protocol_and_changes_the_model(tmp_path: Path) -> None:
    attacked = digits_run(0, "trimmed_mean", 2, 2, str(tmp_path))
    assert attacked.rejected == {}
    assert attacked.digest != digits_run(0, "trimmed_mean", 2, 0).digest
