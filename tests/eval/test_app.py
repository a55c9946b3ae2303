"""`fl-eval` as a person meets it: simulations that go on, answers in JSON, refusals in one line, exit codes."""

import json
import sqlite3
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file

from edgehold.attacks.byzantine import registry as attack_registry
from edgehold.attacks.eval import app, reproductions
from edgehold.attacks.eval.bars import Bar, Report, Table
from edgehold.attacks.eval.cells import Cell, Played
from edgehold.attacks.eval.screen import progress
from edgehold.client.data import frozen
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.server import engine

DIGITS = "edgehold.client.data.digits:make_task"
TASKS = "edgehold.client.data.tasks:make_task"
FROZEN = "edgehold.client.data.frozen:make_task"


def fl_eval(*arguments: str | Path, expect: int = 0) -> Result:
    found = CliRunner().invoke(app.main, [str(one) for one in arguments])
    assert found.exit_code == expect, found.output
    return found


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text('[run]\nname = "sim"\nrounds = 3\ntask = "t"\n[cohort]\nsize = 5\n[method]\nname = "fedavg"\n')
    return path


def test_help_teaches() -> None:
    for words in ((), ("simulate",), ("reproduce",), ("facts",), ("attacks",)):
        text = fl_eval(*words, "--help").output
        assert "Usage" in text
    assert "fl-eval simulate plan.toml" in fl_eval("simulate", "--help").output
    assert "3 a bar does not hold" in fl_eval("--help").output
    listed = fl_eval("reproduce", "--list").output
    assert all(name in listed for name in reproductions.REPRODUCTIONS)


def test_a_simulation_is_the_engine_and_keeps_what_it_made(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "sim"
    arguments = ("simulate", plan, "--clients", "12", "--task", DIGITS, "--option", "alpha=0.5", "--out", out)
    found: dict[str, Any] = json.loads(fl_eval(*arguments, "--json").stdout)
    fleet = engine.VirtualFleet(DIGITS, {"alpha": 0.5}, 12)
    whole = engine.run(*parse_plan(plan.read_text(), registry.method), fleet, fleet.own_copy())
    assert found["digest"] == whole.digest.hex()
    assert found["facts"] == whole.rounds
    assert (found["rounds"], found["rounds_played_now"]) == (3, 3)
    assert json.loads((out / "result.json").read_text()) == found
    weights = load_file(out / "model.safetensors")
    assert sum(values.size for values in weights.values()) == whole.model.size
    kept = json.loads(fl_eval("facts", out, "--json").stdout)
    assert [one["accuracy"] for one in kept] == [facts["accuracy"] for facts in whole.rounds]
    assert all(one["seconds"] > 0 for one in kept)
    assert "accuracy" in fl_eval("facts", out).stdout
    # What is there is not played over by accident; told to go on, there is nothing left to play.
    assert "--resume" in fl_eval(*arguments, expect=1).output
    again = json.loads(fl_eval(*arguments, "--json", "--resume").stdout)
    assert (again["digest"], again["rounds_played_now"]) == (found["digest"], 0)


def test_a_simulation_cut_off_goes_on(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "sim"
    arguments = ("simulate", plan, "--clients", "8", "--task", DIGITS, "--out", out, "--json")
    whole = json.loads(fl_eval(*arguments).stdout)
    with sqlite3.connect(out / "run.sqlite") as db:
        # As after a kill in the middle of round 1: the file is there, no round is.
        db.executescript("DELETE FROM rounds; DELETE FROM state; DELETE FROM local;")
    db.close()
    assert json.loads(fl_eval("facts", out, "--json").stdout) == []
    assert "no round" in fl_eval("facts", out).stdout
    found = json.loads(fl_eval(*arguments, "--resume").stdout)
    assert (found["digest"], found["rounds_played_now"]) == (whole["digest"], 3)


def test_liars_lie(plan: Path) -> None:
    arguments = ("simulate", plan, "--clients", "5", "--task", DIGITS, "--json")
    honest = json.loads(fl_eval(*arguments).stdout)
    lies = ("--liars", "2", "--adversary", "edgehold.attacks.byzantine.gaussian:not_finite", "--adversary-option", "value=inf")
    found = json.loads(fl_eval(*arguments, *lies, expect=1).stderr)
    assert found["error"] == "fl_error"
    assert "not_finite" in found["message"]
    flip = ("--liars", "1", "--adversary", "edgehold.attacks.byzantine.sign_flip:make", "--adversary-option", "scale=3.0")
    assert json.loads(fl_eval(*arguments, *flip).stdout)["digest"] != honest["digest"]


def test_attacks_are_listed() -> None:
    found = json.loads(fl_eval("attacks", "--json").stdout)
    assert [one["name"] for one in found] == list(attack_registry.ATTACKS)
    assert {one["needs"] for one in found} == {"K0", "K1", "K1+A", "K2"}
    text = fl_eval("attacks").stdout
    assert all(one["name"] in text for one in found)
    assert "Shejwalkar" in fl_eval("attacks", "min_max").stdout
    assert json.loads(fl_eval("attacks", "mimic", "--json").stdout)[0]["needs"] == "K2"
    assert 'did you mean "min_max"' in fl_eval("attacks", "minmax", expect=1).stderr


def test_entries_of_attacks_exist() -> None:
    for card in attack_registry.ATTACKS.values():
        module, _, name = card.entry.partition(":")
        assert callable(getattr(import_module(module), name)), card
        assert card.nist in ("Model Poisoning", "Availability Poisoning", "Targeted Poisoning", "Backdoor Poisoning")
        assert card.goal in ("availability", "integrity")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--clients", "3", "--task", DIGITS), "a round needs 4 updates"),
        (("--clients", "8", "--task", DIGITS, "--resume"), "give --out too"),
        (("--clients", "8", "--task", DIGITS, "--liars", "2"), "liars need an adversary"),
        (("--clients", "8", "--task", "no.such:task"), "no.such:task"),
        (("--clients", "8", "--task", DIGITS, "--option", "alhpa=1"), "alhpa"),
    ],
)
def test_refusals_are_one_line(plan: Path, arguments: Sequence[str], said: str) -> None:
    found = fl_eval("simulate", plan, *arguments, expect=1)
    assert said in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1


