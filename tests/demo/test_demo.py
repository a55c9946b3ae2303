"""The demo, short: real processes, the whole way, fewer rounds."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgehold.attacks import demo
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


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "federation").mkdir()
    (tmp_path / "federation" / "thesis.txt").touch()
    with pytest.raises(demo.Failed, match="choose another folder"):
        demo.Folders(tmp_path)
    assert (tmp_path / "federation" / "thesis.txt").exists()
    ours = demo.Folders(tmp_path / "ours")
    (ours.work / "left").touch()
    assert not (demo.Folders(tmp_path / "ours").work / "left").exists()


def outcome(scenario: demo.Scenario, seed: int, accuracy: float) -> demo.Outcome:
    return demo.Outcome(scenario, seed, [0.1, accuracy], 2.0, 1000, Path("model"))


def test_the_table_gives_the_mean_and_the_spread_of_seeds() -> None:
    scores = {"clean": (0.9, 1.0), "attacked": (0.1, 0.3), "defended": (0.8, 0.9)}
    many = [outcome(scenario, seed, scores[scenario.name][seed]) for seed in (0, 1) for scenario in demo.SCENARIOS]
    titles, *rows = demo.comparison(many, 0.96).splitlines()
    assert "LOWEST TO HIGHEST" in titles
    assert [row.split()[0] for row in rows] == list(scores)
    assert rows[0].split()[5:11] == ["0.950", "0.900", "to", "1.000", "-0.010", "2"]
    assert "2 of 8" in rows[1]
    assert "LOWEST" not in demo.comparison([outcome(scenario, 0, 0.5) for scenario in demo.SCENARIOS], 0.96)


def test_sparklines() -> None:
    assert demo.sparkline([0.0, 0.5, 1.0], "utf-8") == "▁▅█"
    assert demo.sparkline([0.0, 0.5, 1.0], "ascii") == "_=#"


def test_lines_appear_every_few_rounds_and_estimate_from_the_second(capsys: pytest.CaptureFixture[str]) -> None:
    on_round = demo.Lines().run(demo.SCENARIOS[0], 12)
    for number in range(1, 13):
        on_round(number, {"bytes_up": 100.0, "clients_admitted": 8.0, "accuracy": 0.5})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == ["1/12", "5/12", "10/12", "12/12"]
    assert "left" not in lines[0]
    assert "up 1.2 kB" in lines[-1]
    assert lines[-1].endswith("0.0 s left")


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    demo.plot([outcome(scenario, 0, 0.5) for scenario in demo.SCENARIOS], 0.9, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert math.isclose(demo.Outcome(demo.SCENARIOS[0], 0, [0.2, 0.4], 1.0, 1, tmp_path).accuracy, 0.4)
