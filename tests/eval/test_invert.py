"""`fl-eval invert` and transcripts of simulations as a person meets them: refusals, noise, Ctrl-C."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgehold.attacks.eval import app
from edgehold.attacks.inversion import catalogue
from edgehold.attacks.inversion.observed import Aim, Observed, Reconstruction

TASK = (
    "--task=edgehold.client.data.tasks:make_task",
    "--option=dataset=digits",
    "--option=limit=3",
    "--option=net={hidden=[96,24]}",
)
PLAN = '[run]\nname = "leak"\nrounds = 2\ntask = "t"\n[cohort]\nsize = 2\n[method]\nname = "{method}"\n'


def fl_eval(*arguments: str, expect: int = 0) -> str:
    found = CliRunner().invoke(app.main, list(arguments))
    assert found.exit_code == expect, found.output
    return found.output


def recorded(folder: Path, method: str = "fedavg", *more: str) -> str:
    plan, file = folder / "plan.toml", folder / f"{method}.sqlite"
    plan.write_text(PLAN.format(method=method))
    fl_eval("simulate", str(plan), "--clients=2", *TASK, f"--transcript={file}", *more)
    return f"--transcript={file}"


def inverted(folder: Path, transcript: str, *more: str, expect: int = 0, task: tuple[str, ...] = TASK) -> str:
    return fl_eval("invert", transcript, *task, "--option=devices=2", f"--out={folder / 'out'}", *more, expect=expect)


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out" / "result.json").read_text())
    return found


def test_records_come_out_of_a_simulation_and_the_truth_only_scores(tmp_path: Path) -> None:
    transcript = recorded(tmp_path)
    said = inverted(tmp_path, transcript, "--attack=sparse", "--client=c0001", "--truth=device_index=1")
    assert "sparse on run leak (fedavg)" in said
    scored = result(tmp_path)["results"][0]
    assert min(scored["psnr"]) > 60
    assert scored["shares_above_db"] == {"20": 1.0, "30": 1.0, "60": 1.0}
    inverted(tmp_path, transcript, "--attack=sparse")
    blind = result(tmp_path)["results"]
    assert [(one["client"], one["round"], "psnr" in one) for one in blind] == [("c0000", 1, False), ("c0001", 1, False)]
    assert blind[1]["objectives"] == scored["objectives"]


def test_only_the_named_rounds_are_kept(tmp_path: Path) -> None:
    transcript = recorded(tmp_path, "fedavg", "--keep=2")
    assert "nothing recorded of rounds [1]" in inverted(tmp_path, transcript, "--attack=sparse", "--round=1", expect=1)
    inverted(tmp_path, transcript, "--attack=sparse", "--round=2", "--client=c0000")
    assert result(tmp_path)["results"][0]["round"] == 2


def test_a_private_run_is_attacked_all_the_same(tmp_path: Path) -> None:
    transcript = recorded(tmp_path, "dp_sgd")
    more = ("--attack=sparse", "--client=c0000", "--truth=device_index=0")
    assert "give --records" in inverted(tmp_path, transcript, *more, expect=1)
    assert "10 local steps" in inverted(tmp_path, transcript, *more, "--records=3", expect=1)
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.format(method="dp_sgd") + 'sampling = "bins"\nbins = 1\nbatch_size = 3.0\n')
    file = tmp_path / "one-step.sqlite"
    fl_eval("simulate", str(plan), "--clients=2", *TASK, f"--transcript={file}")
    inverted(tmp_path, f"--transcript={file}", *more, "--records=3")
    one = result(tmp_path)["results"][0]
    assert one["median_psnr"] < 12
    assert "noise in the update: expected to fail" in one["note"]


def test_an_imprint_is_simulated(tmp_path: Path) -> None:
    transcript = recorded(tmp_path, "fedavg", "--imprint", "--keep=1")
    inverted(tmp_path, transcript, "--attack=bins", "--client=c0000", "--truth=device_index=0")
    one = result(tmp_path)["results"][0]
    assert one["note"] == ""
    assert one["median_psnr"] > 35


def test_after_ctrl_c_what_is_done_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transcript, calls = recorded(tmp_path), []

    def once(observed: Observed, aim: Aim) -> Reconstruction:
        calls.append(aim.records)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return Reconstruction(np.zeros((1, *aim.shape)), None, (), 0.0)

    monkeypatch.setitem(catalogue.ATTACKS, "once", catalogue.Attack("once", "", "", once))
    inverted(tmp_path, transcript, "--attack=once", expect=130)
    found = result(tmp_path)
    assert (found["interrupted"], len(found["results"]), calls) == (True, 1, [3, 3])


def test_help_teaches_and_lists() -> None:
    text = fl_eval("invert", "--help")
    assert "fl-eval invert --transcript run.sqlite" in text
    assert "for scoring alone" in " ".join(text.split())
    listed = fl_eval("invert", "--list")
    assert [line.split()[0] for line in listed.splitlines()] == list(catalogue.ATTACKS)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--attack=spares",), 'did you mean "sparse"'),
        (("--attack=sparse", "--client=nobody"), "nothing recorded"),
        (("--attack=sparse", "--truth=device_index=0"), "name that --client too"),
        (("--attack=sparse", "--option=net={hidden=[8]}"), "not that of the run"),
        (("--attack=dlg",), "ReLU; this attack needs"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(tmp_path: Path, more: tuple[str, ...], says: str) -> None:
    said = inverted(tmp_path, recorded(tmp_path), *more, expect=1)
    assert says in said


def test_votes_hold_no_gradient(tmp_path: Path) -> None:
    task = (*TASK[:3], "--option=net={hidden=[96,24],bias=false}")
    plan, file = tmp_path / "plan.toml", tmp_path / "frl.sqlite"
    plan.write_text(PLAN.format(method="frl"))
    fl_eval("simulate", str(plan), "--clients=2", *task, f"--transcript={file}")
    assert "hold no gradient" in inverted(tmp_path, f"--transcript={file}", "--attack=sparse", expect=1, task=task)
