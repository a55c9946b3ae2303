"""What every loader returns: records, labels, natural clients, where they came from and what was read."""

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream

IntArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float32]
Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """x becomes (f(x) - shift) / width, with f(x) = sign(x) log(1 + |x|) where `log`, else x.

    shift, width: () or (features,) float32. Columns outside `log` stay linear; log: () or (features,) bool.
    """

    shift: FloatArray
    width: FloatArray
    log: NDArray[np.bool_]

    @classmethod
    def divide(cls, by: float) -> "Scaling":
        """The same divisor for every value."""
        return cls(np.float32(0) * np.ones((), np.float32), np.array(by, np.float32), np.array(False))

    @classmethod
    def fit(cls, x: Array, log: bool = False) -> "Scaling":
        """Mean 0 and variance 1 over the records of `x`, (records, features); columns of only 0 and 1 stay as they are.

        log: heavy-tailed counts and times go through f first.
        """
        flags = np.all((x == 0) | (x == 1), axis=0)
        curved = ~flags if log else np.zeros(len(flags), bool)
        shift, width = np.zeros(len(flags)), np.ones(len(flags))
        for column in np.flatnonzero(~flags):
            values = x[:, column].astype(np.float64)
            if curved[column]:
                values = np.sign(values) * np.log1p(np.abs(values))
            shift[column], width[column] = values.mean(), values.std() or 1.0
        return cls(shift.astype(np.float32), width.astype(np.float32), curved)

    def apply(self, raw: Array) -> FloatArray:
        """A fresh float32 array."""
        x = raw.astype(np.float32)
        if self.log.ndim:
            part = x[:, self.log]
            x[:, self.log] = np.sign(part) * np.log1p(np.abs(part))
        x -= self.shift
        x /= self.width
        return x


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Records of one task.

    raw: (n, ...) as stored, uint8 for pixels, else float32 or int64; `x` is what a model sees.
    y: (n,) int64 class, or float32 value where `classes` is empty, or (n, t) int64 next symbols.
    features: names of the columns of a two-dimensional `raw`, else empty. classes: name of each class; () for regression.
    groups: (n,) int64, index into `group_names` of the natural client a record belongs to, or None.
    source: files read. digest: of their unpacked content; starts with "unverified" when it was compared with nothing.
    """

    name: str
    raw: Array
    y: Array
    features: tuple[str, ...]
    classes: tuple[str, ...]
    source: str
    digest: str
    groups: IntArray | None = None
    group_names: tuple[str, ...] = ()
    scaling: Scaling | None = None

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def x(self) -> Array:
        """(n, ...) float32, or int64 for symbols; made anew at each call, so `take` first and look then."""
        if self.scaling is None:
            return self.raw if self.raw.dtype == np.int64 else self.raw.astype(np.float32)
        return self.scaling.apply(self.raw)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one record."""
        return self.raw.shape[1:]

    def take(self, rows: Array) -> "Dataset":
        """The records `rows`, in that order."""
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, raw=self.raw[rows], y=self.y[rows], groups=groups)

    def scaled(self, scaling: Scaling) -> "Dataset":
        """The same records seen through `scaling`."""
        return replace(self, scaling=scaling)

    def balance(self) -> IntArray:
        """Records of each class, (classes,)."""
        return np.bincount(self.y.reshape(-1), minlength=len(self.classes))


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Training and test records of one task; the same seed gives the same split in every process."""

    train: Dataset
    test: Dataset

    @classmethod
    def of(cls, whole: Dataset, share: float, seed: int, how: str = "random", units: Array | None = None) -> "Split":
        """`share` of the records held out for testing, for sets that come without a test part.

        how: "random" records, or the last ones in file order ("time"). units: (n,) records of one unit (a series, a
        person) stay together, and `share` counts units.
        """
        keys = np.arange(len(whole)) if units is None else np.unique(units, return_inverse=True)[1]
        count = int(keys.max()) + 1 if len(keys) else 0
        held = round(count * share)
        if not 0 < held < count:
            raise ConfigError(f"test_share = {share} of {count} leaves nothing to train on or nothing to test on")
        if how == "random":
            order = stream(seed, whole.name, "split").permutation(count)
        elif how == "time":
            order = np.arange(count)[::-1]
        else:
            raise ConfigError(f"split = {how!r}; allowed: random, time")
        if units is None:
            # In drawn order, not in file order: a test set cut short by a limit is then still a fair sample.
            test, train = (order[:held], order[held:]) if how == "random" else (np.sort(order[:held]), np.sort(order[held:]))
        else:
            chosen = np.isin(keys, order[:held])
            test, train = np.flatnonzero(chosen), np.flatnonzero(~chosen)
        return cls(whole.take(train), whole.take(test))

    def standardised(self, log: bool = False) -> "Split":
        """Both parts scaled by the training part's means and deviations."""
        scaling = Scaling.fit(self.train.raw, log)
        return Split(self.train.scaled(scaling), self.test.scaled(scaling))

    def filled(self) -> "Split":
        """NaN replaced by the training mean of its column; one more column of 0 and 1 for each column that had any."""
        gone = [np.isnan(part.raw) for part in (self.train, self.test)]
        columns = np.flatnonzero(gone[0].any(axis=0) | gone[1].any(axis=0))
        known = np.where(gone[0], 0, self.train.raw).sum(axis=0, dtype=np.float64)
        means = (known / np.maximum(1, (~gone[0]).sum(axis=0))).astype(np.float32)
        names = self.train.features + tuple(f"{self.train.features[c]} missing" for c in columns)

        def fill(part: Dataset, holes: Array) -> Dataset:
            raw = np.hstack([np.where(holes, means, part.raw), holes[:, columns].astype(np.float32)])
            return replace(part, raw=raw, features=names)

        return Split(fill(self.train, gone[0]), fill(self.test, gone[1]))
