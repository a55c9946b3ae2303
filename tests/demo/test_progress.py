"""What people see while the runs go on."""

import pytest

from edgehold.attacks.demo.plan import SCENARIOS
from edgehold.attacks.demo.progress import Lines, screen


def test_lines_appear_every_few_rounds_and_estimate_from_the_second(capsys: pytest.CaptureFixture[str]) -> None:
    on_round = Lines().run(SCENARIOS[0], 12)
    for number in range(1, 13):
        on_round(number, {"bytes_up": 100.0, "clients_admitted": 8.0, "accuracy": 0.5})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == ["1/12", "5/12", "10/12", "12/12"]
    assert "left" not in lines[0]
    assert "up 1.2 kB" in lines[-1]
    assert lines[-1].endswith("0.0 s left")


def test_a_terminal_gets_bars(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with screen() as show:
        assert isinstance(show, Lines)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with screen() as show:
        show.say("fl-server is up")
        show.run(SCENARIOS[0], 4)(3, {"bytes_up": 1200.0, "clients_admitted": 8.0, "accuracy": 0.5})
    out = capsys.readouterr().out
    assert "fl-server is up" in out
    assert "clean" in out
    assert "3/4" in out
