"""What continuous integration keeps: the page of the ready matrix `quick`, played on digits with one seed."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgehold.attacks.eval.app import main

KEPT = Path(__file__).parents[2] / "build" / "report-quick"
"""Not in a folder that the test run takes away again."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quick_is_played_and_says_the_worst_case_of_every_defence(tmp_path: Path) -> None:
    text = (files("edgehold.attacks.matrix") / "ready" / "quick.toml").read_text(encoding="utf-8")
    for old, new in (('name = "quick"', 'name = "quick-digits"'), ("seeds = 3", "seeds = 1"), ("rounds = 12", "rounds = 6")):
        assert old in text
        text = text.replace(old, new)
    plan = tmp_path / "quick.toml"
    plan.write_text(text, encoding="utf-8")
    for left in KEPT.glob("*"):  # an earlier commit's cells would not be played again
        left.unlink()
    done = CliRunner().invoke(main, ["matrix", str(plan), "--out", str(KEPT), "--workers", "1", "--data", str(tmp_path)])
    assert done.exit_code == 0, done.output
    report = json.loads((KEPT / "report.json").read_text(encoding="utf-8"))
    assert (report["waiting"], report["failed"]) == (0, 0)
    assert report["cells"] == len(report["runs"]) + len(report["audits"])
    assert {one["audit"] for one in report["audits"]} == {"membership", "one_run", "curve"}
    assert report["left_out"] == ["fashion-mnist"]
    worst = {one["defence"]: one for one in report["worst"] if one["share"] == 0.2}
    assert len(worst) == 15, "14 defences, and nobody defending"
    nobody = worst["average"]
    assert nobody["clean"]["mean"] > 0.6
    assert nobody["value"]["mean"] < 0.3, "no attack works: nothing is proved"
    assert worst["geometric_median"]["value"]["mean"] > nobody["value"]["mean"] + 0.2
    page = (KEPT / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in worst)
    assert not {name for name in ("src=", "href=") if f'{name}"http' in page}, "it needs a network to be viewed"
