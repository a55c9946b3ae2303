"""A data set dealt to devices: loaded once, split by seed, one device's records at a time. No PyTorch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgehold.client.data import partition as ways
from edgehold.client.data.catalogue import DATASETS, load
from edgehold.client.data.dataset import Array, Dataset, Split
from edgehold.client.data.names import one_of
from edgehold.client.data.partition import Indices, Shares
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream

PARTITIONS = ("iid", "dirichlet", "quantity", "shards", "one-class", "groups")
_BY_LABEL = ("dirichlet", "shards", "one-class")


@dataclass(frozen=True, slots=True, eq=False)
class Deal:
    """parts: rows of `split.train` of each device. tests: rows of `split.test` of each device, where every one has its own."""

    split: Split
    parts: list[Indices]
    tests: list[Indices] | None
    seed: int

    @property
    def shares(self) -> Shares:
        """Records per device and class, before any limit."""
        return Shares.of(self.parts, class_labels(self.split.train), self.split.train.classes)

    def train(self, device: int, limit: int | None = None) -> Dataset:
        """Training records of one device, at most `limit` of them, drawn by seed."""
        if not 0 <= device < len(self.parts):
            raise ConfigError(
                f"device_index = {device}; allowed: 0 to {len(self.parts) - 1}, or -1 for none", field="device_index"
            )
        return self.split.train.take(_limited(self.parts[device], limit, self.seed, f"train {device}"))

    def test(self, device: int | None = None, limit: int | None = None) -> Dataset:
        """Test records of one device where it has its own, else all; at most `limit` of them, drawn by seed."""
        whole = np.arange(len(self.split.test))
        rows = whole if device is None or self.tests is None else self.tests[device]
        return self.split.test.take(_limited(rows, limit, self.seed, "test"))


def deal(
    dataset: str,
    path: str = "",
    *,
    devices: int = 1,
    partition: str = "iid",
    alpha: float = 1.0,
    shards: int = 2,
    min_records: int = 1,
    own_tests: bool = False,
    scale: str = "",
    seed: int = 0,
    verify: bool = True,
    data: Mapping[str, Any] | None = None,
    source: Callable[..., Split] = load,
) -> Deal:
    """Load `dataset` and divide its training records over `devices`; the same arguments give the same deal anywhere.

    scale: "none", "standard", "log" (heavy tails first), "" for what suits; means and deviations are those of the whole
    training part, which every process reads. source: called like `load`, by processes that keep what they have loaded.
    """
    one_of("partition", partition, PARTITIONS)
    split = source(dataset, path, seed, verify, data)
    scale = one_of("scale", scale or DATASETS[dataset].scale, ("none", "standard", "log"))
    if scale != "none":
        if split.train.raw.ndim != 2 or split.train.raw.dtype == np.int64:
            raise ConfigError(f'scale = "{scale}": {dataset} has no columns of numbers; use "none"', field="scale")
        split = split.standardised(log=scale == "log")
    train, labels, groups = split.train, class_labels(split.train), split.train.groups
    if partition in _BY_LABEL and labels is None:
        raise ConfigError(
            f'partition = "{partition}": {dataset} has no classes; use iid, quantity or groups', field="partition"
        )
    if partition == "groups" and groups is None:
        raise ConfigError(f'partition = "groups": {dataset} has no natural clients', field="partition")
    match partition:
        case "iid":
            parts = ways.iid(len(train), devices, seed, min_records)
        case "quantity":
            parts = ways.quantity(len(train), devices, alpha, seed, min_records)
        case "groups":
            parts = ways.by_group(_present(groups), devices, seed, min_records)
        case "dirichlet":
            parts = ways.dirichlet(_present(labels), devices, alpha, seed, min_records)
        case "shards":
            parts = ways.shards(_present(labels), devices, shards, seed, min_records)
        case _:
            parts = ways.one_class(_present(labels), devices, seed, min_records)
    tests = None
    if own_tests:
        kind = groups if partition == "groups" else labels
        other = split.test.groups if partition == "groups" else class_labels(split.test)
        kind = np.zeros(len(train), np.int64) if kind is None else kind
        other = np.zeros(len(split.test), np.int64) if other is None else other
        tests = ways.matching(parts, kind, other, seed)
    return Deal(split, parts, tests, seed)


def class_labels(dataset: Dataset) -> Array | None:
    """(records,) classes, or None for numbers to predict and for texts."""
    return dataset.y if dataset.classes and dataset.y.ndim == 1 else None


def _present(values: Array | None) -> Array:
    assert values is not None
    return values


def _limited(rows: Indices, limit: int | None, seed: int, what: str) -> Indices:
    if limit is None or limit >= len(rows):
        return rows
    if limit < 1:
        raise ConfigError(f"limit = {limit}; at least 1 record, or leave it out", field="limit")
    return np.sort(stream(seed, "limit", what).permutation(rows)[:limit])
