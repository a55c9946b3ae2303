"""Linear models over real tables: consensus reaches what all records together give, whatever classes a device has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehold.client.data.deal import deal
from edgehold.client.data.linear import make_task, task_of
from edgehold.core.errors import ConfigError
from edgehold.core.plan import parse_plan
from edgehold.core.tables import TableTask
from edgehold.defenses import registry
from edgehold.defenses.noise_robust_admm.problems import Logistic, problem_of
from edgehold.server import engine

Real = Callable[[str], Path]


def played(tasks: dict[str, TableTask], asked: int, rounds: int, own: TableTask | None = None, **how: Any) -> engine.Result:
    method = "\n".join(f"{key} = {value!r}" for key, value in how.items())
    plan, settings = parse_plan(
        f'[run]\nname = "linear"\nrounds = {rounds}\ntask = "t"\nseed = 1\n[cohort]\nsize = {asked}\nover_select = 1.0\n'
        f'[evaluation]\nevery = {rounds}\n[method]\nname = "noise_robust_admm"\nrho_rule = "mean_eigenvalue"\n{method}\n',
        registry.method,
    )
    return engine.run(plan, settings, tasks, own)


def fleet(dataset: str, path: Path, devices: int, partition: str, **how: Any) -> tuple[dict[str, TableTask], TableTask]:
    dealt = deal(dataset, str(path), devices=devices, partition=partition, scale="standard")
    return {f"d{i:02}": task_of(dealt, i, **how) for i in range(devices)}, task_of(dealt, -1, **how)


def pooled(tasks: dict[str, TableTask]) -> tuple[Logistic, Any]:
    """The loss of all records, and where it is smallest."""
    every = [task.train_data for task in tasks.values() if task.train_data is not None]
    h = np.concatenate([one.x for one in every]).astype(np.float64)
    whole = Logistic(h, 2.0 * np.concatenate([one.y for one in every]) - 1.0, 1.0, 1e-9, 200)
    nothing = np.zeros(h.shape[1])
    return whole, whole.prox(nothing, nothing, 1e-6, nothing)


@pytest.mark.parametrize(("partition", "asked"), [("groups", 4), ("one-class", 2)])
def test_hospitals_reach_what_their_patients_together_give(real: Real, partition: str, asked: int) -> None:
    """Also where every hospital has patients of one kind alone: then nobody could fit anything by himself."""
    tasks, own = fleet("heart-disease", real("heart-disease"), 4, partition)
    kinds = [set(task.train_data.y.tolist()) for task in tasks.values() if task.train_data is not None]
    assert all(len(kind) == (2 if partition == "groups" else 1) for kind in kinds)
    result = played(tasks, asked, 400, own, rho=0.5)
    whole, best = pooled(tasks)
    found, nothing = result.model.whole().astype(np.float64), np.zeros(len(best))
    records = sum(task.samples for task in tasks.values())
    excess = [(whole._value(x, nothing, nothing, 0.0) - whole._value(best, nothing, nothing, 0.0)) / records
              for x in (found, nothing)]  # fmt: skip
    assert excess[0] < 0.005 < 0.2 < excess[1]
    assert abs(result.rounds[-1]["loss"] - own.evaluate(best.astype(np.float32))["loss"]) < 0.02


def test_occupations_learn_income_though_one_has_nine_people(real: Real) -> None:
    tasks, own = fleet("adult", real("adult"), 15, "groups")
    assert min(task.samples for task in tasks.values()) == 9
    last = played(tasks, 5, 25, own, rho=0.3).rounds[-1]
    assert last["accuracy"] > 0.83  # the larger class is 0.764 of the test records
    assert last["loss"] < 0.36


def test_stations_agree_on_one_line(real: Real) -> None:
    how: dict[str, Any] = {"columns": ("PM10", "TEMP", "DEWP", "WSPM"), "target": "PM2.5", "every": 10, "weight": 1e-3}
    dealt = deal("beijing-air", str(real("beijing-air")), devices=2, partition="groups", scale="standard",
                 data={"stations": ["Dingling", "Wanliu"]})  # fmt: skip
    tasks = {f"d{i}": task_of(dealt, i, **how) for i in range(2)}
    a, b = np.zeros((5, 5)), np.zeros(5)
    for task in tasks.values():
        one: Any = problem_of(task, 0.1, 10)
        a, b = a + one.a, b + one.b
    found = played(tasks, 1, 400, rho=1.0, wire="float64").model.whole()
    best = np.linalg.solve(a, b)
    assert np.linalg.norm(found - best) < 1e-6 * np.linalg.norm(best)
    alone = np.linalg.solve(*[getattr(problem_of(tasks["d0"], 0.1, 10), part) for part in ("a", "b")])
    assert np.linalg.norm(alone - best) > 1e-2 * np.linalg.norm(best), "control: one station alone does not know"


@pytest.mark.parametrize(
    ("rows", "how", "said"),
    [
        ("1,a,2\n2,b,3\n", {}, "column 'b', row 1 is 'a'"),
        ("1,nan,2\n2,1,3\n", {}, "column 'b', row 1 is 'nan'"),
        ("1,,2\n2,1,3\n", {}, "row 1 is empty"),
        ("1,2,3\n2,4,5\n3,1,1\n4,5,6\n5,2,2\n", {"devices": 9}, "cannot give 9 devices 1 each"),
        ("1,2,3\n2,4,5\n3,1,1\n4,5,6\n5,2,2\n", {"every": 0}, "every = 0"),
        ("1,2,3\n2,4,5\n3,1,1\n4,5,6\n5,2,2\n", {"limit": -1}, "limit = -1"),
        ("1,2,3\n2,4,5\n3,1,1\n4,5,6\n5,2,2\n", {"weight": 0.0}, "weight = 0.0"),
        ("1,2,3\n2,4,5\n3,1,1\n4,5,6\n5,2,2\n", {"variance": -1.0}, "variance = -1.0"),
        ("1,2,3\n2,4,5\n3,1,1\n4,5,6\n5,2,2\n", {"columns": ["c"]}, "columns = 'c'"),
        ("1,2,3\n2,4,5\n3,1,1\n4,5,6\n5,2,2\n", {}, "give `variance`"),
    ],
)
def test_tables_that_cannot_be_used_are_named(tmp_path: Path, rows: str, how: dict[str, Any], said: str) -> None:
    (tmp_path / "t.csv").write_text("a,b,y\n" + rows, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        make_task("table", str(tmp_path / "t.csv"), 0, **{"devices": 2, "data": {"label": "y", "test_share": 0.4}, **how})


def test_an_empty_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,y\n" + "\n".join(f"{i},{i % 2}" for i in range(10)), encoding="utf-8")
    dealt = deal("table", str(tmp_path / "t.csv"), data={"label": "y"}, devices=2)
    dealt.parts[1] = dealt.parts[1][:0]
    with pytest.raises(ConfigError, match="no training records"):
        task_of(dealt, 1)


def test_a_constant_column_is_shared_with_the_intercept(tmp_path: Path) -> None:
    rows = "\n".join(f"{i % 7},5,{2 * (i % 7) + (i % 3)}" for i in range(60))
    (tmp_path / "t.csv").write_text(f"a,same,y\n{rows}\n", encoding="utf-8")
    tasks = {f"d{i}": make_task("table", str(tmp_path / "t.csv"), i, 3, data={"label": "y"}) for i in range(3)}
    own = make_task("table", str(tmp_path / "t.csv"), -1, 3, data={"label": "y"})
    result = played(tasks, 3, 60, own, rho=1.0)
    assert np.isfinite(result.model.whole()).all()
    assert result.rounds[-1]["mae"] < 0.9
