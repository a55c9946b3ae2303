"""Splitting records over devices: every record goes to exactly one device, and the same seed gives the same split."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream

Indices = NDArray[np.int64]


def iid(records: int, devices: int, seed: int = 0) -> list[Indices]:
    """Shuffled records in parts whose sizes differ by at most one; one ascending index array per device."""
    _enough(records, devices, 0)
    order = stream(seed, "partition", "iid").permutation(records)
    return [np.sort(part) for part in np.array_split(order, devices)]


def dirichlet(labels: NDArray[np.integer], devices: int, alpha: float, seed: int = 0, min_records: int = 1) -> list[Indices]:
    """Each class spread over the devices by shares drawn from Dirichlet(alpha); one ascending index array per device.

    labels: (records,); alpha: 100 is nearly alike, 1 uneven, 0.1 a class or two per device. Devices left with fewer than
    `min_records` get random ones from the largest. Source: Hsu et al. 2019, arXiv:1909.06335, section 3.
    """
    _enough(len(labels), devices, min_records)
    if not alpha > 0:
        raise ConfigError(f"alpha = {alpha}; it must be above 0")
    rng = stream(seed, "partition", "dirichlet")
    parts: list[list[int]] = [[] for _ in range(devices)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        ends = np.rint(np.cumsum(rng.dirichlet(np.full(devices, alpha))) * len(members)).astype(int)
        ends[-1] = len(members)
        for part, chunk in zip(parts, np.split(members, ends[:-1]), strict=True):
            part.extend(chunk.tolist())
    for part in parts:
        while len(part) < min_records:
            largest = max(parts, key=len)
            part.append(largest.pop(int(rng.integers(len(largest)))))
    return [np.sort(np.array(part, dtype=np.int64)) for part in parts]


def histogram(parts: Sequence[Indices], labels: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """Records per device and class, (devices, classes)."""
    return np.array([np.bincount(labels[part], minlength=classes) for part in parts])


def _enough(records: int, devices: int, each: int) -> None:
    if devices < 1 or records < devices * each:
        raise ConfigError(f"{records} records cannot give {devices} devices {each} each; use fewer devices")