def test_data_sets_are_loaded_once_for_all_clients(plan: Path) -> None:
    from edgehold.attacks.eval import dealt
    from edgehold.client.data import tasks

    arguments = ("--task", "edgehold.client.data.tasks:make_task", "--option", "dataset=digits", "--option", 'model="mlp"')
    dealt._kept.cache_clear()
    found = json.loads(fl_eval("simulate", plan, "--clients", "6", *arguments, "--json").stdout)
    assert dealt._kept.cache_info().misses == 1
    # The same records for the same clients as the devices have.
    plain = {f"c{i:04}": tasks.make_task("digits", device_index=i, devices=6, model="mlp") for i in range(6)}
    own = tasks.make_task("digits", devices=6, model="mlp")
    assert found["digest"] == engine.run(*parse_plan(plan.read_text(), registry.method), plain, own).digest.hex()


class Toy:
    """A reproduction of two cells."""

    NAME = "toy"
    SUMMARY = "two numbers"
    played: list[int]
    target = 5.0

    def __init__(self) -> None:
        self.played = []

    def cells(self, options: reproductions.Options) -> list[Cell]:
        return [{"number": number} for number in range(options.seeds)]

    def play(self, cell: Cell, data: Path | None) -> dict[str, float]:
        self.played.append(cell["number"])
        return {"square": float(cell["number"] ** 2)}

    def judge(self, options: reproductions.Options, played: Sequence[Played]) -> Report:
        total = sum(one.value["square"] for one in played)
        return Report([Bar("sum of squares", self.target, total, 0.0)], [Table("t", ("a",), [["1"]])], ["A note."])


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    one = Toy()
    monkeypatch.setattr(reproductions, "find", lambda name: one)
    return one


