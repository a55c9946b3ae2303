"""Tasks of linear models: least squares where the target is a number, logistic regression where it is one of two classes.

In a device's configuration: task = "edgehold.client.data.linear:make_task", options = { dataset = "beijing-air",
path = "/data/beijing-air", partition = "groups", devices = 12, device_index = 3, target = "PM2.5" }. NumPy alone.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from edgehold.client.data.dataset import Dataset
from edgehold.client.data.deal import Deal, deal
from edgehold.client.data.names import one_of
from edgehold.core import table_networks
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.tables import Records, TableTask
from edgehold.core.vectors import Array, FloatArray, Schema, Tensor

INTERCEPT = "intercept"


def make_task(
    dataset: str,
    path: str = "",
    device_index: int | None = 0,
    devices: int = 1,
    partition: str = "iid",
    alpha: float = 1.0,
    columns: Sequence[str] = (),
    target: str = "",
    every: int = 1,
    limit: int | None = None,
    test_limit: int | None = None,
    variance: float = 0.0,
    weight: float = 1.0,
    seed: int = 0,
    verify: bool = True,
    data: Mapping[str, Any] | None = None,
) -> TableTask:
    """Device `device_index` of `devices` (from 0); -1 or None: only the test records.

    columns: which features, () for all; an intercept is added. target: a feature to predict instead of the data set's own
    target. Features and numbers to predict are standardised by the whole training part. every: only each n-th record.
    variance: of the target's noise on this device; 0: that of what a line of its own leaves over, where the target is a number.
    weight: factor of this device's loss, beside one over that variance.
    """
    dealt = deal(
        dataset, path, devices=devices, partition=partition, alpha=alpha, scale="standard", seed=seed, verify=verify, data=data
    )
    return task_of(dealt, device_index, columns, target, every, limit, test_limit, variance, weight)


def task_of(
    dealt: Deal,
    device_index: int | None,
    columns: Sequence[str] = (),
    target: str = "",
    every: int = 1,
    limit: int | None = None,
    test_limit: int | None = None,
    variance: float = 0.0,
    weight: float = 1.0,
) -> TableTask:
    """One device's task from standardised records: for a process that plays many devices and loads once. As in `make_task`."""
    view = _View(dealt.split.train, tuple(columns), target)
    schema = Schema((Tensor("x", (len(view.columns) + 1,)),))
    server = device_index is None or device_index == -1
    test = view.records(dealt.test(None, test_limit))
    judge = accuracy if test.classes else partial(errors, view.width)
    if server:
        handed = partial(table_networks.linear, test)
        return TableTask(schema, None, test, partial(zeros, schema.size), judge, network=handed)
    assert device_index is not None
    mine = dealt.train(device_index)
    for name, value in (("every", every), ("limit", limit)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} = {value}; at least 1", field=name)
    if not (0 <= variance < np.inf and 0 < weight < np.inf):
        raise ConfigError(
            f"variance = {variance}, weight = {weight}; neither may be negative, and weight not 0", field="weight"
        )
    rows = np.arange(0, len(mine), every)[:limit]
    if not len(rows):
        raise ConfigError("this device has no training records; give it some or take it off the run", field="device_index")
    found = view.records(mine.take(rows))
    if not found.classes:
        weight /= variance or left_over(found)
    return TableTask(schema, found, test, partial(zeros, schema.size), judge, weight=weight)


