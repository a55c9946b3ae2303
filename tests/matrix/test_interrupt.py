"""Ctrl-C on a matrix that several processes play, and a process that is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.support.small_matrix import SMALL, deadly

from edgehold.attacks.matrix.grid import Grid
from edgehold.attacks.matrix.plan import parse
from edgehold.attacks.matrix.run import here


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ctrl_c_ends_the_processes_and_not_with_what_is_left(tmp_path: Path) -> None:
    (tmp_path / "long.toml").write_text(SMALL.replace("seeds = 2", "seeds = 500"))
    command = [sys.executable, "-m", "edgehold.attacks.eval", "matrix", "long.toml", "--workers", "2"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"COLUMNS": "80"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stderr is not None
        parent.stderr.readline()  # the first cell is finished, so the others are being played
        children = psutil.Process(parent.pid).children(recursive=True)
        parent.send_signal(signal.SIGINT)
        try:
            said = next((line for line in parent.stderr if "the same command goes on" in line), "")
            parent.wait(timeout=20)  # the rest of 4,500 cells would take twice as long on any machine
        finally:
            parent.kill()
    assert "the same command goes on: fl-eval matrix long.toml --out matrix-small" in said
    assert parent.returncode == 130
    assert (tmp_path / "matrix-small" / "report.html").is_file()
    gone, alive = psutil.wait_procs(children, timeout=30)
    assert len(gone) >= 2
    assert not alive


def test_a_process_that_is_killed_costs_its_cell_alone() -> None:
    cells = Grid(parse(SMALL)).cells()
    found = list(here(deadly, cells, 2))
    assert len(found) == len(cells)
    failed = [(cell["defence"], cell["attack"], cell["seed"]) for cell, outcome in found if outcome.error]
    assert failed == [("krum", "alie", 0)]