def test_a_trained_model_becomes_the_backbone_of_devices_without_pytorch(plan: Path, tmp_path: Path) -> None:
    fl_eval("simulate", plan, "--clients", "5", "--task", DIGITS, "--workers", "1", "--out", tmp_path / "sim")
    model, file = tmp_path / "sim" / "model.safetensors", tmp_path / "backbone.onnx"
    told = fl_eval(
        "export-backbone", "--task", TASKS, "--option", "dataset=digits", "--weights", model, "--out", file, "--json"
    )
    found = json.loads(told.stdout)
    assert found["features"] == 64
    task = frozen.make_task(device_index=0, devices=3, backbone=str(file), sha256=found["sha256"])
    assert task.train_data is not None
    assert task.test_data is not None
    assert task.train_data.x.shape == (20, 64)
    weights = load_file(model)
    records = frozen.split_of("digits").test.x
    hidden = np.maximum(records @ weights["0.weight"].T + weights["0.bias"], 0)
    assert np.allclose(task.test_data.x, hidden, atol=1e-5)
    for arguments, says in (
        (("--task", FROZEN, "--weights", model), "makes a TableTask; only models of PyTorch"),
        (("--task", TASKS, "--option", "dataset=digits", "--weights", tmp_path / "gone"), "no such file"),
        (
            ("--task", TASKS, "--option", "dataset=digits", "--option", "model=logistic", "--weights", model),
            "not those of this",
        ),
    ):
        assert says in fl_eval("export-backbone", *arguments, "--out", tmp_path / "x", expect=1).stderr
    assert not (tmp_path / "x").exists()


def test_a_bar_that_does_not_hold_is_exit_code_3(toy: Toy, tmp_path: Path) -> None:
    file = tmp_path / "toy.json"
    good = fl_eval("reproduce", "toy", "--seeds", "3", "--workers", "1", "--json", file)
    found = json.loads(file.read_text())
    assert found["method"] == "toy"
    assert found["bars"] == [
        {"name": "sum of squares", "target": 5.0, "value": 5.0, "spread": 0.0, "sense": "<=", "holds": True}
    ]
    assert {"seconds", "processor_seconds", "seeds", "commits", "cells"} <= set(found)
    assert "sum of squares" in good.stdout
    assert "A note." in good.stdout
    toy.target = 4.9
    bad = fl_eval("reproduce", "toy", "--seeds", "3", "--workers", "1", expect=3)
    assert "NO" in bad.stdout
    assert (
        json.loads(fl_eval("reproduce", "toy", "--workers", "1", "--json", "-", expect=3).stdout)["bars"][0]["holds"] is False
    )


def test_a_result_becomes_the_measured_part_of_a_card(toy: Toy, tmp_path: Path) -> None:
    result, card = tmp_path / "toy.json", tmp_path / "card.md"
    fl_eval("reproduce", "toy", "--seeds", "3", "--workers", "1", "--json", result)
    assert "| sum of squares | <= 5 | 5.0000 | 0.0000 | yes |" in fl_eval("render", result).stdout
    card.write_text("# Toy\n\n<!-- measured -->\nformer\n<!-- /measured -->\n\nend\n")
    fl_eval("render", result, "--into", card)
    text = card.read_text()
    assert "former" not in text
    assert "`fl-eval reproduce toy --seeds 3`: 3 runs" in text
    assert text.startswith("# Toy\n\n<!-- measured -->\n")
    assert text.endswith("- A note.\n<!-- /measured -->\n\nend\n")
    card.write_text("# Toy\n")
    assert "no place" in fl_eval("render", result, "--into", card, expect=1).stderr


def test_finished_cells_are_not_played_again(toy: Toy, tmp_path: Path) -> None:
    fl_eval("reproduce", "toy", "--seeds", "2", "--workers", "1", "--out", tmp_path)
    kept = tmp_path / "toy.jsonl"
    kept.write_text(kept.read_text()[:-5])  # killed in the middle of a line
    fl_eval("reproduce", "toy", "--seeds", "3", "--workers", "1", "--out", tmp_path, "--json", tmp_path / "found.json")
    assert toy.played == [0, 1, 1, 2]
    assert [one["value"]["square"] for one in json.loads((tmp_path / "found.json").read_text())["cells"]] == [0, 1, 4]


def test_unknown_reproductions_and_folders_are_refused() -> None:
    assert 'did you mean "fedavg"' in fl_eval("reproduce", "fedavgg", expect=1).stderr
    assert "no such folder" in fl_eval("reproduce", "fedavg", "--data", "/no/such/folder", expect=1).stderr


def test_progress_is_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("work", 3, "rounds") as tell:
        for step in (1, 2, 3):
            tell(step, f"said {step}")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith("work  1/3 rounds")
    assert lines[-1].startswith("work  3/3 rounds")
    assert len(lines) == 2  # the second came too soon after the first
