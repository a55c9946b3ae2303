"""Anybody's own table: CSV or Parquet and a small schema.

options = { dataset = "table", path = "flows.csv", data = { label = "verdict", classes = ["good", "bad"],
            numbers = ["bytes", "seconds"], categories = { proto = ["tcp", "udp"] }, group = "site" } }
"""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgehold.client.data.columns import Cells, CsvTable, Table, codes, find, matrix, to_numbers, vocabulary
from edgehold.client.data.dataset import Dataset, Split
from edgehold.client.data.files import Content, Known, Version, combined, read, require, sources
from edgehold.core.errors import ConfigError

_PARQUET = b"PAR1"


def table(
    path: str | Path,
    *,
    label: str,
    seed: int = 0,
    verify: bool = True,
    classes: Sequence[str] = (),
    numbers: Sequence[str] | None = None,
    categories: Mapping[str, Sequence[str]] | None = None,
    group: str = "",
    missing: Sequence[str] = (),
    delimiter: str = ",",
    test_path: str | Path = "",
    test_share: float = 0.2,
    split: str = "random",
    sha256: str = "",
) -> Split:
    """A CSV file with a header (plain or .gz), or a Parquet file: raw (n, features) float32.

    label: its column; classes: every value it may have, in order, or () for a number to predict (y float32).
    numbers: number columns, None for all the others; categories: text column -> its values, [] for those in the file.
    Declare the values where every device has a file of its own, or their columns differ. group: column of natural clients.
    missing: cells that mean "not known"; each such number becomes the training mean and gets a column of 0 and 1.
    test_path: a second file to test on; otherwise `test_share` of the first, at random or its end (split = "time").
    sha256: what the unpacked file must have; without it the digest says "unverified".
    """
    origin = "your own file"
    files = []
    for place, digest in ((path, sha256), (test_path, "")):
        if str(place):
            known = Known((Path(place).name,), (Version("as configured", f"sha256:{digest}"),) if digest else (), origin)
            files.append(read(require(place, known), known, verify and bool(digest)))
    tables = [_open(content, delimiter) for content in files]
    given = categories or {}
    for name in (label, *([group] if group else []), *given, *(numbers or ())):
        find(tables[0], name)
    if label in given or label in (numbers or ()):
        raise ConfigError(f"label {label!r} is among the features too; a model would only copy it", field="label")
    texts = {name: tuple(values) or vocabulary(tables[0], name) for name, values in given.items()}
    if numbers is None:
        numbers = [name for name in tables[0].names if name not in (label, group, *texts)]
    declared = [name for name, values in given.items() if values]
    names = tuple(sorted({n for t in tables for n in vocabulary(t, group)})) if group else ()
    halves = []
    for one, content in zip(tables, files, strict=True):
        x, features = matrix(one, numbers, texts, missing, declared)
        if not features:
            raise ConfigError(f"{one.where}: no feature columns beside {label!r}", field="numbers")
        y = codes(one, label, classes) if classes else one.numbers(label).astype(np.float32)
        groups = codes(one, group, names) if group else None
        found, digest = sources([content]), combined([content])
        halves.append(Dataset("table", x, y, features, tuple(classes), found, digest, groups, names))
    both = Split(*halves) if len(halves) == 2 else Split.of(halves[0], test_share, seed, split)
    return both.filled()


class ParquetTable:
    """A Parquet file through pyarrow. A null is an empty cell."""

    def __init__(self, content: Content) -> None:
        try:
            parquet: Any = importlib.import_module("pyarrow.parquet")
            self._arrow: Any = importlib.import_module("pyarrow")
        except ModuleNotFoundError:
            raise ConfigError(
                f"{content.path}: Parquet files need pyarrow (the extra `edgehold[tables]`); or save it as CSV"
            ) from None
        self.where = str(content.path)
        try:
            self._table = parquet.read_table(self._arrow.BufferReader(content.data))
        except (self._arrow.ArrowException, OSError) as error:
            raise ConfigError(f"{content.path}: damaged Parquet file: {error}") from None
        self.names = tuple(self._table.column_names)
        self.rows = int(self._table.num_rows)
        if not self.rows:
            raise ConfigError(f"{self.where}: no record")

    def text(self, name: str) -> Cells:
        """See `Table`."""
        find(self, name)
        column = self._table.column(name)
        try:
            cells = column.cast("string").to_pylist()
        except self._arrow.ArrowException:
            raise ConfigError(f"{self.where}: column {name!r} is {column.type}; expected numbers or text", field=name) from None
        return np.array([b"" if cell is None else cell.strip().encode() for cell in cells])

    def numbers(self, name: str, missing: Sequence[str] = ()) -> NDArray[np.float64]:
        """See `Table`; without a detour over text where the column holds numbers."""
        find(self, name)
        column = self._table.column(name)
        kinds = self._arrow.types
        if not (kinds.is_integer(column.type) or kinds.is_floating(column.type)):
            return to_numbers(self.text(name), self.where, name, missing)
        values: NDArray[np.float64] = np.array(column.cast("float64", safe=False).to_numpy())
        empty = np.array(column.is_null().to_numpy())
        named = (empty & ("" in missing)) | (np.isnan(values) & ~empty & ("nan" in missing))
        bad = ~np.isfinite(values) & ~named
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            what = "is empty" if empty[row] else f"is {str(values[row])!r}"
            raise ConfigError(f"{self.where}: column {name!r}, row {row + 1} {what}; expected a finite number", field=name)
        return values


def _open(content: Content, delimiter: str) -> Table:
    if content.data[:4] == _PARQUET:
        return ParquetTable(content)
    return CsvTable(content.data, str(content.path), delimiter=delimiter)