class _View:
    """Columns and target of a data set, standardised; the first columns are the features, the last one is 1."""

    def __init__(self, whole: Dataset, columns: tuple[str, ...], target: str) -> None:
        if whole.raw.ndim != 2 or not whole.features:
            raise ConfigError(f"dataset = {whole.name!r}: no table of columns", field="dataset")
        if not target and whole.classes and len(whole.classes) != 2:
            raise ConfigError(
                f"{whole.name}: {len(whole.classes)} classes; a linear model here tells two apart", field="dataset"
            )
        self._target = whole.features.index(one_of("target", target, whole.features)) if target else None
        self.columns = columns or tuple(name for name in whole.features if name != target)
        if target in self.columns:
            raise ConfigError(f"target {target!r} is among the columns; a model would only copy it", field="columns")
        self._at = [whole.features.index(one_of("columns", name, whole.features)) for name in self.columns]
        self._classes = () if target else whole.classes
        self._shift, self.width = 0.0, 1.0
        if not self._classes:
            values = (whole.raw[:, self._target] if self._target is not None else whole.y).astype(np.float64)
            self._shift, self.width = float(values.mean()), float(values.std()) or 1.0

    def records(self, of: Dataset) -> Records:
        """(n, features + 1) float32 and targets."""
        x = np.hstack([of.x[:, self._at], np.ones((len(of), 1), np.float32)])
        y: Array = of.y
        if not self._classes:
            raw = of.raw[:, self._target] if self._target is not None else of.y
            y = ((raw.astype(np.float64) - self._shift) / self.width).astype(np.float32)
        return Records(x, y, (*self.columns, INTERCEPT), self._classes)


def left_over(records: Records) -> float:
    """Variance of what the records' own least-squares line leaves over; `ConfigError` where nothing is."""
    h, y = records.x.astype(np.float64), records.y.astype(np.float64)
    freedom = len(h) - np.linalg.matrix_rank(h)
    rest = float(np.square(y - h @ np.linalg.lstsq(h, y, rcond=None)[0]).sum())
    if freedom < 1 or rest <= 0:
        raise ConfigError(
            f"{len(h)} records fit {h.shape[1]} weights exactly, so their noise cannot be told; give `variance`",
            field="variance",
        )
    return rest / float(freedom)


def zeros(size: int, seed: int) -> FloatArray:
    """Where the method starts, whatever the seed."""
    return np.zeros(size, dtype=np.float32)


def errors(width: float, weights: FloatArray, records: Records) -> dict[str, float]:
    """loss: mean square of the standardised error; mae: mean absolute error in the target's own unit."""
    wrong = records.x.astype(np.float64) @ weights - records.y
    return {"loss": float(np.square(wrong).mean()), "mae": width * float(np.abs(wrong).mean())}


def accuracy(weights: FloatArray, records: Records) -> dict[str, float]:
    """accuracy, and loss: the mean logistic loss."""
    margins = records.x.astype(np.float64) @ weights
    signs = 2.0 * records.y - 1.0
    losses = np.logaddexp(0.0, -signs * margins)
    return {"accuracy": float(((margins > 0) == (records.y == 1)).mean()), "loss": float(losses.mean())}


def synthetic(device_index: int | None = 0, devices: int = 100, length: int = 128, seed: int = 0) -> TableTask:
    """The set-up of the authors' scripts: y = H x + e, e of deviation 0.01, and 51 to 90 records a device, fewer than weights.

    Rows of H are mu + N(0, v), mu uniform in -0.5..0.5 and v in 0.5..1.5 for each device; x is N(0, 1). The server's copy
    (-1 or None) scores by nmsd_db, the squared distance to x over the square of x, in dB.
    """
    x = stream(seed, "admm", "x").standard_normal(length)
    schema = Schema((Tensor("x", (length,)),))
    if device_index is None or device_index == -1:
        test = Records(x[None, :], np.zeros(1))
        return TableTask(schema, None, test, partial(zeros, length), distance)
    rng = stream(seed, "admm", "device", device_index)
    rows = int(rng.integers(51, 91))
    h = rng.uniform(-0.5, 0.5) + np.sqrt(rng.uniform(0.5, 1.5)) * rng.standard_normal((rows, length))
    y = h @ x + 0.01 * rng.standard_normal(rows)
    return TableTask(schema, Records(h, y), None, partial(zeros, length), distance, weight=1e4)


def distance(weights: FloatArray, records: Records) -> dict[str, float]:
    """nmsd_db of weights, where the one test record is the solution itself."""
    x = records.x[0]
    return {"nmsd_db": float(10 * np.log10(np.square(weights - x).sum() / np.square(x).sum()))}
