"""Heads over features of any table with classes: the user's own, and those of the catalogue."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehold.client.data.kernel import make_task
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.vectors import Vector
from edgehold.defenses import registry
from edgehold.defenses.floral.features import head_of
from edgehold.defenses.floral.state import Order, Training


def trained(options: dict[str, Any], **how: Any) -> dict[str, float]:
    """Metrics of one device's head on its test records."""
    task = make_task(device_index=0, devices=4, count=128, **options)
    order = Order(Vector.of(task.initial(0)), Training(gamma=options["gamma"], count=128, flips=0.02, **how), 1)
    half, rng = registry.client_side("floral"), stream(1)
    _, update, _ = half.work(order, half.begin(order, task, rng), task, rng)
    return task.evaluate(update.delta.whole())


def written(path: Path, cell: str = "") -> dict[str, Any]:
    """A CSV file of 200 flows whose verdict follows the sign of a; `cell` stands in row 3 of column b."""
    rng = np.random.default_rng(0)
    lines = ["a,b,site,verdict"]
    for row in range(200):
        a, b = rng.standard_normal(2)
        lines.append(f"{a:.4f},{cell if cell and row == 2 else f'{b:.4f}'},s{row % 2},{'bad' if a > 0 else 'good'}")
    path.write_text("\n".join(lines))
    data = {"label": "verdict", "classes": ["good", "bad"], "numbers": ["a", "b"], "categories": {"site": ["s0", "s1"]}}
    return {"dataset": "table", "path": str(path), "data": data, "gamma": 0.2}


def test_your_own_table(tmp_path: Path) -> None:
    options = written(tmp_path / "flows.csv")
    assert trained(options)["accuracy"] > 0.85  # by chance 0.5
    assert head_of(make_task(device_index=-1, devices=4, **options).schema).inputs == 4


@pytest.mark.parametrize("cell", ["nan", "inf", "red", ""])
def test_a_cell_that_is_no_number_is_named(tmp_path: Path, cell: str) -> None:
    options = written(tmp_path / "flows.csv", cell or " ")
    with pytest.raises(ConfigError, match="column 'b', row 3 is"):
        trained(options)
    # Declared as missing it becomes the mean, and a column of its own.
    options["data"] |= {"missing": [cell]}
    assert head_of(make_task(device_index=0, devices=4, **options).schema).inputs == 5


def test_a_text_column_and_a_number_to_predict_are_named(tmp_path: Path) -> None:
    options = written(tmp_path / "flows.csv")
    text = options | {"data": options["data"] | {"numbers": ["a", "site"], "categories": {}}}
    with pytest.raises(ConfigError, match="column 'site', row 1 is 's0'; expected a finite number"):
        trained(text)
    number = options | {"data": options["data"] | {"label": "b", "classes": [], "numbers": ["a"]}}
    with pytest.raises(ConfigError, match="choose a table with classes"):
        trained(number)


@pytest.mark.parametrize(("dataset", "gamma", "least"), [("heart-disease", 0.02, 0.75), ("nsl-kdd", 0.01, 0.7)])
def test_tables_of_the_catalogue(real: Callable[[str], Path], dataset: str, gamma: float, least: float) -> None:
    options = {"dataset": dataset, "path": str(real(dataset)), "limit": 400, "gamma": gamma}
    metrics = trained(options)
    assert metrics["accuracy"] > least
    assert ("balanced_accuracy" in metrics) == (dataset == "nsl-kdd")
