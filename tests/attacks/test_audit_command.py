"""`fl-eval audit`: the methods as they ship hold their claim; noise that is missing is found; refusals in one line."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from edgehold.attacks.eval import app
from edgehold.attacks.privacy.audit import Verdict
from edgehold.attacks.privacy.run import TRAININGS, Found, Wish, run
from edgehold.core.errors import ConfigError


def fl_eval(*arguments: str, expect: int = 0) -> str:
    found = CliRunner().invoke(app.main, ["audit", *arguments])
    assert found.exit_code == expect, found.output
    return found.output


@pytest.mark.parametrize("method", TRAININGS)
def test_at_the_claimed_noise_no_run_is_above_and_at_a_tenth_every_run_is(method: str) -> None:
    """2,000 canaries, two and three runs. A sound half is above its claim with a chance of at most 5 % a run; bounds lie
    near 0.5 of 2 in truth. At a tenth of the noise nearly all of 200 guesses are right, which shows more than 3.
    """
    sound = run(Wish(method, 2.0, 1e-5, 2000, 2))
    assert sound.claimed == pytest.approx(2.0, rel=1e-3)
    assert sound.claimed <= 2.0
    assert (sound.above, sound.holds) == (0, True)
    assert all(one.correct > 0.5 * one.guesses for one in sound.verdicts), "control: the canaries are seen"
    faint = run(Wish(method, 2.0, 1e-5, 2000, 3, noise_factor=0.1))
    assert faint.claimed == sound.claimed
    assert (faint.above, faint.holds) == (3, False)
    assert faint.ceiling > 3


def test_chance_is_given_its_due() -> None:
    """One run in twenty may be above; that all of two are has a chance of 0.0025, five of twenty one of 0.003, six 0.0003."""

    def found(above: int, runs: int) -> Found:
        verdicts = [Verdict(3.0 if i < above else 1.0, 10, 5, 100, 1e-5, 0.95) for i in range(runs)]
        return Found(2.0, 4.0, 1.0, tuple(verdicts))

    sound = [(0, 1), (1, 1), (2, 2), (5, 20)]
    assert [found(*one).holds for one in [*sound, (3, 3), (6, 20)]] == [True] * 4 + [False] * 2
    assert found(5, 20).above == 5


def test_the_command_says_what_it_found() -> None:
    text = fl_eval("--method", "dp_sgd", "--canaries", "200")
    assert "0 of 1 runs above it" in text
    found: dict[str, Any] = json.loads(fl_eval("--method", "dp_sgd", "--canaries", "400", "--json", "--epsilon", "1"))
    assert found["claimed"] <= 1.0
    assert (found["holds"], found["above"], len(found["verdicts"])) == (True, 0, 1)
    assert found["verdicts"][0]["canaries"] == 400
    many = ("--canaries", "1000", "--runs", "3", "--noise-factor", "0.05", "--json")
    planted = json.loads(fl_eval("--method", "dp_ef_sgd", *many, expect=app.MISSED))
    assert (planted["above"], planted["holds"], planted["noise_factor"]) == (3, False, 0.05)


@pytest.mark.parametrize(
    ("changed", "field", "says"),
    [
        ({"method": "dp-sgd"}, "method", "did you mean"),
        ({"method": "fedavg"}, "method", "an audit knows dp_ef_sgd, dp_sgd"),
        ({"epsilon": 0.0}, "epsilon", "above 0"),
        ({"delta": 1.0}, "epsilon", "delta"),
        ({"noise_factor": 0.0}, "epsilon", "noise_factor"),
        ({"canaries": 99}, "canaries", "at least 100"),
        ({"runs": 0}, "canaries", "one run"),
    ],
)
def test_what_cannot_be_audited_is_refused(changed: dict[str, Any], field: str, says: str) -> None:
    wish = {"method": "dp_sgd", "epsilon": 2.0, "delta": 1e-5, "canaries": 1000, "runs": 1, **changed}
    with pytest.raises(ConfigError, match=says) as caught:
        run(Wish(**wish))
    assert caught.value.field == field
