"""`fl-eval membership`: the controls, what is kept, what is trained again, what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgehold.attacks.eval.app import main
from edgehold.attacks.eval.cells import Cell
from edgehold.attacks.privacy.membership import run
from edgehold.attacks.privacy.membership.judge import ATTACKS, NOT_ENOUGH, judge
from edgehold.attacks.privacy.membership.pictures import roc
from edgehold.attacks.privacy.membership.population import members
from edgehold.attacks.privacy.membership.study import Study, parse
from edgehold.attacks.privacy.membership.train import Trained, model_cell, train
from edgehold.core.errors import ConfigError

SMALL = """
name = "small"
dataset = "digits"
pool = 40
devices = 2
rounds = 1
net = { hidden = [8] }
test_limit = 50
shadows = 4
seeds = 2
[subject.fedavg]
settings = { local_epochs = 1 }
"""
MODELS = 2 * (2 + 4)
LEARNT = """
name = "learnt"
dataset = "digits"
pool = 600
devices = 2
rounds = 3
net = { hidden = [64] }
test_limit = 200
shadows = 6
seeds = 1
[subject.fedavg]
settings = { local_epochs = 30, learning_rate = 0.3, batch_size = 16 }
[subject.noisy]
method = "dp_sgd"
epsilon = 0.5
settings = { learning_rate = 1.0, batch_size = 30.0, rate = 0.2, steps = 5 }
"""


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["membership", *map(str, arguments), "--workers", "1"])


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """No model is really trained; the list holds those that would have been."""
    found: list[Cell] = []

    def made_up(cell: Cell, data: Any) -> Trained:
        found.append(cell)
        rng = np.random.default_rng(len(found))
        learnt = members(cell["pool"], cell["seed"], cell["role"], cell["index"])
        return Trained(rng.normal(6.0 * learnt, 1), rng.normal(0, 1, 50), {"accuracy": 0.5, "accuracy_members": 0.5})

    monkeypatch.setattr(run, "train", made_up)
    return found


@pytest.mark.slow
def test_overfit_models_tell_their_members_and_noise_does_not() -> None:
    """300 members and 300 others, 6 shadow models. Guessing has a deviation of 0.0236: four of them are 0.095. Undefended,
    everything follows from the seed; LiRA comes to about 0.6 there, which is 4 deviations above guessing.
    """
    study = parse(LEARNT)
    open_, noisy = (run.attack(study, name, 0, None) for name in ("fedavg", "noisy"))
    assert set(open_.attacks) == set(open_.strangers) == set(ATTACKS)
    assert open_.facts["accuracy_members"] > open_.facts["accuracy"] + 0.02
    assert "epsilon" not in open_.facts
    for name in ("offline", "ranked"):
        assert open_.attacks[name].auc > 0.58, name
        assert open_.strangers[name].auc < 0.56, "control: a model that never saw the pool"
    assert noisy.facts["epsilon"] == pytest.approx(0.5, rel=1e-3)
    for name in ATTACKS:
        assert open_.strangers[name].auc == pytest.approx(0.5, abs=0.095), name
        assert noisy.attacks[name].auc == pytest.approx(0.5, abs=0.095), name
        assert noisy.strangers[name].auc == pytest.approx(0.5, abs=0.095), name


def test_the_same_cell_is_the_same_model_and_the_trajectory_is_a_mean_over_rounds() -> None:
    text = SMALL.replace("rounds = 1", "rounds = 2")
    cell = model_cell(parse(text), "fedavg", "target", 0, 0)
    one, two = train(cell, None), train(cell, None)
    assert (one.phi == two.phi).all()
    assert not (one.phi == train(cell | {"role": "shadow"}, None).phi).any()
    first = train(cell | {"rounds": 1}, None)
    both = train(cell | {"view": "trajectory"}, None)
    assert both.phi == pytest.approx((first.phi + one.phi) / 2, abs=1e-9)
    assert both.public.shape == (50,)


def test_made_up_models_that_remember_are_found(small: Path, trained: list[Cell], tmp_path: Path) -> None:
    """What was learnt lies six deviations above all else. 20 members and 20 others: no rates, and the result says so."""
    out = tmp_path / "out"
    done = call(small, "--out", out)
    assert done.exit_code == 0, done.output
    assert len(trained) == MODELS
    assert NOT_ENOUGH in done.stdout
    assert f"{MODELS} models, 0 missing" in done.stdout
    found = json.loads((out / "result.json").read_text())
    runs = found["subjects"]["fedavg"]["runs"]
    assert len(runs) == 2
    for one in runs:
        assert all(one["attacks"][name]["auc"] > 0.98 for name in ("loss", "offline", "online"))
        assert all(one["strangers"][name]["auc"] < 0.85 for name in ATTACKS)
        assert one["attacks"]["online"]["tpr_at_0.001"] == one["attacks"]["online"]["tpr_at_0.01"] == NOT_ENOUGH
    assert call(small, "--out", out, "--json").exit_code == 0
    assert len(trained) == MODELS, "nothing is trained twice"
    small.write_text(SMALL.replace("seeds = 2", "seeds = 3"))
    told = json.loads(call(small, "--out", out, "--json").stdout)
    assert len(trained) == MODELS // 2 * 3, "one seed more: only its models"
    assert (told["models"], told["missing"], told["stopped"]) == (len(trained), 0, False)


def test_with_enough_non_members_rates_have_exact_intervals() -> None:
    """10,000 records: members lie 3 above the others, who are normal: at 0.1 % the threshold is near 3.09, and 1 - Phi(0.09),
    46 %, of the members are above it; the threshold moves by 0.13 a deviation, hits by 0.05.
    """
    study = parse(SMALL.replace("pool = 40", "pool = 10000").replace("shadows = 4", "shadows = 0"))
    rng, learnt = np.random.default_rng(0), members(10_000, 0, "target")
    target = Trained(rng.normal(3.0 * learnt, 1), np.zeros(2), {"accuracy": 1.0, "accuracy_members": 1.0})
    stranger = Trained(rng.normal(0, 1, 10_000), np.zeros(2), {})
    found = judge(study, 0, target, stranger, [])
    assert set(found.attacks) == {"loss"}
    rate = found.attacks["loss"].rates[0.001]
    assert rate is not None
    assert (rate.alarms, rate.others, rate.members) == (5, 5000, 5000)
    assert rate.rate == pytest.approx(0.46, abs=0.2)
    assert rate.low < rate.rate < rate.high < rate.low + 0.03
    assert found.attacks["loss"].curve[0] == rate.rate
    missed = found.strangers["loss"].rates[0.001]
    assert missed is not None
    assert missed.rate < 0.005
    told = run.figures_facts(found.attacks["loss"])["tpr_at_0.001"]
    assert (told["hits"], told["non_members"]) == (rate.hits, 5000)
    assert run.rates_told([rate, rate]).startswith(f"{100 * rate.rate:.2f} % [{100 * rate.low:.2f}, ")
    assert run.rates_told([rate, None]) == NOT_ENOUGH


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(
    small: Path, trained: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    made_up: Callable[[Cell, Any], Trained] = vars(run)["train"]

    def stopping(cell: Cell, data: Any) -> Trained:
        if len(trained) == 8:
            raise KeyboardInterrupt
        return made_up(cell, data)

    monkeypatch.setattr(run, "train", stopping)
    out = tmp_path / "out"
    stopped = call(small, "--out", out)
    assert stopped.exit_code == 130
    assert f"stopped with 8 of {MODELS} models" in stopped.stderr
    assert f"fl-eval membership {small} --out {out}" in stopped.stderr
    assert len(json.loads((out / "result.json").read_text())["subjects"]["fedavg"]["runs"]) == 1, "one seed is complete"
    monkeypatch.setattr(run, "train", made_up)
    assert call(small, "--out", out).exit_code == 0
    assert len(trained) == MODELS


def test_the_picture_needs_two_points() -> None:
    nothing = [float("nan")] * 9
    assert roc({"a": [nothing]}) is None
    assert roc({}) is None
    drawn = roc({"a": [nothing[:5] + [0.3, 0.4, 0.5, 0.9]], "b": [nothing]})
    assert drawn is not None
    assert drawn.light[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (("shadows = 4", "shadows = 3"), "both are even"),
        (("pool = 40", "pool = 41"), "both are even"),
        (("devices = 2", "devices = 21"), "20 members for 21 devices"),
        (("[subject.fedavg]", '[subject.fedavg]\nmethod = "fedavgg"'), "did you mean"),
        (("[subject.fedavg]", "[subject.fedavg]\nepsilon = 2.0"), "takes what stands in its settings"),
        (("local_epochs", "local_epoch"), "subject.fedavg: .*did you mean"),
        (("shadows = 4", "shadow = 4"), "unknown key shadow"),
        (('"digits"', '"fashion-mnist"'), "no folder fashion-mnist"),
        (("[subject.fedavg]\nsettings = { local_epochs = 1 }", "[subject]"), "name a method to attack"),
    ],
)
def test_what_cannot_be_played_is_refused(changed: tuple[str, str], says: str, tmp_path: Path, trained: list[Cell]) -> None:
    assert changed[0] in SMALL
    with pytest.raises(ConfigError, match=says):
        run.run(parse(SMALL.replace(*changed)), None, tmp_path / "out", 1)
    assert not trained
    assert not (tmp_path / "out").exists()


def test_ready_studies_are_sound_and_can_be_copied() -> None:
    listed = call("--list").stdout
    for name in ("digits", "fashion"):
        assert name in listed
        study: Study = parse(call(name, "--show").stdout)
        assert study.pool // 2 >= 5000 or name == "digits"
    refused = call("fashoin")
    assert refused.exit_code == 1
    assert 'did you mean "fashion"' in refused.stderr
