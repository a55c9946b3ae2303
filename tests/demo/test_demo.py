"""The demo, short: real processes, the whole way, fewer rounds."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgehold.attacks.testbed import eventually

COMMAND = [sys.executable, "-m", "edgehold.attacks.demo"]


def working_in(folder: Path) -> list[int]:
    """Processes whose working directory is below a folder. Those of other users and those that end meanwhile are none."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink().is_relative_to(folder):
                    found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_three_runs_in_real_processes(tmp_path: Path) -> None:
    file = tmp_path / "demo.json"
    done = subprocess.run(
        [*COMMAND, "--rounds", "3", "--json", str(file)], cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    data = json.loads(file.read_text())
    assert set(data) == {"runs", "central_accuracy", "peak_rss_mb"}
    assert [run["name"] for run in data["runs"]] == ["clean", "attacked", "defended"]
    for run in data["runs"]:
        assert set(run) == {"name", "accuracy", "seconds", "rounds", "bytes_up", "seed"}
        assert run["rounds"] == 3
        assert run["seconds"] > 0
        # Eight updates a round of 4810 float32 values each, and their headers.
        assert 8 * 3 * 4 * 4810 < run["bytes_up"] < 8 * 3 * (4 * 4810 + 100)
    accuracy = {run["name"]: run["accuracy"] for run in data["runs"]}
    assert accuracy["attacked"] < 0.4
    assert accuracy["attacked"] < accuracy["defended"]
    assert accuracy["clean"] > 0.85
    assert data["central_accuracy"] > 0.95
    assert all(peak > 10 for peak in data["peak_rss_mb"].values())
    output = tmp_path / "demo-output"
    assert {path.name for path in output.iterdir()} == {
        "accuracy.png", "attacked.safetensors", "clean.safetensors", "defended.safetensors", "logs"
    }  # fmt: skip
    assert {path.name for path in (output / "logs").iterdir()} == {"server.log", *(f"dev-{i}.log" for i in range(8))}
    from safetensors.numpy import load_file

    assert sum(values.size for values in load_file(output / "clean.safetensors").values()) == 4810
    assert working_in(output) == []


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks processes up in /proc")
def test_an_interruption_leaves_no_process(tmp_path: Path) -> None:
    # A session of its own, so that the signal reaches the demo alone: it must end the others itself.
    kept = tmp_path / "kept"
    child = subprocess.Popen(
        [*COMMAND, "--keep", str(kept)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        eventually(
            lambda: child.poll() is not None or len(working_in(kept)) >= 5,
            60.0,
            "the demo, its server with a helper, two clients",
        )
        child.send_signal(signal.SIGINT)
        out, said = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 130, out + said
    assert "interrupted; every process is stopped" in said
    assert working_in(kept) == []
    assert (kept / "federation" / "seed-0" / "server.log").exists()
