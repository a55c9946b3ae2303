"""Whatever is killed, nothing it started stays behind."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from edgehold.attacks.eval.cells import spread

PLAN = '[run]\nname = "long"\nrounds = 100000\ntask = "t"\n[cohort]\nsize = 4\n[method]\nname = "fedavg"\n'
REPRODUCE = ("reproduce", "fedavg", "--quick", "--seeds", "50", "--workers", "2")
SIMULATE = ("simulate", "plan.toml", "--clients", "6", "--task", "edgehold.client.data.digits:make_task", "--workers", "2")


def living(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [REPRODUCE, SIMULATE], ids=["reproduce", "simulate"])
def test_worker_processes_end_with_their_parent(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    command = [sys.executable, "-m", "edgehold.attacks.eval", *arguments]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) as parent:
        assert parent.stderr is not None
        parent.stderr.readline()  # the first step is done, so the workers work
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) >= 2
        parent.kill()
    deadline = time.monotonic() + 30
    while alive := living(children):
        assert time.monotonic() < deadline, alive
        psutil.wait_procs(alive, timeout=0.2)
    assert not list(tmp_path.glob("edgehold-orders-*"))


@pytest.mark.timeout(120)
def test_who_wants_no_more_cells_waits_for_none() -> None:
    """Neither for those at work nor for those that wait; each would sleep for ten minutes."""
    before = set(psutil.Process().children())
    playing = spread(cast(Any, time.sleep), cast(Any, [0.0, *[600.0] * 50]), 2)
    next(playing)
    started = set(psutil.Process().children()) - before
    workers = [one for one in started if "spawn_main" in " ".join(one.cmdline())]
    playing.close()
    assert len(workers) == 2
    assert not living(workers)
