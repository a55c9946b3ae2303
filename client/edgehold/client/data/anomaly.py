"""Tasks of normal records, for methods that learn what is normal and then raise alarms. NumPy alone.

In a device's configuration: task = "edgehold.client.data.anomaly:make_task", options = { dataset = "table",
path = "/data/flows.csv", components = 2, data = { numbers = ["bytes", "packets", "seconds"] } }.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgehold.client.data import partition as ways
from edgehold.client.data.catalogue import load
from edgehold.client.data.columns import CsvTable, matrix
from edgehold.client.data.dataset import Dataset, Split
from edgehold.client.data.files import Known, combined, read, require, sources
from edgehold.client.data.names import one_of
from edgehold.client.data.partition import Indices
from edgehold.core import table_networks
from edgehold.core.anomaly import NEVER, Detector, Reading, metrics, names_digest, schema_of
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.tables import Records, TableTask
from edgehold.core.vectors import FloatArray, Schema

PARTITIONS = ("iid", "quantity", "groups", "sorted")
_TEXTS = ("nsl-kdd", "unsw-nb15")


def make_task(
    dataset: str = "table",
    path: str = "",
    device_index: int | None = 0,
    devices: int = 1,
    partition: str = "iid",
    sort_by: str = "",
    alpha: float = 1.0,
    min_records: int = 2,
    components: int = 2,
    columns: Sequence[str] = (),
    normal: str = "",
    held_share: float = 0.1,
    curve: str = "log",
    clip: float = 5.0,
    limit: int | None = None,
    test_limit: int | None = None,
    seed: int = 0,
    verify: bool = True,
    data: Mapping[str, Any] | None = None,
) -> TableTask:
    """Device `device_index` of `devices` (from 0) with normal records alone; -1 or None: the test records, attacks among them.

    partition: "iid", "quantity" (alpha), "groups" (natural clients), or "sorted": equal slices after sorting by `sort_by`.
    components: k, columns of the subspace. columns: which features, in which order; () for all that are numbers. normal: the
    class of normal records, "" for the first one. held_share: part of a device's records kept back for the threshold; 0: none.
    curve, clip: how the model reads columns; the word of the copy that makes the first weights (the server's) counts.
    limit, test_limit: at most so many records. data: options of the loader; a table without `label` holds normal records only.
    """
    split = opened(dataset, path, seed, verify, data)
    share = Share(split, devices, partition, sort_by, alpha, min_records, columns, normal, seed)
    return share.task(device_index, components, held_share, Reading(curve, clip), limit, test_limit)


def opened(dataset: str, path: str, seed: int = 0, verify: bool = True, data: Mapping[str, Any] | None = None) -> Split:
    """The data set, with classes; a table without `label` is one of normal records.

    Text columns, each value of which would be a column, are not even read: give data = { texts = true } to choose among them.
    """
    if dataset in _TEXTS:
        data = {"texts": False, **(data or {})}
    labelled = dataset != "table" or "label" in (data or {})
    split = load(dataset, path, seed, verify, data) if labelled else _unlabelled(path, **dict(data or {}))
    if split.train.raw.ndim != 2 or not split.train.features or not split.train.classes:
        raise ConfigError(f"dataset = {dataset!r}: no table of columns with classes; one kind must be normal", field="dataset")
    return split


class Share:
    """The normal records of a split dealt to devices, for processes that play many of them. Arguments as in `make_task`."""

    def __init__(
        self,
        split: Split,
        devices: int,
        partition: str = "iid",
        sort_by: str = "",
        alpha: float = 1.0,
        min_records: int = 2,
        columns: Sequence[str] = (),
        normal: str = "",
        seed: int = 0,
    ) -> None:
        one_of("partition", partition, PARTITIONS)
        chosen = tuple(columns) or tuple(name for name in split.train.features if "=" not in name)
        self._seed, self.columns = seed, chosen
        at = [split.train.features.index(one_of("columns", name, split.train.features)) for name in chosen]
        self._normal = split.train.classes.index(
            one_of("normal", normal, split.train.classes) if normal else split.train.classes[0]
        )
        self._train, self._test = (replace(part, raw=part.raw[:, at], features=chosen) for part in (split.train, split.test))
        rows = np.flatnonzero(self._train.y == self._normal)
        self._parts = [
            rows[part] for part in self._deal(self._train.take(rows), devices, partition, sort_by, alpha, min_records)
        ]

    def _deal(self, found: Dataset, devices: int, how: str, sort_by: str, alpha: float, least: int) -> list[Indices]:
        match how:
            case "sorted":
                key = found.raw[:, self.columns.index(one_of("sort_by", sort_by, self.columns))]
                if len(found) < devices * least:
                    raise ConfigError(
                        f"{len(found)} normal records cannot give {devices} devices {least} each; use fewer devices",
                        field="devices",
                    )
                return np.array_split(np.argsort(key, kind="stable"), devices)
            case "groups":
                if found.groups is None:
                    raise ConfigError('partition = "groups": these records have no natural clients', field="partition")
                return ways.by_group(found.groups, devices, self._seed, least)
            case "quantity":
                return ways.quantity(len(found), devices, alpha, self._seed, least)
        return ways.iid(len(found), devices, self._seed, least)

    def task(
        self,
        device: int | None,
        components: int,
        held_share: float,
        reading: Reading,
        limit: int | None,
        test_limit: int | None,
    ) -> TableTask:
        """One device's task; -1 or None: the server's copy."""
        if not 0 <= held_share < 1:
            raise ConfigError(f"held_share = {held_share}; allowed: 0 (none) to below 1", field="held_share")
        schema = schema_of(len(self.columns), components)
        told = Reading(reading.curve, reading.clip, names_digest(self.columns))
        first, judge = partial(first_weights, schema, told), partial(score, schema)
        if device is None or device == -1:
            rows = _drawn(np.arange(len(self._test)), test_limit, self._seed, "test")
            test = self._test.take(rows)
            judged = Records(test.raw, (test.y != self._normal).astype(np.int64), self.columns, ("normal", "attack"))
            here = judged if len(test) else None
            return TableTask(
                schema, None, here, first, judge, network=partial(table_networks.detector, schema, here, self.columns)
            )  # fmt: skip
        if not 0 <= device < len(self._parts):
            raise ConfigError(
                f"device_index = {device}; allowed: 0 to {len(self._parts) - 1}, or -1 for none", field="device_index"
            )
        rows = _drawn(self._parts[device], limit, self._seed, f"train {device}")
        held = round(held_share * len(rows))
        if not len(rows) - held:
            raise ConfigError(
                f"device {device} has {len(rows)} normal records, of which held_share = {held_share} leaves none to learn from",
                field="held_share",
            )
        order = stream(self._seed, "anomaly", "held", device).permutation(len(rows))
        kept, back = np.sort(rows[order[held:]]), np.sort(rows[order[:held]])
        return TableTask(schema, self._records(kept), None, first, judge, self._records(back) if held else None)

    def _records(self, rows: Indices) -> Records:
        return Records(self._train.raw[rows], np.zeros(0, dtype=np.int64), self.columns)


def first_weights(schema: Schema, reading: Reading, seed: int) -> FloatArray:
    """Means 0, widths 1, a random subspace, no threshold; (schema.size,) float32."""
    d, k = schema.tensors[2].shape
    basis, _ = np.linalg.qr(stream(seed, "anomaly", "subspace").standard_normal((d, k)))
    parts = {
        "mean": np.zeros(d), "width": np.ones(d), "subspace": basis, "threshold": np.array([NEVER]), "reading": reading.values()
    }  # fmt: skip
    return schema.flatten(parts)


def score(schema: Schema, weights: FloatArray, records: Records) -> dict[str, float]:
    """`core.anomaly.metrics` of flat weights on records whose y is 1 for attacks."""
    detector = Detector.of(schema, weights)
    detector.reading.check(records.features, "the test records")
    return metrics(detector.scores(records.x), records.y == 1, detector.threshold)


def _unlabelled(path: str | Path, numbers: Sequence[str] | None = None, delimiter: str = ",", sha256: str = "") -> Split:
    """A CSV file with a header in which every record is normal: what a device has. Nothing to test on."""
    known = Known((Path(path).name,), (), "your own file")
    content = read(require(path, known), known, verify=False)
    if sha256 and content.digest != f"sha256:{sha256}":
        raise ConfigError(f"{path}: the unpacked content has {content.digest}; data.sha256 says {sha256}", field="data")
    table = CsvTable(content.data, str(content.path), delimiter=delimiter)
    x, names = matrix(table, list(numbers) if numbers is not None else list(table.names), {})
    whole = Dataset(
        "table", x, np.zeros(len(x), np.int64), names, ("normal",), sources([content]), combined([content])
    )  # fmt: skip
    return Split(whole, whole.take(np.zeros(0, np.int64)))


def _drawn(rows: Indices, limit: int | None, seed: int, what: str) -> Indices:
    if limit is None or limit >= len(rows):
        return rows
    if limit < 1:
        raise ConfigError(f"limit = {limit}; at least 1 record, or leave it out", field="limit")
    return np.sort(stream(seed, "anomaly", "limit", what).permutation(rows)[:limit])
