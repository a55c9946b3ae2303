"""A cell through the engine: liars who blow the model up have won, and only they may have done so."""

import pytest

from edgehold.attacks.eval.cells import Cell
from edgehold.attacks.matrix.grid import Grid, plan_of
from edgehold.attacks.matrix.plan import parse
from edgehold.attacks.matrix.play import attempt

TEXT = """
[matrix]
name = "small"
seeds = 1
shares = [0.25]
data = ["digits"]
defences = ["median"]
attacks = ["sign_flip"]

[data.digits]
dataset = "digits"
honest = 3
rounds = {rounds}
partition = "iid"
limit = 30
test_limit = 60
training = {{ local_epochs = 5, learning_rate = 0.3, batch_size = 10 }}

[attack.sign_flip]
options = {{ scale = {scale} }}
"""


def cell(defence: str, attack: str, rounds: int = 2, scale: float = 1.0) -> Cell:
    grid = Grid(parse(TEXT.format(rounds=rounds, scale=scale)))
    return next(one for one in grid.cells() if (one["defence"], one["attack"]) == (defence, attack))


def test_a_model_that_liars_have_blown_up_guesses() -> None:
    """Honest changes leave the law (norms above 1e30) once the model is large enough."""
    outcome = attempt(cell("average", "sign_flip", rounds=6, scale=1e12), None)
    assert not outcome.error, outcome.error
    assert outcome.facts == {"accuracy": 0.1, "recall": 0.0, "resisted": 0.0, "resisted_bars": 0.0, "broken": 1.0}
    held = attempt(cell("median", "sign_flip", rounds=6, scale=1e12), None)
    assert "broken" not in held.facts
    assert held.facts["accuracy"] > 0.2


@pytest.mark.parametrize("defence", ["average", "median"])
def test_liars_whose_updates_are_refused_have_broken_nothing(defence: str) -> None:
    outcome = attempt(cell(defence, "sign_flip", rounds=6, scale=1e32), None)
    assert not outcome.error, outcome.error
    assert outcome.facts["refused"] == 6
    assert outcome.facts["accuracy"] > 0.2
    assert "broken" not in outcome.facts


def test_a_rule_that_needs_every_update_keeps_its_quorum() -> None:
    assert "quorum = 3" in plan_of(cell("median", "sign_flip"))
    assert "quorum = 4" in plan_of(cell("median", "none"))
    strict = cell("median", "sign_flip") | {"honest": 4, "liars": 1}
    assert "quorum = 4" in plan_of(strict)
    assert "quorum = 5" in plan_of(strict | {"method": {**strict["method"], "rule": "krum"}}), "krum needs 2 f + 3"


def test_a_model_that_blows_up_by_itself_is_a_crash() -> None:
    mild = cell("average", "none", rounds=6)
    wild = {**mild, "method": {**mild["method"], "learning_rate": 100.0, "momentum": 0.9, "weight_decay": 10.0}}
    outcome = attempt(wild, None)
    assert not outcome.facts
    assert "updates admitted" in outcome.error
