"""Splitting records over devices: every record goes to exactly one device, and the same seed gives the same split."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream

Indices = NDArray[np.int64]


def iid(records: int, devices: int, seed: int = 0, min_records: int = 0) -> list[Indices]:
    """Shuffled records in parts whose sizes differ by at most one; one ascending index array per device."""
    _enough(records, devices, min_records)
    order = stream(seed, "partition", "iid").permutation(records)
    return [np.sort(part) for part in np.array_split(order, devices)]


def dirichlet(labels: NDArray[np.integer], devices: int, alpha: float, seed: int = 0, min_records: int = 1) -> list[Indices]:
    """Each class spread over the devices by shares drawn from Dirichlet(alpha); one ascending index array per device.

    labels: (records,); alpha: 100 is nearly alike, 1 uneven, 0.1 a class or two per device. Devices left with fewer than
    `min_records` get random ones from the largest. Source: Hsu et al. 2019, arXiv:1909.06335, section 3.
    """
    _enough(len(labels), devices, min_records)
    _positive("alpha", alpha)
    rng = stream(seed, "partition", "dirichlet")
    parts: list[list[int]] = [[] for _ in range(devices)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        for part, chunk in zip(parts, _shared(members, rng.dirichlet(np.full(devices, alpha))), strict=True):
            part.extend(chunk.tolist())
    return _topped_up(parts, min_records, rng)


def quantity(records: int, devices: int, alpha: float, seed: int = 0, min_records: int = 1) -> list[Indices]:
    """Shuffled records in parts whose sizes follow Dirichlet(alpha); labels are alike, amounts are not.

    Devices left with fewer than `min_records` get random ones from the largest.
    """
    _enough(records, devices, min_records)
    _positive("alpha", alpha)
    rng = stream(seed, "partition", "quantity")
    order = rng.permutation(records)
    chunks = _shared(order, rng.dirichlet(np.full(devices, alpha)))
    return _topped_up([chunk.tolist() for chunk in chunks], min_records, rng)


def shards(
    labels: NDArray[np.integer], devices: int, per_device: int = 2, seed: int = 0, min_records: int = 1
) -> list[Indices]:
    """Records sorted by label, cut into devices * per_device even pieces, `per_device` random pieces for each device.

    Source: McMahan et al. 2017, section 3. Records of one label are shuffled first. Pieces differ by at most one record.
    """
    if per_device < 1:
        raise ConfigError(f"shards = {per_device}; at least 1 per device", field="shards")
    _enough(len(labels), devices, max(per_device, min_records))
    rng = stream(seed, "partition", "shards")
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    pieces = np.array_split(order, devices * per_device)
    dealt = rng.permutation(devices * per_device).reshape(devices, per_device)
    return _at_least([np.sort(np.concatenate([pieces[p] for p in mine])) for mine in dealt], min_records)


def one_class(labels: NDArray[np.integer], devices: int, seed: int = 0, min_records: int = 1) -> list[Indices]:
    """Device i holds records of one class only, the one at place i modulo classes; devices of a class share it evenly."""
    present = np.unique(labels)
    if devices < len(present):
        raise ConfigError(
            f"devices = {devices} for {len(present)} classes, one class each; use at least {len(present)} devices"
        )
    _enough(len(labels), devices, min_records)
    rng = stream(seed, "partition", "one_class")
    parts: list[Indices] = [np.empty(0, np.int64)] * devices
    for place, label in enumerate(present):
        holders = range(place, devices, len(present))
        members = rng.permutation(np.flatnonzero(labels == label))
        for device, part in zip(holders, np.array_split(members, len(holders)), strict=True):
            parts[device] = np.sort(part)
    return _at_least(parts, min_records)


def by_group(groups: NDArray[np.integer], devices: int, seed: int = 0, min_records: int = 1) -> list[Indices]:
    """Natural clients: all records of a group go to one device, the groups dealt to the devices in turn, in drawn order.

    With as many devices as groups every device is one natural client, device i the i-th group.
    """
    present = np.unique(groups)
    if devices > len(present):
        raise ConfigError(
            f"devices = {devices}; the data has {len(present)} natural clients, so at most {len(present)} devices"
        )
    _enough(len(groups), devices, min_records)
    order = present if devices == len(present) else stream(seed, "partition", "groups").permutation(present)
    return _at_least([np.flatnonzero(np.isin(groups, order[device::devices])) for device in range(devices)], min_records)


def matching(
    parts: Sequence[Indices], labels: NDArray[np.integer], others: NDArray[np.integer], seed: int = 0
) -> list[Indices]:
    """Other records (a test set) dealt so that each device gets its own share of every class; each goes to one device.

    A device's share of a class is its share of that class in `parts`; a class no device has is dealt evenly.
    """
    held = histogram(parts, labels, int(max(labels.max(initial=-1), others.max(initial=-1))) + 1).astype(float)
    rng = stream(seed, "partition", "matching")
    found: list[list[int]] = [[] for _ in parts]
    for label in np.unique(others):
        members = rng.permutation(np.flatnonzero(others == label))
        total = held[:, label].sum()
        shares = held[:, label] / total if total else np.full(len(parts), 1 / len(parts))
        for part, chunk in zip(found, _shared(members, shares), strict=True):
            part.extend(chunk.tolist())
    return [np.sort(np.array(part, dtype=np.int64)) for part in found]


def histogram(parts: Sequence[Indices], labels: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """Records per device and class, (devices, classes)."""
    return np.array([np.bincount(labels[part], minlength=classes) for part in parts])


@dataclass(frozen=True, slots=True)
class Shares:
    """Who got what. sizes: (devices,); counts: (devices, classes) or None where labels are no classes."""

    sizes: NDArray[np.int64]
    counts: NDArray[np.int64] | None
    classes: tuple[str, ...]

    @classmethod
    def of(cls, parts: Sequence[Indices], labels: NDArray[np.integer] | None, classes: Sequence[str]) -> "Shares":
        """Of a partition; labels: None for regression and text."""
        counts = None if labels is None else histogram(parts, labels, len(classes))
        return cls(np.array([len(part) for part in parts], dtype=np.int64), counts, tuple(classes))

    def text(self, most: int = 40) -> str:
        """A table of one line per device, at most `most` of them, then the sums."""
        names = [name[:10] for name in self.classes] if self.counts is not None else []
        body = np.column_stack([self.sizes, self.counts]) if self.counts is not None else self.sizes[:, None]
        heads = ["device", "records", *names]
        lines = [[str(device), *map(str, row)] for device, row in enumerate(body[:most])]
        if len(body) > most:
            lines.append(["...", *[""] * body.shape[1]])
        lines.append(["all", *map(str, body.sum(axis=0))])
        widths = [max(len(line[at]) for line in [heads, *lines]) for at in range(len(heads))]
        return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in [heads, *lines])


def _shared(members: Indices, shares: NDArray[np.float64]) -> list[Indices]:
    """Consecutive pieces of `members` in proportion to `shares`, which add to 1."""
    ends = np.rint(np.cumsum(shares) * len(members)).astype(int)
    return np.split(members, ends[:-1])


def _topped_up(parts: list[list[int]], min_records: int, rng: np.random.Generator) -> list[Indices]:
    for part in parts:
        while len(part) < min_records:
            largest = max(parts, key=len)
            part.append(largest.pop(int(rng.integers(len(largest)))))
    return [np.sort(np.array(part, dtype=np.int64)) for part in parts]


def _at_least(parts: list[Indices], min_records: int) -> list[Indices]:
    """For splits whose point would be lost by moving records about."""
    small = min(range(len(parts)), key=lambda device: len(parts[device]))
    if len(parts[small]) < min_records:
        raise ConfigError(
            f"device {small} gets {len(parts[small])} records; min_records = {min_records}. Use fewer devices or a smaller "
            "min_records",
            field="min_records",
        )
    return parts


def _positive(name: str, value: float) -> None:
    if not 0 < value < np.inf:
        raise ConfigError(f"{name} = {value}; it must be above 0", field=name)


def _enough(records: int, devices: int, each: int) -> None:
    if devices < 1 or records < devices * each:
        raise ConfigError(f"{records} records cannot give {devices} devices {each} each; use fewer devices", field="devices")
