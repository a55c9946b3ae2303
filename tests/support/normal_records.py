"""Small tables of normal records with two strong directions, uneven over devices; a task that a configuration can name."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgehold.client.data.anomaly import first_weights, score
from edgehold.core.anomaly import Reading, names_digest, schema_of
from edgehold.core.tables import Records, TableTask

COLUMNS = tuple("abcdef")
ENTRY = "edgehold.client.data.anomaly:make_task"


def normal_records(device_index: int) -> TableTask:
    """Device `device_index`; -1: test records, the last third of them attacks."""
    rng = np.random.default_rng(device_index + 1)
    mix = np.random.default_rng(99).standard_normal((2, len(COLUMNS)))
    strength = (1 + device_index % 3, 2 - device_index % 2)
    x = rng.standard_normal((90, 2)) * strength @ mix + 0.3 * rng.standard_normal((90, len(COLUMNS)))
    schema = schema_of(len(COLUMNS), 2)
    first = partial(first_weights, schema, Reading("none", 5.0, names_digest(COLUMNS)))
    judge = partial(score, schema)
    if device_index == -1:
        x[60:] += 4 * rng.standard_normal((30, len(COLUMNS)))
        attack = np.arange(90) >= 60
        return TableTask(schema, None, Records(x, attack.astype(np.int64), COLUMNS, ("normal", "attack")), first, judge)
    none = np.zeros(0, dtype=np.int64)
    return TableTask(schema, Records(x[:70], none, COLUMNS), None, first, judge, Records(x[70:], none, COLUMNS))


def options(folder: Path, index: int, spoiled: bool = False) -> dict[str, Any]:
    """Arguments of `ENTRY` for one device, whose records are written to a file. spoiled: one of them is no number."""
    task = normal_records(index)
    records = task.train_data if task.test_data is None else task.test_data
    assert records is not None
    lines = [",".join((*COLUMNS, "kind"))]
    for number, row in enumerate(records.x):
        kind = "bad" if len(records.y) and records.y[number] else "good"
        cells = [f"{value:.9g}" for value in row]
        lines.append(",".join(["tcp" if spoiled and number == 7 else cells[0], *cells[1:], kind]))
    path = folder / f"records-{index}.csv"
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    found: dict[str, Any] = {"path": str(path), "components": 2, "curve": "none"}
    if index != -1:
        return found | {"held_share": 0.2, "data": {"numbers": list(COLUMNS)}}
    data = {"label": "kind", "classes": ["good", "bad"], "numbers": list(COLUMNS), "test_share": 0.9}
    return found | {"device_index": -1, "data": data}
