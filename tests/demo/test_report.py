"""What the demo ends with: table, picture, JSON."""

import json
import math
import os
from pathlib import Path

from edgehold.attacks.demo.comparison import comparison, sparkline
from edgehold.attacks.demo.memory import Peaks, peak_mb
from edgehold.attacks.demo.outcome import Outcome
from edgehold.attacks.demo.plan import SCENARIOS, Scenario
from edgehold.attacks.demo.report import Report


def outcome(scenario: Scenario, seed: int, accuracy: float) -> Outcome:
    return Outcome(scenario, seed, [0.1, accuracy], 2.0, 1000, Path(f"{scenario.name}.safetensors"))


def report() -> Report:
    return Report([outcome(scenario, 0, 0.5) for scenario in SCENARIOS], 0.9, Peaks(90.04, 326.0, 361.0))


def test_the_table_gives_the_mean_and_the_spread_of_seeds() -> None:
    scores = {"clean": (0.9, 1.0), "attacked": (0.1, 0.3), "defended": (0.8, 0.9)}
    many = [outcome(scenario, seed, scores[scenario.name][seed]) for seed in (0, 1) for scenario in SCENARIOS]
    titles, *rows = comparison(many, 0.96).splitlines()
    assert "LOWEST TO HIGHEST" in titles
    assert [row.split()[0] for row in rows] == list(scores)
    assert rows[0].split()[5:11] == ["0.950", "0.900", "to", "1.000", "-0.010", "2"]
    assert "2 of 8" in rows[1]
    assert "LOWEST" not in comparison([outcome(scenario, 0, 0.5) for scenario in SCENARIOS], 0.96)


def test_sparklines() -> None:
    assert sparkline([0.0, 0.5, 1.0], "utf-8") == "▁▅█"
    assert sparkline([0.0, 0.5, 1.0], "ascii") == "_=#"


def test_a_run_ends_with_the_accuracy_of_its_last_round() -> None:
    assert math.isclose(Outcome(SCENARIOS[0], 0, [0.2, 0.4], 1.0, 1, Path()).accuracy, 0.4)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    report().draw(tmp_path)
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_the_last_lines_say_where_things_are() -> None:
    lines = report().text(Path("out")).splitlines()
    assert lines[5:] == [
        "Accuracy of the same model trained in one place on all records: 0.900",
        "Peak memory: fl-server 90 MB (and its scoring process 326 MB), largest fl-client 361 MB",
        "Models: out/clean.safetensors, out/attacked.safetensors, out/defended.safetensors",
        "Picture: out/accuracy.png; logs: out/logs",
    ]


def test_the_json_file_has_every_run(tmp_path: Path) -> None:
    report().write(tmp_path / "demo.json")
    data = json.loads((tmp_path / "demo.json").read_text())
    assert list(data) == ["runs", "central_accuracy", "peak_rss_mb"]
    assert data["runs"][1] == {"name": "attacked", "accuracy": 0.5, "seconds": 2.0, "rounds": 2, "bytes_up": 1000, "seed": 0}
    assert data["peak_rss_mb"] == {"server": 90.0, "client": 361.0}


def test_a_process_that_is_gone_holds_nothing() -> None:
    assert peak_mb(os.getpid()) > 10
    assert peak_mb(2**22 + 1) == 0
