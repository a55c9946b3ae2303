"""What continuous integration keeps: the page of the ready matrix `quick`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.support.real_data import DATA

from edgehold.attacks.eval.app import main

KEPT = Path(__file__).parents[2] / "build" / "report-quick"
"""Not in a folder that the test run takes away again."""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_quick_is_played_and_says_the_worst_case_of_every_defence(tmp_path: Path) -> None:
    for left in KEPT.glob("*"):  # an earlier commit's cells would not be played again
        left.unlink()
    data = DATA if DATA.is_dir() else tmp_path
    done = CliRunner().invoke(main, ["matrix", "quick", "--out", str(KEPT), "--workers", "1", "--data", str(data)])
    assert done.exit_code == 0, done.output
    report = json.loads((KEPT / "report.json").read_text(encoding="utf-8"))
    assert (report["waiting"], report["failed"]) == (0, 0)
    assert report["cells"] == len(report["runs"]) + len(report["audits"])
    assert {one["audit"] for one in report["audits"]} == {"membership", "one_run", "curve"}
    there = {"digits", "fashion-mnist"} - set(report["left_out"])
    assert report["left_out"] == ([] if (data / "fashion-mnist").is_dir() else ["fashion-mnist"])
    worst = {(one["data"], one["defence"]): one for one in report["worst"] if one["share"] == 0.2}
    assert len({defence for data, defence in worst if data == "digits"}) == 15, "14 defences, and nobody defending"
    for name in there:
        nobody = worst[name, "average"]
        assert nobody["clean"]["mean"] > 0.6
        assert nobody["value"]["mean"] < 0.3, "no attack works: nothing is proved"
        assert worst[name, "geometric_median"]["value"]["mean"] > nobody["value"]["mean"] + 0.2
    page = (KEPT / "report.html").read_text(encoding="utf-8")
    assert all(defence in page for _, defence in worst)
    assert not {name for name in ("src=", "href=") if f'{name}"http' in page}, "it needs a network to be viewed"
