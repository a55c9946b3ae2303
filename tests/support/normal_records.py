"""Small tables of normal records with two strong directions, uneven over devices; a task that a configuration can name."""

from functools import partial

import numpy as np

from edgehold.client.data.anomaly import first_weights, score
from edgehold.core.anomaly import Reading, names_digest, schema_of
from edgehold.core.tables import Records, TableTask

COLUMNS = tuple("abcdef")
ENTRY = "tests.support.normal_records:normal_records"


def normal_records(device_index: int, devices: int = 0, spoiled: int = -1) -> TableTask:
    """Device `device_index`; -1: test records, the last third of them attacks. spoiled: device with a value that is none."""
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
    if device_index == spoiled:
        x[7, 2] = np.nan
    none = np.zeros(0, dtype=np.int64)
    return TableTask(schema, Records(x[:70], none, COLUMNS), None, first, judge, Records(x[70:], none, COLUMNS))
