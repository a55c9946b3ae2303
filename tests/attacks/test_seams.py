"""One attack, two seams: what liars with a client.toml send is what conspirators of the engine send with the same knowledge."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehold.attacks.byzantine import device, registry
from edgehold.attacks.byzantine.knowledge import K0, K1, K1_RULE, K2, Knowledge
from edgehold.attacks.byzantine.plot import Plot
from edgehold.attacks.byzantine.rule import ServerRule
from edgehold.attacks.byzantine.sight import LAST, Sight
from edgehold.attacks.byzantine.wrap import Minded
from edgehold.attacks.eval.data import make_task
from edgehold.attacks.eval.named import Named
from edgehold.client.data.synthetic import SyntheticTask
from edgehold.core.errors import ConfigError, FlError, NotGranted, WrongShape
from edgehold.core.plan import parse_plan
from edgehold.core.rng import stream
from edgehold.core.vectors import FloatArray, Vector
from edgehold.defenses import registry as methods
from edgehold.defenses.baselines.fedavg.state import Order, Training
from edgehold.server import engine

TASKS = {f"c{i}": make_task("digits", i, 4, limit=40, model="mlp", net={"hidden": [6]}) for i in range(4)}


def go(rounds: int = 4, method: str = "", **how: Any) -> engine.Result:
    text = f"""
        [run]
        name = "seams"
        rounds = {rounds}
        task = "t"
        [cohort]
        size = 4
        quorum = 3
        [method]
        name = "fedavg"
        {method}
    """
    return engine.run(*parse_plan(text, methods.method), TASKS, **how)


@pytest.mark.parametrize(
    ("attack", "options", "granted"),
    [
        ("zero", {}, K0),
        ("sign_flip", {"scale": 2.0}, K0),
        ("sign_flip_mean", {}, K1),
        ("ipm", {}, K1),
        ("poisoned_fl", {"every": 2}, K0),
        ("replay", {"age": 2}, K0),
        ("replay", {"age": 0}, K0),
        ("relocated", {"tau": 1.0}, K1_RULE),
    ],
)
def test_a_liar_alone_sends_what_a_conspirator_alone_sends(attack: str, options: dict[str, Any], granted: Knowledge) -> None:
    rule: dict[str, Any] = {"rule": "centred_clipping", "rule_options": {"radius": 1.0}, "liars": 1} if granted.rule else {}
    known = ServerRule("centred_clipping", 1, {"radius": 1.0}) if granted.rule else None
    liar = {"c2": device.make(attack, options, **rule)}
    plot = Plot(frozenset({"c2"}), registry.attack_of(attack, options), granted, known)
    plotted = go(conspiracy=plot)
    assert go(adversaries=liar).digest == plotted.digest
    assert plotted.digest != go().digest


ORDER = Order(Vector.of(np.zeros(3, np.float32)), Training(), 0)


@pytest.mark.parametrize(
    ("attack", "options"),
    [
        ("alie", {}),
        ("alie_both", {}),
        ("min_max", {}),
        ("min_sum", {"direction": "sign"}),
        ("ipm_optimised", {}),
        ("rule_aware", {}),
    ],
)
def test_colluders_share_a_folder_and_send_what_conspirators_send(tmp_path: Path, attack: str, options: dict[str, Any]) -> None:
    told = ServerRule("trimmed_mean", 1) if registry.find(attack).needs.rule else None
    rule: dict[str, Any] = {"rule": "trimmed_mean", "liars": 1} if told else {}
    liars = device.make(attack, options, str(tmp_path / "talk"), 2, 6, 20.0, **rule)
    sent: dict[str, FloatArray] = {}

    def work(client: str, steps: float) -> None:
        half, rng = liars(methods.client_side("fedavg"), client), stream(0, client)
        task = SyntheticTask(3, steps, samples=7)
        sent[client] = half.work(ORDER, half.begin(ORDER, task, rng), task, rng)[1].delta.whole()

    threads = [threading.Thread(target=work, args=one) for one in (("a", 1.0), ("b", 3.0))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    own = {client: np.full(3, steps, np.float32) for client, steps in (("a", 1.0), ("b", 3.0))}
    seen = Sight(own, {}, np.zeros(3, np.float32), 6, 2, stream(0), {}, told)
    wanted = registry.attack_of(attack, options).lie(seen)
    for client in own:
        assert sent[client].tolist() == wanted[client].astype(np.float32).tolist()
    assert (sent["b"] != own["b"]).any()


def test_what_a_liar_remembers_survives_as_bytes() -> None:
    half = device.make("replay", {"age": 1})(methods.client_side("fedavg"), "a")
    task, rng = SyntheticTask(3, 1.0), stream(0)
    local, _, _ = half.work(ORDER, half.begin(ORDER, task, rng), task, rng)
    again = half.load(half.dump(local))
    assert isinstance(again, Minded)
    assert {name: values.tolist() for name, values in again.memory.items()} == {"a": [[1.0] * 3], LAST: [0.0] * 3}
    with pytest.raises(WrongShape, match="its memory has"):
        half.load(half.dump(local)[:20])


def test_a_device_cannot_know_everything() -> None:
    with pytest.raises(NotGranted, match=r"Mimic needs K2 .* granted is K1"):
        device.make("mimic")
    with pytest.raises(NotGranted, match=r"needs K1\+A"):
        device.make("alie_optimised", folder="x", colluders=2)
    for wrong, says in (
        ({"attack": "alie"}, "colluders = 1"),
        ({"attack": "min_max", "colluders": 2}, "set folder"),
        ({"attack": "ipm", "rule": "medain"}, "unknown rule"),
        ({"attack": "ipm", "liars": 2}, "set rule"),
        ({"attack": "backdoor"}, "backdoor:make as entry"),
    ):
        with pytest.raises(ConfigError, match=says):
            device.make(**wrong)
    assert Named("edgehold.attacks.byzantine.device:make", {"attack": "zero"})(methods.client_side("fedavg"), "a")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_what_is_not_finite_is_refused_and_counted(value: str) -> None:
    attack = registry.attack_of("not_finite", {"value": float(value), "at": -1})
    found = go(rounds=2, conspiracy=Plot(frozenset({"c1"}), attack, K0))
    assert found.rejected == {"not_finite": 2}
    assert all(facts["clients_admitted"] == 3 for facts in found.rounds)


def test_knowledge_decides_what_a_plot_sees() -> None:
    seen: list[Sight] = []

    class Spy:
        needs, fewest, remembers = K0, 1, False

        def lie(self, sight: Sight) -> dict[str, Any]:
            seen.append(sight)
            return {}

    for granted in (K0, K1, K2, Knowledge(K2.reach, True)):
        assert go(1, conspiracy=Plot(frozenset({"c0", "c1"}), Spy(), granted)).digest == go(1).digest
    assert [sorted(one.others) for one in seen] == [[], [], ["c2", "c3"], ["c2", "c3"]]
    assert [sorted(one.own) for one in seen] == [["c0", "c1"]] * 4
    assert [one.outcome is None for one in seen] == [True, True, True, False]


def test_a_kept_run_refuses_a_plot_that_remembers(tmp_path: Path) -> None:
    plot = Plot(frozenset({"c0"}), registry.attack_of("replay", {}), K0)
    with pytest.raises(FlError, match="repr says what they are"):
        go(conspiracy=plot, store=engine.Store(tmp_path / "run.sqlite"))
    forgetful = Plot(frozenset({"c0"}), registry.attack_of("ipm", {}), K2)
    go(conspiracy=forgetful, store=engine.Store(tmp_path / "other.sqlite"))
